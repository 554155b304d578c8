"""The kernel this machine runs, behind the same face: no guest, only namespaces.

Everything the command could leave behind (interfaces, security associations, mounts, processes) belongs to a
namespace that ends with it. Files are not isolated: the command writes to the real file system.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from hitless.lab.kernel import leash
from hitless.lab.kernel.exchange import Exchange, command_text
from hitless.lab.kernel.face import LabError

# A fresh sysfs shows the new network namespace's interfaces. `ip netns` binds namespaces below /run/netns, and other
# programs read that directory, so a private one goes over it.
_START: Final = """
mount -t sysfs sysfs /sys 2>/dev/null
mkdir -p /run/netns 2>/dev/null
mount -t tmpfs -o mode=755 tmpfs /run/netns 2>/dev/null
ip link set lo up
sh "$0"
exit $?
"""
_PROBE_SECONDS: Final = 10.0
# A key of zeroes protects nothing; it asks the kernel for ESP and the cipher. Through a file, as keys always go.
_PROBE: Final = (
    "xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1000 reqid 1 mode tunnel "
    f"aead rfc4106(gcm(aes)) 0x{'00' * 20} 128\n"
)


def esp_works() -> bool:
    """Whether this machine's kernel takes an ESP security association: one is added in a throw-away namespace."""
    try:
        probe = subprocess.run(
            ["unshare", *leash.become_root(), "--net", "--", "ip", "-batch", "-"],
            input=_PROBE.encode("ascii"),
            capture_output=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return probe.returncode == 0


class HostKernel:
    """This machine's own kernel in new network, mount, pid and UTS namespaces."""

    name: Final = "host"

    def run(
        self, argv: Sequence[str], *, results: Path, env: Mapping[str, str], timeout_seconds: float
    ) -> int:
        until_seconds = time.monotonic() + timeout_seconds
        text = command_text(argv, env)
        with Exchange(results) as exchange:
            command = exchange.directory / "command.sh"
            command.touch(mode=0o600)
            command.write_text(text, encoding="utf-8", errors="surrogateescape")
            exchange.console.write_bytes(b"")
            sys.stdout.flush()
            process = leash.start(
                ["sh", "-c", _START, str(command)],
                namespaces=["--net", "--mount", "--uts", "--mount-proc"],
                output=None,
                errors=None,
            )
            ended = leash.follow(process, until_seconds=until_seconds, pump=lambda: None)
        if ended < 0:
            raise LabError(
                "guest-died",
                f"the namespaces of the run ended by signal {-ended}: something outside this program killed them. "
                "Run it again; if it persists, look for a supervisor or the kernel's out-of-memory killer (dmesg).",
            )
        return ended

    def describe(self) -> str:
        return f"Linux {os.uname().release} (this machine's, {os.cpu_count()} CPUs)"
