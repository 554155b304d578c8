"""A Debian kernel for a virtual machine: downloaded, unpacked into a cache, never installed.

`apt-get download` checks signatures as for any package. Of the package's 400 MB only the parts a network lab can use
are unpacked: the rest are drivers for hardware that no virtual machine has.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from hitless.lab.kernel.face import LabError

_META_PACKAGE: Final = "linux-image-amd64"  # the cloud flavour lacks 9p
_PARTS: Final = (
    "./boot/vmlinuz-*",
    "./lib/modules/*/modules.*",
    *(f"./lib/modules/*/kernel/{part}" for part in ("arch", "crypto", "fs/9p", "fs/fscache", "fs/fuse", "fs/netfs")),
    *(f"./lib/modules/*/kernel/{part}" for part in ("fs/overlayfs", "lib", "mm", "net", "drivers/virtio")),
    *(f"./lib/modules/*/kernel/drivers/{part}" for part in ("net/*.ko*", "net/bonding", "net/vxlan", "net/wireguard")),
)
_DOWNLOAD_SECONDS: Final = 600.0  # 70 MB over a slow line


class Image(msgspec.Struct, frozen=True):
    """An unpacked kernel. `root` holds boot/vmlinuz-RELEASE and lib/modules/RELEASE."""

    root: Path
    release: str

    @property
    def kernel(self) -> Path:
        """The compressed kernel that QEMU boots."""
        return self.root / "boot" / f"vmlinuz-{self.release}"

    @property
    def modules(self) -> Path:
        """The directory that holds RELEASE/, as /lib/modules does."""
        return self.root / "lib" / "modules"


def cache_directory() -> Path:
    """Where kernels are kept between runs: below $XDG_CACHE_HOME, or ~/.cache (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "hitless" / "kernels"


def find(cache: Path) -> Image | None:
    """The newest kernel in the cache, if there is one."""
    roots = sorted(cache.glob("linux-image-*"), key=lambda path: path.stat().st_mtime) if cache.is_dir() else []
    return _image(roots[-1]) if roots else None


def fetch(cache: Path) -> Image:
    """The cached kernel, downloaded first if there is none. Raises LabError `kernel-download-failed`."""
    if (image := find(cache)) is not None:
        return image
    cache.mkdir(parents=True, exist_ok=True)
    package = _package_name()
    with tempfile.TemporaryDirectory(prefix="new-", dir=cache) as scratch:
        _run(["apt-get", "download", "-q", package], Path(scratch))
        archive = next(Path(scratch).glob("*.deb"))
        root = Path(scratch) / "root"
        root.mkdir()
        _unpack(archive, root)
        image = _image(root)
        _run(["depmod", "--basedir", str(root), image.release], Path(scratch))  # the package leaves this to its set-up
        final = cache / package
        if not final.exists():  # somebody else may have been faster
            root.rename(final)
    return _image(final)


def _package_name() -> str:
    """The package behind the meta package, e.g. `linux-image-6.1.0-40-amd64`."""
    for line in _run(["apt-cache", "depends", _META_PACKAGE], Path("/")).splitlines():
        kind, _, name = line.strip().partition(": ")
        if kind == "Depends" and name.startswith("linux-image-"):
            return name
    raise LabError(
        "kernel-download-failed",
        f"apt knows no package behind {_META_PACKAGE}. Run `apt-get update`, or use User Mode Linux: "
        "apt-get install user-mode-linux",
    )


def _unpack(archive: Path, root: Path) -> None:
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as tar:
        _run(
            ["tar", "-x", "--wildcards", "--no-wildcards-match-slash", "-C", str(root), *_PARTS],
            root,
            source=tar,
            tolerated="Not found in archive",  # newer kernels have some parts built in
        )


def _image(root: Path) -> Image:
    return Image(root=root, release=next((root / "lib" / "modules").iterdir()).name)


def _run(
    argv: Sequence[str], directory: Path, *, source: subprocess.Popen[bytes] | None = None, tolerated: str = ""
) -> str:
    try:
        done = subprocess.run(
            argv,
            cwd=directory,
            stdin=source.stdout if source else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_DOWNLOAD_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _failed(argv, str(error)) from None
    if done.returncode != 0 and not (tolerated and tolerated in done.stderr):
        raise _failed(argv, done.stderr.strip() or f"exit status {done.returncode}")
    return done.stdout


def _failed(argv: Sequence[str], reason: str) -> LabError:
    return LabError(
        "kernel-download-failed",
        f"no kernel for the virtual machine: `{' '.join(argv[:3])}` failed: {reason}. Check the network and run "
        "`apt-get update`, or use User Mode Linux: apt-get install user-mode-linux",
    )
