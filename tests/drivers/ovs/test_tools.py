"""What Open vSwitch's tools complain about, in sentences: no right to ask is not the same as nobody there."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from hitless.drivers.ovs.ovsdb import Database
from hitless.drivers.ovs.tools import UnixCtl
from hitless.ports import SwitchUnavailableError

COMPLAINTS = [
    ("database connection failed (Permission denied)", "sudo", "is down"),
    ("database connection failed (Connection refused)", "is down", "sudo"),
]


@pytest.mark.parametrize(("complaint", "said", "unsaid"), COMPLAINTS)
def test_a_database_that_cannot_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complaint: str, said: str, unsaid: str
) -> None:
    tool = tmp_path / "ovs-vsctl"
    tool.write_text(f"#!/bin/sh\necho 'ovs-vsctl: unix:/run/openvswitch/db.sock: {complaint}' >&2\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(SwitchUnavailableError) as caught:
        Database("br0", "unix:/run/openvswitch/db.sock", 5).read()
    assert complaint in str(caught.value)
    assert said in str(caught.value)
    assert unsaid not in str(caught.value)


@pytest.mark.parametrize("forbidden", ["pid", "socket"])
def test_a_daemon_that_cannot_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forbidden: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "ovs-vswitchd.pid").write_text("1\n")
    if forbidden == "pid":
        monkeypatch.setattr(Path, "read_text", refuse)
    else:
        monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(SwitchUnavailableError, match="sudo"):
        UnixCtl(str(tmp_path), 5)
