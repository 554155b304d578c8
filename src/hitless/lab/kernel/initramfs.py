"""The few files a virtual machine starts from: busybox, the modules that reach the host's files, one script.

The archive is built here in cpio's "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst in the
kernel's tree), which is a header of hexadecimal numbers per file, rather than by a tool that may not be installed.
"""

from __future__ import annotations

import lzma
import subprocess
from pathlib import Path
from typing import Final

from hitless.lab.kernel.face import LabError
from hitless.lab.kernel.image import Image

_MODULES: Final = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
_FILE: Final = 0o100755
_DIRECTORY: Final = 0o040755

_INIT: Final = b"""#!/bin/busybox sh
# Reach the host's files, then go on with init.sh from there. `hitless_exchange` comes from the kernel's command line.
# Without it there is nothing to do but to show that this kernel boots.
[ -n "$hitless_exchange" ] || /bin/busybox poweroff -f
for module in /modules/*; do /bin/busybox insmod "$module"; done
/bin/busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=524288,access=any root /root &&
    exec /bin/busybox switch_root /root /bin/sh "$hitless_exchange/init.sh"
echo "hitless-guest: cannot mount the host's files"
/bin/busybox poweroff -f
"""


def build(image: Image, busybox: Path) -> bytes:
    """The archive for a kernel. `busybox` must be statically linked. Raises LabError `kernel-incomplete`."""
    directories = ("bin", "modules", "root", "dev", "proc")
    files: list[tuple[str, int, bytes]] = [(name, _DIRECTORY, b"") for name in directories]
    files.append(("bin/busybox", _FILE, busybox.read_bytes()))
    files.append(("init", _FILE, _INIT))
    for number, module in enumerate(_needed(image)):
        data = module.read_bytes()
        name = module.name.removesuffix(".xz")
        files.append((f"modules/{number:02}-{name}", _FILE, lzma.decompress(data) if module.suffix == ".xz" else data))
    entries = [_entry(number, *file) for number, file in enumerate(files, 1)]
    return b"".join(entries) + _entry(0, "TRAILER!!!", 0, b"")


def _needed(image: Image) -> tuple[Path, ...]:
    """Files of the modules and of all they depend on, in loading order; what is built in is left out by modprobe."""
    done = subprocess.run(
        ["modprobe", "--dirname", str(image.root), "--set-version", image.release, "--show-depends", "-a", *_MODULES],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LabError(
            "kernel-incomplete",
            f"the kernel in {image.root} lacks modules that the lab needs: {done.stderr.strip()}. "
            "Remove that directory; the next run downloads it again.",
        )
    paths = [line.removeprefix("insmod ").strip() for line in done.stdout.splitlines() if line.startswith("insmod ")]
    return tuple(Path(path) for path in dict.fromkeys(paths))


def _entry(number: int, name: str, mode: int, data: bytes) -> bytes:
    encoded = name.encode("ascii") + b"\0"
    # magic, then: inode, mode, uid, gid, links, mtime, size, device (2), rdevice (2), length of the name, checksum
    numbers = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08x" % value for value in numbers)
    return _padded(header + encoded) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
