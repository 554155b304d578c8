"""Key files, the kernel's own words, agents' logs and configurations: what conditions are judged by."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from hitless.agent.config import load
from hitless.core.ipsec.keyfile import KeyFileError, parse
from hitless.lab import security
from hitless.lab.agents import Faults, Log, Place, Settings, render
from hitless.lab.announcements import messages
from hitless.lab.keyfiles import KeyFiles
from hitless.stores.options import EtcdOptions, SqliteOptions

STATES = """\
src 192.0.2.1 dst 192.0.2.2
\tproto esp spi 0x0203a1b2 reqid 1744830465 mode tunnel
\treplay-window 0 flag af-unspec esn
src 192.0.2.2 dst 192.0.2.1
\tproto esp spi 0x03012345 reqid 1744830465 mode tunnel
src 192.0.2.3 dst 192.0.2.1
\tproto esp spi 0x03000007 reqid 1744830466 mode tunnel
src 192.0.2.9 dst 192.0.2.1
\tproto esp spi 0x00000000 reqid 0 mode tunnel
src 192.0.2.1 dst 192.0.2.9
\tproto ah spi 0x03000008 reqid 7 mode transport
"""

POLICIES = """\
src 10.1.1.0/24 dst 10.1.2.0/24
\tdir out priority 1000
\ttmpl src 192.0.2.1 dst 192.0.2.2
\t\tproto esp spi 0x0203a1b2 reqid 1744830465 mode tunnel
src 10.1.0.0/16 dst 10.1.0.0/16
\tdir out action block priority 9000
src 10.1.2.0/24 dst 10.1.1.0/24
\tdir in priority 1000
\ttmpl src 192.0.2.2 dst 192.0.2.1
\t\tproto esp reqid 1744830465 mode tunnel
"""

ME, TWO, THREE = frozenset({"192.0.2.1"}), frozenset({"192.0.2.2"}), frozenset({"192.0.2.3"})


def test_generations_are_read_from_what_the_kernel_holds() -> None:
    seen = security.Security(security.parse_states(STATES), security.parse_policies(POLICIES))
    assert seen.generations(ME, None) == {1, 2}
    assert seen.generations(ME, TWO) == {1, 2}
    assert seen.generations(ME, THREE) == {2}
    assert security.one(seen.sending(TWO)) == 1.0
    assert seen.sending(THREE) == frozenset()


def test_several_generations_in_use_are_no_number() -> None:
    assert security.one(frozenset({1, 2})) != security.one(frozenset({1, 2}))


def test_announcements_are_counted_one_by_one() -> None:
    def message(length: int) -> bytes:
        return struct.pack("=IHHII", length, 16, 0, 1, 0) + bytes(((length + 3) & ~3) - 16)

    assert messages(message(16) + message(21) + message(40)) == 3
    assert messages(b"") == 0
    assert messages(struct.pack("=IHHII", 3, 0, 0, 0, 0)) == 0


def test_key_files_arrive_whole_and_ids_wrap(tmp_path: Path) -> None:
    files = KeyFiles(tmp_path, first_id=15)
    files.copy(["n1", "n2"])
    first = files.path("n1").read_text()
    assert files.path("n2").read_text() == first
    assert files.path("n1").stat().st_mode & 0o077 == 0
    assert files.new(["n1"]) == 1
    assert files.drawn == 2
    (newest,) = parse(files.path("n1").read_text(), "keys")
    assert newest.key_id == 1
    assert files.path("n2").read_text() == first
    assert files.new(["n1"], key_id=7) == 7


def test_bad_keys_are_bad_in_their_own_way(tmp_path: Path) -> None:
    files = KeyFiles(tmp_path)
    files.copy(["n1"])
    (good,) = parse(files.path("n1").read_text(), "keys")
    files.same_id(["n1"])
    (other,) = parse(files.path("n1").read_text(), "keys")
    assert (other.key_id, other.material != good.material) == (good.key_id, True)
    for spoil, code in ((files.wrong_length, "key-length"), (files.half_written, "key-fields")):
        spoil(["n1"])
        with pytest.raises(KeyFileError) as caught:
            parse(files.path("n1").read_text(), "keys")
        assert [fault.code for fault in caught.value.faults] == [code]
    assert files.drawn == 1
    files.copy(["n1"])
    assert parse(files.path("n1").read_text(), "keys") == (good,)


def test_the_agent_takes_the_configuration(tmp_path: Path) -> None:
    settings = Settings(
        mode="tunnel", protected=("10.1.0.0/16",), store=SqliteOptions(str(tmp_path / "store.db")), drain_seconds=0.5,
        order="advertise-first", cleanup="timer", cleanup_seconds=2.0, absent="delete", esn=False, resync_seconds=1.0,
        replay=True,
    )  # fmt: skip
    place = Place(("192.0.2.1",), ("10.1.1.0/24",))
    faults = Faults(install_delay_seconds=0.005, fail_in_peer="192.0.2.3", fail_times=3, crash_at="drained")
    file = tmp_path / "agent.toml"
    file.write_text(render("n1", place, settings, tmp_path / "keys", tmp_path, faults, "boot-2"), encoding="utf-8")
    config = load(file)
    assert (config.node, config.addresses, config.prefixes) == ("n1", ("192.0.2.1",), ("10.1.1.0/24",))
    assert config.ipsec.drain_seconds == 0.5
    lab = config.lab
    assert (lab.order, lab.cleanup, lab.cleanup_seconds) == ("advertise-first", "timer", 2.0)
    assert (lab.install_delay_seconds, lab.fail_in_peer, lab.fail_times) == (0.005, "192.0.2.3", 3)
    assert (lab.crash_at, lab.absent, lab.boot_id) == ("drained", "delete", "boot-2")
    assert (config.ipsec.esn, config.ipsec.resync_seconds) == (False, 1.0)


def test_transport_mode_names_its_port_and_no_prefix(tmp_path: Path) -> None:
    store = EtcdOptions(("http://198.51.100.251:2379",))
    settings = Settings(mode="transport", protected=("192.0.2.0/24",), store=store, udp_port=4789)
    file = tmp_path / "agent.toml"
    file.write_text(render("n1", Place(("192.0.2.1",), ()), settings, tmp_path / "k", tmp_path, Faults()))
    assert load(file).udp_port == 4789
    assert load(file).store == EtcdOptions(("http://198.51.100.251:2379",))


def test_a_log_is_read_as_it_grows_and_over_restarts(tmp_path: Path) -> None:
    file = tmp_path / "n1.log"
    log = Log("n1", file)
    assert log.this_life() == []
    first = json.dumps({"event": "started", "monotonic": 1.5})
    file.write_text(first + "\nTraceback (most recent call last):\n" + first[:9])
    assert [event.event for event in log.this_life()] == ["started"]
    assert log.stray == ["Traceback (most recent call last):"]
    with file.open("a") as more:
        more.write(first[9:] + "\n")
    assert len(log.this_life()) == 2
    log.begin_life()
    assert log.this_life() == []
    with file.open("a") as more:
        more.write(json.dumps({"event": "adopted", "monotonic": 2}) + "\n")
    assert [(event.event, event.monotonic) for event in log.this_life()] == [("adopted", 2.0)]
    assert "adopted" in log.last_words()
