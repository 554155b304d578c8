"""The commands as a person meets them: processes, their words, exit statuses and files. No kernel is written."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, Final

import pytest

import hitless
from hitless.agent import keys
from hitless.agent.registry import Registry
from hitless.core.ipsec.keyfile import parse
from hitless.core.model.node import Incarnation, NodeRecord, Progress, Receives, Sends
from hitless.stores.open import open_store
from hitless.stores.options import SqliteOptions

LIMIT_SECONDS: Final = 60.0
GOOD: Final = """\
cluster = "demo"
node = "alpha"
addresses = ["192.0.2.1"]
prefixes = ["10.1.1.0/24"]
keys = "keys"
state_dir = "state"
[store]
path = "store.db"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a good configuration in it."""
    (tmp_path / "node.toml").write_text(GOOD, encoding="utf-8")
    return tmp_path


def hitless_says(place: Path, *words: str, wanted: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command in a directory; its exit status is as wanted, and nobody sees a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "hitless", *words],
        cwd=place,
        env={**os.environ, "COLUMNS": "120", "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert "Traceback" not in done.stderr + done.stdout
    assert done.returncode == wanted, (done.stdout, done.stderr)
    return done


def key_ids(file: Path) -> list[int]:
    return [key.key_id for key in parse(file.read_text("ascii"), str(file))]


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


# --- the whole --------------------------------------------------------------------------------------------


def test_help_names_every_command(place: Path) -> None:
    text = hitless_says(place, "--help").stdout
    assert all(f"\n  {command} " in text for command in ("agent", "status", "key", "node", "lab"))


def test_version(place: Path) -> None:
    assert hitless_says(place, "--version").stdout == f"hitless {hitless.__version__}\n"


@pytest.mark.parametrize(
    "words", [("agent",), ("nonsense",), ("key", "new"), ("status", "--config", "node.toml", "-o", "yaml")]
)
def test_wrong_usage_is_exit_status_2(place: Path, words: tuple[str, ...]) -> None:
    done = hitless_says(place, *words, wanted=2)
    assert "Usage:" in done.stderr
    assert not done.stdout


# --- key files --------------------------------------------------------------------------------------------


def test_a_new_key_is_private_and_never_shown(place: Path) -> None:
    done = hitless_says(place, "key", "new", "keys")
    assert done.stdout == "keys: key 1, rfc4106(gcm(aes))-160-128\n"
    material = (place / "keys").read_text().split()[2].removeprefix("0x")
    said = done.stdout + done.stderr + hitless_says(place, "key", "show", "keys", "--cluster", "demo").stdout
    assert len(material) == 40
    assert material not in said
    assert mode(place / "keys") == 0o600
    assert [each.name for each in place.iterdir() if each.name.startswith(".")] == []


def test_the_next_key_replaces_the_file_in_one_step_and_keeps_the_algorithm(place: Path) -> None:
    hitless_says(place, "key", "new", "keys", "--algorithm", "aes-cbc-256-sha256")
    with (place / "keys").open() as before:
        hitless_says(place, "key", "new", "keys")
        # Whoever had the old file open still reads all of it: the new one is another file.
        assert before.read().startswith("1 hmac(sha256)")
    assert key_ids(place / "keys") == [2]
    assert (place / "keys").read_text().startswith("2 hmac(sha256) ")


def test_a_draft_that_was_left_behind_does_not_lend_its_mode(place: Path) -> None:
    draft = place / ".keys.new"
    draft.touch()
    draft.chmod(0o644)
    hitless_says(place, "key", "new", "keys")
    assert mode(place / "keys") == 0o600


def test_after_15_comes_1_and_keep_keeps(place: Path) -> None:
    (place / "keys").write_text(f"15 rfc4106(gcm(aes)) 0x{'ab' * 20} 128\n")
    hitless_says(place, "key", "new", "keys", "--keep")
    assert key_ids(place / "keys") == [15, 1]
    assert "good, 2 keys, newest is 1" in hitless_says(place, "key", "check", "keys").stdout


@pytest.mark.parametrize("algorithm", ["aes-gcm-256", "chacha20-poly1305", "aes-cbc-128-sha256"])
def test_every_algorithm_makes_a_file_that_is_good(place: Path, algorithm: str) -> None:
    hitless_says(place, "key", "new", "keys", "--algorithm", algorithm)
    hitless_says(place, "key", "check", "keys")


def test_an_algorithm_that_does_not_exist_is_a_usage_error(place: Path) -> None:
    done = hitless_says(place, "key", "new", "keys", "--algorithm", "rot13", wanted=2)
    assert "'rot13' is none of aes-gcm-128" in done.stderr
    assert not (place / "keys").exists()


def test_a_key_cannot_be_written_into_a_directory_that_is_not_there(place: Path) -> None:
    done = hitless_says(place, "key", "new", "nowhere/keys", wanted=1)
    assert "nowhere/keys:1: file: cannot be written" in done.stderr
    assert done.stderr.rstrip().endswith("[key-file-unwritable]")


def test_a_directory_is_no_key_file_to_write(place: Path) -> None:
    (place / "secret").mkdir()
    assert "secret is a directory" in hitless_says(place, "key", "new", "secret", wanted=2).stderr


def test_a_bad_key_file_is_refused_with_place_and_code_and_without_its_key(place: Path) -> None:
    (place / "keys").write_text("1 rfc4106(gcm(aes)) 0xc0ffeec0ffee 128\n2 rot13 0xc0ffee\n")
    done = hitless_says(place, "key", "check", "keys", wanted=1)
    first, second = done.stderr.splitlines()
    assert first.startswith("keys:1: key: ")
    assert first.endswith("[key-length]")
    assert second.startswith("keys:2: algorithm: ")
    assert second.endswith("[key-algorithm-unknown]")
    assert "c0ffee" not in done.stderr


def test_show_as_json_has_the_fingerprint_of_the_cluster(place: Path) -> None:
    hitless_says(place, "key", "new", "keys")
    one, other = (
        json.loads(hitless_says(place, "key", "show", "keys", "--cluster", name, "-o", "json").stdout)
        for name in ("demo", "other")
    )
    assert one[0]["id"] == other[0]["id"] == 1
    assert len(one[0]["fingerprint"]) == 32
    assert one[0]["fingerprint"] != other[0]["fingerprint"]


def turn(secret: Path, version: str, line: str) -> None:
    """What a kubelet does with a mounted secret: a new directory, then one rename of the `..data` link."""
    (secret / f"..{version}").mkdir()
    (secret / f"..{version}" / "ipsec-key").write_text(line)
    (secret / "..data_tmp").symlink_to(f"..{version}")
    (secret / "..data_tmp").rename(secret / "..data")


def test_a_mounted_secret_is_read_through_its_links_and_a_swap_is_seen(place: Path) -> None:
    secret = place / "secret"
    secret.mkdir()
    turn(secret, "first", f"3 rfc4106(gcm(aes)) 0x{'ab' * 20} 128\n")
    (secret / "ipsec-key").symlink_to("..data/ipsec-key")
    assert "good, 1 key, newest is 3" in hitless_says(place, "key", "check", "secret").stdout

    async def swapped() -> list[int]:
        changes: AsyncIterator[None] = keys.changes(secret)
        await anext(changes)
        following = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)  # it has looked once now, and waits for something else than what it saw
        turn(secret, "second", f"4 rfc4106(gcm(aes)) 0x{'cd' * 20} 128\n")
        await asyncio.wait_for(following, LIMIT_SECONDS)
        return [key.key_id for key in keys.read(secret)]

    assert asyncio.run(swapped()) == [4]


# --- the agent's configuration ----------------------------------------------------------------------------


def test_a_good_configuration_is_good(place: Path) -> None:
    hitless_says(place, "key", "new", "keys")
    done = hitless_says(place, "agent", "--config", "node.toml", "--check")
    assert done.stdout == "configuration and keys are good\n"
    assert sorted(each.name for each in place.iterdir()) == ["keys", "node.toml"]  # a check leaves nothing behind


def test_a_check_sees_missing_keys(place: Path) -> None:
    done = hitless_says(place, "agent", "--config", "node.toml", "--check", wanted=1)
    assert done.stderr.startswith("keys:1: file: ")
    assert "[key-file-missing]" in done.stderr


BAD: Final = {
    "missing": (GOOD.replace('node = "alpha"\n', ""), "top level", "config-invalid"),
    "unknown": ('colour = "red"\n' + GOOD, "top level", "config-invalid"),
    "misspelt": (GOOD + "pth = 'x'\n", "store", "config-invalid"),
    "type": (GOOD.replace('"alpha"', "7"), "node", "config-invalid"),
    "name": (GOOD.replace('"alpha"', '"al pha"'), "node", "config-invalid"),
    "cluster": (GOOD.replace('"demo"', '"../demo"'), "cluster", "config-invalid"),
    "no-keys": (GOOD.replace('"keys"', '""'), "keys", "config-invalid"),
    "no-address": (GOOD.replace('"192.0.2.1"', ""), "addresses", "config-invalid"),
    "address": (GOOD.replace("192.0.2.1", "192.0.2.256"), "addresses", "config-invalid"),
    "host-bits": (GOOD.replace("10.1.1.0/24", "10.1.1.1/24"), "prefixes", "config-invalid"),
    "underlay": (GOOD.replace("10.1.1.0/24", "192.0.2.0/24"), "prefixes", "config-invalid"),
    "guarded-underlay": ('protected = ["192.0.0.0/8"]\n'.replace("192.0.0.0/8", "0.0.0.0/0") + GOOD, "protected",
                         "config-invalid"),
    "mode": ('mode = "beet"\n' + GOOD, "mode", "config-invalid"),
    "transport": ('mode = "transport"\n' + GOOD, "prefixes", "config-invalid"),
    "port": ("udp_port = 4789\n" + GOOD, "udp_port", "config-invalid"),
    "store-kind": (GOOD + 'kind = "zookeeper"\n', "store.kind", "config-invalid"),
    "window": (GOOD + "[ipsec]\nreplay_window = 5000\n", "ipsec.replay_window", "config-invalid"),
    "drain": (GOOD + "[ipsec]\ndrain_seconds = 0\n", "ipsec.drain_seconds", "config-invalid"),
    "not-a-number": (GOOD + "[ipsec]\ndrain_seconds = nan\n", "ipsec.drain_seconds", "config-invalid"),
    "resync": (GOOD + "[ipsec]\nresync_seconds = 0.5\n", "ipsec.resync_seconds", "config-invalid"),
    "reqid": (GOOD + "[ipsec]\nreqid_base = 1\n", "ipsec.reqid_base", "config-invalid"),
    "not-toml": ("cluster: demo\n", "file", "config-not-toml"),
}  # fmt: skip


@pytest.mark.parametrize("why", BAD)
def test_a_bad_configuration_is_refused_with_file_field_and_code(place: Path, why: str) -> None:
    text, field, code = BAD[why]
    (place / "node.toml").write_text(text, encoding="utf-8")
    done = hitless_says(place, "agent", "--config", "node.toml", "--check", wanted=1)
    assert done.stderr.startswith(f"node.toml: {field}: ")
    assert done.stderr.endswith(f"[{code}]\n")
    assert not done.stdout


def test_a_configuration_that_is_not_text_is_refused(place: Path) -> None:
    (place / "node.toml").write_bytes(b'cluster = "\xff\xfe"\n')
    done = hitless_says(place, "agent", "--config", "node.toml", "--check", wanted=1)
    assert done.stderr.startswith("node.toml: file: ")
    assert done.stderr.endswith("[config-not-toml]\n")


def test_a_configuration_that_is_not_there_is_refused(place: Path) -> None:
    done = hitless_says(place, "agent", "--config", "nothing.toml", "--check", wanted=1)
    assert done.stderr == "nothing.toml: file: cannot be read: No such file or directory [config-unreadable]\n"


@pytest.mark.parametrize("mistake", ['order = "advertise-first"', 'cleanup = "timer"'])
def test_a_historic_mistake_has_to_be_allowed_twice(place: Path, mistake: str) -> None:
    (place / "node.toml").write_text(f"{GOOD}[lab]\n{mistake}\n", encoding="utf-8")
    hitless_says(place, "key", "new", "keys")
    done = hitless_says(place, "agent", "--config", "node.toml", "--check", wanted=1)
    assert done.stderr.endswith("[replay-not-allowed]\n")
    hitless_says(place, "agent", "--config", "node.toml", "--check", "--replay-old-behaviour")


# --- the cluster ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [("status",), ("status", "--wait", "0.3"), ("node", "remove", "beta", "--yes")], ids=" ".join
)
def test_a_question_does_not_found_a_store(place: Path, words: tuple[str, ...]) -> None:
    done = hitless_says(place, *words, "--config", "node.toml", wanted=1)
    assert "there is no store at store.db" in done.stderr
    assert done.stderr.endswith("[store-missing]\n")
    assert [each.name for each in place.iterdir()] == ["node.toml"]


def in_store(place: Path, *records: tuple[NodeRecord, Progress | None]) -> None:
    """A store as agents leave it."""

    async def write() -> None:
        store = open_store(SqliteOptions(str(place / "store.db")))
        try:
            await store.epoch()
            for node, progress in records:
                registry = Registry(store, "demo", node.name)
                await registry.write_node(node)
                if progress is not None:
                    await registry.publish(progress)
        finally:
            await store.close()

    finished: Coroutine[Any, Any, None] = write()
    asyncio.run(finished)


def member(name: str, node_id: int, phase: str = "", generation: int = 1) -> tuple[NodeRecord, Progress | None]:
    node = NodeRecord(name, node_id, Incarnation(1, "00" * 16), (f"192.0.2.{node_id}",))
    if not phase:
        return node, None
    said = Progress(name, node.incarnation, "e", Receives(1, (generation,)), Sends(1, generation), phase, 1.0)
    return node, said


def test_status_of_an_empty_cluster_is_unknown(place: Path) -> None:
    in_store(place)
    done = hitless_says(place, "status", "--config", "node.toml", wanted=7)
    assert done.stdout == "cluster demo: no node is registered\n"
    said = json.loads(hitless_says(place, "status", "--config", "node.toml", "-o", "json", wanted=7).stdout)
    assert said == {"cluster": "demo", "steady": False, "nodes": []}
    hitless_says(place, "status", "--config", "node.toml", "--wait", "0.3", wanted=6)


def test_status_of_a_steady_cluster_is_0(place: Path) -> None:
    in_store(place, member("alpha", 1, "steady"), member("beta", 2, "steady"))
    text = hitless_says(place, "status", "--config", "node.toml", "--wait", "30").stdout
    assert text.count("generation 1") == 2
    assert text.count("steady") == 2


@pytest.mark.parametrize(
    "other", [member("beta", 2), member("beta", 2, "draining"), member("beta", 2, "steady", generation=2)],
    ids=["starting", "draining", "another-generation"],
)  # fmt: skip
def test_status_of_an_unsteady_cluster_is_5_or_6(place: Path, other: tuple[NodeRecord, Progress | None]) -> None:
    in_store(place, member("alpha", 1, "steady"), other)
    said = json.loads(hitless_says(place, "status", "--config", "node.toml", "-o", "json", wanted=5).stdout)
    assert said["steady"] is False
    assert [node["name"] for node in said["nodes"]] == ["alpha", "beta"]
    hitless_says(place, "status", "--config", "node.toml", "--wait", "0.3", wanted=6)


def test_status_of_a_file_that_is_no_store_says_so(place: Path) -> None:
    (place / "store.db").write_bytes(os.urandom(4096))
    done = hitless_says(place, "status", "--config", "node.toml", wanted=1)
    assert done.stderr.endswith("[store-not-a-database]\n")


def test_removing_an_unknown_node_is_an_error(place: Path) -> None:
    in_store(place, member("alpha", 1, "steady"))
    done = hitless_says(place, "node", "remove", "gamma", "--yes", "--config", "node.toml", wanted=1)
    assert done.stderr == "no node gamma is registered in cluster demo [node-unknown]\n"


def test_a_removed_node_is_gone_from_status(place: Path) -> None:
    in_store(place, member("alpha", 1, "steady"), member("beta", 2, "steady"))
    assert "beta is removed" in hitless_says(place, "node", "remove", "beta", "--yes", "--config", "node.toml").stdout
    said = json.loads(hitless_says(place, "status", "--config", "node.toml", "-o", "json").stdout)
    assert [node["name"] for node in said["nodes"]] == ["alpha"]


def test_a_removed_node_can_be_restored_once(place: Path) -> None:
    in_store(place, member("alpha", 1, "steady"), member("beta", 2, "steady"))
    hitless_says(place, "node", "remove", "beta", "--yes", "--config", "node.toml")
    for answer in ("beta may join again\n", "beta was not removed; nothing to do\n"):
        assert hitless_says(place, "node", "restore", "beta", "--config", "node.toml").stdout == answer


def test_a_removal_that_is_not_confirmed_does_not_happen(place: Path) -> None:
    in_store(place, member("alpha", 1, "steady"))
    hitless_says(place, "node", "remove", "alpha", "--config", "node.toml", wanted=1)
    assert "alpha" in hitless_says(place, "status", "--config", "node.toml").stdout


# --- the lab ----------------------------------------------------------------------------------------------


def test_scenarios_are_listed_and_shown(place: Path) -> None:
    listed = json.loads(hitless_says(place, "lab", "list", "-o", "json").stdout)
    assert {"rotate", "replay-advertise-first"} <= {each["name"] for each in listed}
    assert hitless_says(place, "lab", "show", "rotate").stdout.splitlines()[-1].startswith("expect")


@pytest.mark.parametrize("words", [("lab", "run", "nothing"), ("lab", "show", "nothing"), ("lab", "run", "./no.txt")])
def test_an_unknown_scenario_is_a_usage_error(place: Path, words: tuple[str, ...]) -> None:
    done = hitless_says(place, *words, wanted=2)
    assert done.stderr.rstrip().endswith(("[scenario-unknown]", "[scenario-unreadable]"))
