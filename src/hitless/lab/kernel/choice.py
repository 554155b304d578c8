"""Which kernel to use, decided by trying and not by reading a configuration."""

from __future__ import annotations

import shutil
from typing import Final, Literal

from hitless.lab.kernel import qemu, uml
from hitless.lab.kernel.face import Kernel, LabError
from hitless.lab.kernel.host import HostKernel, esp_works
from hitless.lab.kernel.qemu import QemuKernel
from hitless.lab.kernel.uml import UmlKernel

Preference = Literal["auto", "host", "uml", "qemu"]

_TOOLS: Final = {"unshare": "util-linux", "setpriv": "util-linux", "ip": "iproute2", "modprobe": "kmod"}
_NAMES: Final = ("auto", "host", "uml", "qemu")


def choose(preference: Preference = "auto") -> Kernel:
    """The kernel to run on. `auto`: the host's if it has ESP, else User Mode Linux, else QEMU.

    Raises LabError: `kernel-unknown` (no such preference), `kernel-missing` (it cannot run here; the message names
    the packages), `kernel-without-esp` (the host's own kernel was asked for and has no ESP).
    """
    if preference not in _NAMES:
        raise LabError("kernel-unknown", f"there is no kernel {preference!r}; choose one of {', '.join(_NAMES)}.")
    if preference == "host" or (preference == "auto" and esp_works()):
        return _host(probed=preference == "auto")
    if preference == "uml" or (preference == "auto" and uml.installed()):
        _require("User Mode Linux", missing_for_uml())
        return UmlKernel()
    if preference == "qemu" or not qemu.missing_packages():
        _require("QEMU", qemu.missing_packages())
        return QemuKernel()
    raise LabError(
        "kernel-missing",
        "this machine's kernel takes no ESP security association, and no other kernel is installed. "
        f"Install one: apt-get install {' '.join(missing())}",
    )


def missing() -> tuple[str, ...]:
    """Debian packages that the preferred kernel needs and this machine lacks; empty where nothing is to be done."""
    if not _missing_tools(("unshare", "setpriv", "ip")) and esp_works():
        return ()
    return missing_for_uml()


def missing_for_uml() -> tuple[str, ...]:
    """Debian packages that User Mode Linux needs and this machine lacks."""
    kernel = () if uml.installed() else ("user-mode-linux",)
    return tuple(sorted({*kernel, *_missing_tools(tuple(_TOOLS))}))


def _host(*, probed: bool) -> Kernel:
    if not probed and not esp_works():
        raise LabError(
            "kernel-without-esp",
            "this machine's kernel refused an ESP security association (no esp4 module, no rfc4106(gcm(aes)), or no "
            f"right to create a network namespace). Use `auto` or `uml`{_install_hint(missing_for_uml())}.",
        )
    return HostKernel()


def _install_hint(packages: tuple[str, ...]) -> str:
    return f", after apt-get install {' '.join(packages)}" if packages else ""


def _require(kernel: str, packages: tuple[str, ...]) -> None:
    if packages:
        raise LabError(
            "kernel-missing",
            f"{kernel} cannot run on this machine yet. Install it: apt-get install {' '.join(packages)}",
        )


def _missing_tools(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({_TOOLS[name] for name in names if shutil.which(name, path=_SEARCH_PATH) is None}))


_SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
