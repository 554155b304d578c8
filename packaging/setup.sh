#!/usr/bin/env bash
# Install what this machine lacks: Debian packages for the lab, and the project's virtual environment in .venv.
# Safe to repeat: what is there is left alone. Says what it does. With `test` also what only the tests need: a second
# guest kernel (QEMU), a real etcd, and the model checker SPIN with the C compiler that it needs.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin # where daemons are, also for a user whose PATH does not say so

say() { printf 'setup: %s\n' "$*"; }
as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }

# command -> the Debian package that has it
declare -A needs=([ip]=iproute2 [tc]=iproute2 [unshare]=util-linux [modprobe]=kmod
    [ovs-vswitchd]=openvswitch-switch)
if [ "${1:-}" = test ]; then
    needs+=([qemu-system-x86_64]=qemu-system-x86 [busybox]=busybox-static [etcd]=etcd-server [etcdctl]=etcd-client)
    needs+=([spin]=spin [gcc]=gcc)
fi
python=${PYTHON:-python3}
if ! command -v "$python" >/dev/null || ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    say "Python 3.11 or newer is needed; set PYTHON to one" >&2
    exit 1
fi

packages=()
for command in "${!needs[@]}"; do
    command -v "$command" >/dev/null || packages+=("${needs[$command]}")
done
# SPIN's checkers include the C library's headers, which gcc alone does not bring.
[ "${1:-}" != test ] || [ -e /usr/include/stdlib.h ] || packages+=(libc6-dev)
"$python" -c 'import ensurepip' 2>/dev/null || packages+=(python3-venv)
# The lab brings its own kernel where the host's has no ESP (which only a real attempt can tell; see docs/guide/lab.md).
command -v linux.uml >/dev/null || packages+=(user-mode-linux)
if [ ${#packages[@]} -gt 0 ]; then
    mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)
    say "installing Debian packages: ${packages[*]}"
    as_root apt-get update -qq
    # Packages with a service (etcd-server) would start it; here only the program is wanted (policy-rc.d, invoke-rc.d(8)).
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod +x "$policy"
        trap 'as_root rm -f "$policy"' EXIT
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi

stamp=.venv/.installed-$(sha256sum requirements.lock pyproject.toml | sha256sum | cut -c1-16)
if [ ! -e "$stamp" ]; then
    say "installing the locked Python packages into .venv"
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    .venv/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock
    .venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
    rm -f .venv/.installed-*
    touch "$stamp"
fi
