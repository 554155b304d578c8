"""Open vSwitch's tools as subprocesses, and its management socket, with errors in sentences.

Targets are full socket paths, so nothing depends on the environment. `ovs-vswitchd` answers on its unixctl socket in
JSON-RPC 1.0, which is what `ovs-appctl` speaks: one connection serves many calls, without a process for each.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from hitless.ports import SwitchError, SwitchUnavailableError

_CHUNK_BYTES: Final = 1 << 20
_FORBIDDEN: Final = "Permission denied"
_UNREACHABLE: Final = ("failed to connect", "connecting to", "connection failed", "is not a bridge or a socket",
                       "Broken pipe", "Connection refused", "Connection reset", "End of file", _FORBIDDEN)  # fmt: skip
_LOG_LINE: Final = re.compile(r"^\d{4}-\d\d-\d\dT[^|]*\|\d+\|")


class ToolFailedError(Exception):
    """A tool that ended with an error; `text` is what it wrote to stderr."""

    def __init__(self, tool: str, text: str) -> None:
        super().__init__(f"{tool}: {text}")
        self.text = text


def unavailable(what: str, reason: str) -> SwitchUnavailableError:
    """Open vSwitch does not answer, or not to us."""
    if _FORBIDDEN in reason:
        return SwitchUnavailableError(
            "switch-unavailable",
            f"{what} cannot be asked: {reason}. Its sockets are open to root, or to a group of its own; run this with "
            "`sudo`, or as a member of that group. Nothing was changed",
        )
    return SwitchUnavailableError(
        "switch-unavailable",
        f"{what} does not answer: {reason}. Open vSwitch is down, restarting or busy, or the bridge does not exist. "
        "See `systemctl status openvswitch-switch` and `ovs-vsctl list-br`. Before repeating a change look at the "
        "bridge: what was sent may be in force",
    )


def run(argv: Sequence[str], timeout_seconds: float, stdin: str = "") -> str:
    """The tool's stdout. Raises ToolFailedError, SwitchUnavailableError (no answer in time), SwitchError (no tool)."""
    tool = argv[0]
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    except FileNotFoundError as error:
        raise SwitchError("switch-tool-missing", f"{tool} is not installed or not on PATH; install Open vSwitch's "
                          "command line tools (the package openvswitch-switch)") from error  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise unavailable("Open vSwitch", f"{tool} got no answer in {timeout_seconds:g} s") from error
    if done.returncode == 0:
        return done.stdout
    if done.returncode < 0:
        raise unavailable("Open vSwitch", f"{tool} was ended by signal {-done.returncode}")
    raise ToolFailedError(tool, done.stderr.strip())


def is_unreachable(text: str) -> bool:
    """Whether a tool's complaint says that nobody listens, rather than that a request was refused."""
    return any(phrase in text for phrase in _UNREACHABLE)


def without_log(text: str) -> list[str]:
    """Lines of stderr that are not the tool's own log."""
    return [line for line in text.splitlines() if not _LOG_LINE.match(line)]


class UnixCtl:
    """A connection to the management socket of `ovs-vswitchd`; use it as a context."""

    def __init__(self, run_dir: str, timeout_seconds: float) -> None:
        """Raises SwitchUnavailableError where no daemon has its pid file in `run_dir`, or it does not answer."""
        try:
            pid = int(Path(run_dir, "ovs-vswitchd.pid").read_text(encoding="ascii"))
        except PermissionError as error:
            raise unavailable("ovs-vswitchd", f"{run_dir}/ovs-vswitchd.pid: {_FORBIDDEN}") from error
        except (OSError, ValueError) as error:
            raise unavailable("ovs-vswitchd", f"no process id in {run_dir}/ovs-vswitchd.pid") from error
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout_seconds)
        try:
            self._socket.connect(f"{run_dir}/ovs-vswitchd.{pid}.ctl")
        except OSError as error:
            self._socket.close()
            raise unavailable("ovs-vswitchd", error.strerror or str(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def call(self, method: str, *params: str) -> str:
        """The answer's text. Raises ToolFailedError for an error reply, SwitchUnavailableError for none."""
        request = json.dumps({"id": 0, "method": method, "params": params})
        try:
            self._socket.sendall(request.encode())
            reply = self._reply()
        except OSError as error:
            raise unavailable("ovs-vswitchd", f"{method}: {error.strerror or error}") from error
        if reply.get("error") is not None:
            raise ToolFailedError(method, str(reply["error"]).strip())
        return str(reply["result"])

    def _reply(self) -> dict[str, object]:
        """Replies have no frame: one ends where its JSON ends, and every one is an object on its own."""
        chunks: list[bytes] = [b""]
        while True:
            if chunks[-1].rstrip().endswith(b"}"):
                try:
                    reply: dict[str, object] = json.loads(b"".join(chunks))
                except ValueError:
                    pass  # a brace inside of a string
                else:
                    return reply
            chunk = self._socket.recv(_CHUNK_BYTES)
            if not chunk:
                raise ConnectionResetError("it closed the connection")
            chunks.append(chunk)
