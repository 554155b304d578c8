"""What host and guest say to each other: a handful of files in `results/.guest`, seen by both.

Files instead of a console because a console is a terminal: it rewrites line ends, mixes output with errors and with
what the kernel itself has to say. The guest writes `stdout` and `stderr`; the host copies on what has appeared since
it last looked, so the bytes arrive live and unchanged. See init.sh for the guest's half.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Final, Literal, Self

from hitless.lab.kernel.face import LabError

_DIRECTORY: Final = ".guest"
_CHUNK_BYTES: Final = 1 << 16
_COVERED: Final = ("/dev", "/proc", "/run", "/sys", "/tmp")  # noqa: S108 - what the guest replaces by its own
_PRELOAD: Final = (
    "af_packet", "xfrm_user", "esp4", "esp6", "xfrm4_tunnel", "xfrm6_tunnel", "xfrm_interface",
    "seqiv", "echainiv", "gcm", "ccm", "ctr", "chacha20poly1305", "authenc", "authencesn", "cbc", "hmac",
    "veth", "dummy", "sch_netem",
)  # fmt: skip
"""Modules loaded before the command runs. What a kernel has built in or lacks is passed over silently."""


def command_text(argv: Sequence[str], env: Mapping[str, str]) -> str:
    """A shell line that runs exactly this command with exactly this environment. Raises ValueError for NUL bytes."""
    words = ["exec", "env", "-i", *(f"{name}={value}" for name, value in environment(env).items()), *argv]
    if not argv or any("\0" in word for word in words):
        raise ValueError("a command needs at least one word, and no word may hold a NUL byte")
    if any(not name or "=" in name for name in env):
        raise ValueError("the name of an environment variable is not empty and holds no '='")
    return shlex.join(words) + "\n"


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """The environment every kernel gives to its command: a few fixed values, then the caller's."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/tmp",  # noqa: S108 - inside, /tmp is the command's own and the one place sure to be writable
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        **env,
    }


class Exchange:
    """One run's conversation. A context manager: it holds the directory against a second run at the same time."""

    def __init__(self, results: Path) -> None:
        self.results = Path(os.path.abspath(results))  # noqa: PTH100 - resolve() would follow links, cwd-relative only
        self.directory = self.results / _DIRECTORY
        if any(character in str(self.results) for character in '",\n\\'):
            raise LabError(
                "results-path-unusable",
                f"the results directory {str(self.results)!r} cannot be passed to a kernel: its path holds a quote, a "
                "comma, a backslash or a line break. Choose another directory.",
            )
        try:
            self.results.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.results, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise LabError(
                "results-path-unusable",
                f"cannot use {self.results} as results directory: {error.strerror}. Choose one that you may write to.",
            ) from None
        self._seen = {"stdout": 0, "stderr": 0}

    def __enter__(self) -> Self:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise LabError(
                "results-in-use",
                f"another run is writing to {self.results}. Wait for it to end or choose another directory.",
            ) from None
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(mode=0o700)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    @property
    def console(self) -> Path:
        """Where the kernel's own noise goes."""
        return self.results / "console.log"

    def write(
        self, argv: Sequence[str], env: Mapping[str, str], *, modules: Path, kind: Literal["hostfs", "9p"], name: str
    ) -> None:
        """Leave the command and all that init.sh needs to know. `modules`: the directory holding RELEASE/."""
        keep = _kept_paths()
        values = {
            "results": str(self.results), "cwd": str(Path.cwd()), "modules": str(modules), "kind": kind,
            "preload": " ".join(_PRELOAD), "hostname": f"hitless-{name}", "keeps": str(len(keep)),
            **{f"keep_{number}": path for number, path in enumerate(keep, 1)},
        }  # fmt: skip
        lines = [f"{key}={shlex.quote(value)}\n" for key, value in values.items()]
        (self.directory / "parameters.sh").write_text("".join(lines), encoding="utf-8")
        command = self.directory / "command.sh"
        command.touch(mode=0o600)  # the environment may hold what is nobody else's business
        command.write_text(command_text(argv, env), encoding="utf-8", errors="surrogateescape")
        script = resources.files("hitless.lab.kernel").joinpath("init.sh").read_bytes()
        (self.directory / "init.sh").write_bytes(script)

    def pump(self) -> None:
        """Copy what the command has said since the last call to our own standard output and error."""
        for stream, target in (("stdout", 1), ("stderr", 2)):
            try:
                source = os.open(self.directory / stream, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                while chunk := os.pread(source, _CHUNK_BYTES, self._seen[stream]):
                    self._seen[stream] += len(chunk)
                    _write_all(target, chunk)
            finally:
                os.close(source)

    def release(self) -> str | None:
        """The guest's kernel release and CPU count, e.g. `6.1.176 1`; None before its first words."""
        return _read(self.directory / "uname")

    def status(self) -> int:
        """The command's exit status. Raises LabError `guest-died` if none came back."""
        text = _read(self.directory / "exit-status")
        if text is not None and text.isdecimal():
            return int(text)
        tail = (_read(self.console) or "").splitlines()[-5:]
        raise LabError(
            "guest-died",
            "the guest kernel ended without an exit status of the command; its last words were:\n"
            + "".join(f"    {line}\n" for line in tail)
            + f"Read {self.console} for the rest. Common causes: too little memory, or a file system it cannot read.",
        )


def _kept_paths() -> tuple[str, ...]:
    """Directories the command needs that lie where the guest puts empty ones of its own."""
    source = Path(__file__).resolve().parents[3]  # the directory that holds `hitless/`
    wanted = (Path.cwd(), Path(sys.prefix), Path(sys.base_prefix), source)
    return tuple(sorted({str(path) for path in wanted if any(path.is_relative_to(place) for place in _COVERED)}))


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return None


def _write_all(target: int, data: bytes) -> None:
    while data:
        data = data[os.write(target, data) :]
