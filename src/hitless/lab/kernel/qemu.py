"""QEMU with Debian's own kernel: slower than User Mode Linux where KVM does not work, but with everything in it.

For what User Mode Linux lacks: several CPUs, conntrack zones (which Open vSwitch's kernel datapath needs), a second
kernel version. The host's tree is shared over 9p, read-only; from there on init.sh does what it does everywhere.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from hitless.lab.kernel import image, initramfs, leash
from hitless.lab.kernel.exchange import Exchange
from hitless.lab.kernel.face import TIMED_OUT, LabError

_EXECUTABLE: Final = "qemu-system-x86_64"
_PACKAGES: Final = {
    _EXECUTABLE: "qemu-system-x86",
    "busybox": "busybox-static",
    "modprobe": "kmod",
    "depmod": "kmod",
    "ip": "iproute2",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}
_SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_KVM: Final = ("-accel", "kvm", "-cpu", "max")
_EMULATION: Final = ("-accel", "tcg,thread=multi", "-cpu", "max")
_PROBE_SECONDS: Final = 10.0  # with KVM a kernel boots in one


def missing_packages() -> tuple[str, ...]:
    """Debian packages that this kernel needs and this machine lacks. The kernel itself is downloaded on first use."""
    missing = {name for program, name in _PACKAGES.items() if shutil.which(program, path=_SEARCH_PATH) is None}
    return tuple(sorted(missing))


class QemuKernel:
    """A new virtual machine for every run; KVM where it works, emulation elsewhere."""

    name: Final = "qemu"

    def __init__(self, *, memory_mib: int = 2048, cpus: int = 2, cache: Path | None = None) -> None:
        self._memory_mib = memory_mib
        self._cpus = cpus
        self._cache = cache or image.cache_directory()
        self._release: str | None = None

    def run(
        self, argv: Sequence[str], *, results: Path, env: Mapping[str, str], timeout_seconds: float
    ) -> int:
        kernel = image.fetch(self._cache)  # not part of the time limit: it happens once per machine
        busybox = shutil.which("busybox", path=_SEARCH_PATH)
        if busybox is None:
            raise LabError("kernel-missing", "QEMU's guest starts from busybox: apt-get install busybox-static")
        until_seconds = time.monotonic() + timeout_seconds
        with Exchange(results) as exchange:
            exchange.write(argv, env, modules=kernel.modules, kind="9p", name=self.name)
            start = exchange.directory / "initramfs"
            start.write_bytes(initramfs.build(kernel, Path(busybox)))
            with exchange.console.open("wb") as console:
                process = leash.start(
                    self._command_line(kernel, start, exchange), namespaces=[], output=console, errors=console
                )
                ended = leash.follow(process, until_seconds=until_seconds, pump=exchange.pump)
            start.unlink()
            self._release = exchange.release() or self._release
            return TIMED_OUT if ended == TIMED_OUT else exchange.status()

    def describe(self) -> str:
        if self._release is not None:
            release, cpus = self._release.split()
            return f"Linux {release} (QEMU, {cpus} CPUs)"
        kernel = image.find(self._cache)
        return f"Linux {kernel.release if kernel else '(not downloaded yet)'} (QEMU, {self._cpus} CPUs)"

    def _command_line(self, kernel: image.Image, start: Path, exchange: Exchange) -> list[str]:
        return [
            *_machine(kernel, start, f'hitless_exchange="{exchange.directory}"'),
            *_accelerator(kernel, start), "-smp", str(self._cpus), "-m", f"{self._memory_mib}M",
            *_share("root", Path("/"), writable=False),
            *_share("results", exchange.results, writable=True),
        ]  # fmt: skip


def _machine(kernel: image.Image, start: Path, append: str) -> list[str]:
    """What every start of QEMU needs: no hardware but a processor, memory, a serial line, and what to boot."""
    return [
        _EXECUTABLE, "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio", "-machine", "q35",
        "-kernel", str(kernel.kernel), "-initrd", str(start),
        # -no-reboot turns the reboot after a panic into an end
        "-append", f"console=ttyS0 quiet panic=-1 mitigations=off {append}",
    ]  # fmt: skip


def _accelerator(kernel: image.Image, start: Path) -> tuple[str, ...]:
    """KVM if this very kernel boots with it and powers off at once; else emulation.

    /dev/kvm proves nothing: inside another virtual machine it may refuse registers, or stand still.
    """
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        with Path(os.devnull).open("wb") as nowhere:
            until_seconds = time.monotonic() + _PROBE_SECONDS
            probe = leash.start([*_machine(kernel, start, ""), *_KVM], namespaces=[], output=nowhere, errors=nowhere)
            if leash.follow(probe, until_seconds=until_seconds, pump=lambda: None) == 0:
                return _KVM
    return _EMULATION


def _share(tag: str, path: Path, *, writable: bool) -> list[str]:
    """A directory of the host as a 9p file system. `remap`: inode numbers of several host file systems may collide."""
    mode = "" if writable else ",readonly=on"
    return [
        "-fsdev", f"local,id={tag},path={path},security_model=none,multidevs=remap{mode}",
        "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}",
    ]  # fmt: skip
