"""The store in Kubernetes against the stand-in: its clock, its history, its rights, and what failures are called."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import msgspec
import pytest
from tests.stores.apiserver.objects import documents, schemas
from tests.stores.apiserver.refusals import Refusal
from tests.stores.apiserver.server import NAMESPACE, Request, rights
from tests.stores.apiserver.world import KubernetesWorld

from hitless.agent import config
from hitless.ports import Compare, Delete, Entry, LeaseExpiredError, Put, StoreError, StoreUnavailableError, WatchEvent
from hitless.stores.kubernetes import record
from hitless.stores.kubernetes.clock import ServerClock, micro_time
from hitless.stores.kubernetes.options import KubernetesOptions
from hitless.stores.kubernetes.store import KubernetesStore

FOREVER_SECONDS = 600.0


@pytest.fixture
def world(tmp_path: Path) -> KubernetesWorld:
    return KubernetesWorld(tmp_path)


async def refused(store: KubernetesStore) -> StoreError:
    with pytest.raises(StoreError) as caught:
        await store.get("k")
    return caught.value


# --- objects


@pytest.mark.parametrize(
    "key",
    ["a", "/hitless/prod/nodes/alpha", "n/\U0001f511", "n/\u0085\u2028x", "UPPER/case", "x" * 1000, "-/.", "a/b/c/d"],
)
async def test_any_key_has_an_object_and_comes_back(world: KubernetesWorld, key: str) -> None:
    store = world.connect()
    start = (await store.list("")).revision
    revision = await store.commit((), (Put(key, b"v"),)) or 0
    assert await store.get(key) == Entry(key, b"v", revision, revision)
    batch = await anext(store.watch(key, start))
    assert [each.key for each in batch.events] == [key]
    assert len(record.name_of(key)) <= 74


@pytest.mark.parametrize("value", [b"", b"{}", b"\x00\xff", "\u0085 \u2028".encode(), "gr\u00fcn".encode(), b"a\nb"])
async def test_any_value_comes_back_and_text_is_readable(world: KubernetesWorld, value: bytes) -> None:
    store, other = world.connect(), world.connect()
    await store.commit((), (Put("k", value),))
    found = await other.get("k")
    assert found is not None
    assert found.value == value
    spec = world.server.objects.objects["hitlessrecords", NAMESPACE, record.name_of("k")]["spec"]
    assert ("text" in spec) == value.decode("utf-8", "replace").isprintable()


async def test_keys_whose_readable_part_is_the_same_are_two(world: KubernetesWorld) -> None:
    store = world.connect()
    await store.commit((), (Put("a/B", b"1"), Put("a/b", b"2"), Put("a-b", b"3")))
    assert [each.value for each in (await store.list("")).entries] == [b"3", b"1", b"2"]


async def test_what_others_keep_in_the_namespace_is_passed_over(world: KubernetesWorld) -> None:
    store = world.connect()
    start = (await store.list("")).revision
    objects = world.server.objects
    foreign = {"metadata": {"name": "handmade"}, "spec": {"key": "k", "text": "x"}}
    world.server.act(lambda: objects.create("hitlessrecords", NAMESPACE, foreign))
    revision = await store.commit((), (Put("k", b"real"),)) or 0
    assert [each.value for each in (await store.list("")).entries] == [b"real"]
    events: list[WatchEvent] = []
    watch = store.watch("", start)
    while True:
        batch = await anext(watch)
        events += batch.events
        if batch.revision >= revision:
            break
    assert [each.entry and each.entry.value for each in events] == [b"real"]


async def test_an_object_that_somebody_deletes_is_a_deletion(world: KubernetesWorld) -> None:
    store = world.connect()
    start = await store.commit((), (Put("k", b""),)) or 0
    watch = store.watch("", start)
    key = ("hitlessrecords", NAMESPACE, record.name_of("k"))
    world.server.act(lambda: world.server.objects.delete(key, {}))
    batch = await anext(watch)
    while not batch.events:
        batch = await anext(watch)
    assert [(each.key, each.entry) for each in batch.events] == [("k", None)]
    assert await store.commit((Compare("k", 0),), (Put("k", b"again"),)) is not None


async def test_what_a_deletion_left_behind_is_absent_and_can_be_written_over(world: KubernetesWorld) -> None:
    """The object of a deleted key stays where the second of the two requests fails."""
    store, other = world.connect(), world.connect()
    await store.commit((), (Put("k", b"1"),))
    world.server.allowed = rights("hitless-agent") - {("delete", "hitlessrecords")}
    assert await store.commit((), (Delete("k"),)) is not None
    assert ("hitlessrecords", NAMESPACE, record.name_of("k")) in world.server.objects.objects
    assert await other.get("k") is None
    assert (await other.list("")).entries == ()
    revision = await other.commit((Compare("k", 0),), (Put("k", b"2"),)) or 0
    assert await store.get("k") == Entry("k", b"2", revision, revision)


async def test_a_listing_of_many_pages_is_one_moment(world: KubernetesWorld) -> None:
    store = world.connect()
    await store.commit((), tuple(Put(f"k{n:02}", b"") for n in range(25)))
    world.server.page_objects = 4
    assert len((await store.list("k")).entries) == 25


async def test_a_listing_that_the_server_forgot_half_way_begins_anew(world: KubernetesWorld) -> None:
    store = world.connect()
    await store.commit((), tuple(Put(f"k{n:02}", b"") for n in range(9)))
    first = next(key for key in sorted(world.server.objects.objects) if key[2].startswith("k"))
    gone = world.server.objects.objects[first]["spec"]["key"]
    world.server.page_objects = 4
    world.server.before_next_page = lambda: world.server.objects.delete(first, {})
    found = [each.key for each in (await store.list("")).entries]
    assert found == [f"k{n:02}" for n in range(9) if f"k{n:02}" != gone]


# --- requests


async def test_the_next_write_of_ones_own_record_needs_no_reading(world: KubernetesWorld) -> None:
    store = world.connect()
    await store.commit((), (Put("k", b"1"),))
    world.server.seen.clear()
    await store.commit((), (Put("k", b"2"),))
    assert world.server.seen == [("get", "hitlessrecords"), ("update", "hitlessrecords")], "the mark, and the write"


async def test_unguarded_writers_of_one_key_all_get_there(world: KubernetesWorld) -> None:
    one, other = world.connect(), world.connect()
    for n in range(5):
        await one.commit((), (Put("k", b"one %d" % n),))
        await other.commit((), (Put("k", b"other %d" % n),))
    found = await one.get("k")
    assert found is not None
    assert found.value == b"other 4"


@pytest.mark.parametrize("status", [429, 503])
async def test_reading_survives_a_server_that_is_busy_for_a_moment(world: KubernetesWorld, status: int) -> None:
    store = world.connect()
    await store.commit((), (Put("k", b""),))
    world.server.refuse_next = [Refusal(status, "", "busy")] * 3
    assert await store.get("k") is not None


async def test_a_write_is_repeated_when_it_was_not_looked_at_and_never_else(world: KubernetesWorld) -> None:
    store = world.connect()
    await store.commit((), (Put("k", b"1"),))
    failures = [Refusal(429, "TooManyRequests", "slow down")]
    world.server.before_write = lambda _: (_ for _ in ()).throw(failures.pop()) if failures else None
    assert await store.commit((), (Put("k", b"2"),)) is not None
    failures.append(Refusal(500, "InternalError", "etcdserver: request timed out"))
    with pytest.raises(StoreUnavailableError) as caught:
        await store.commit((), (Put("k", b"3"),))
    assert caught.value.code == "store-unreachable"
    found = await store.get("k")
    assert found is not None
    assert found.value == b"2"


async def test_a_write_whose_answer_is_lost_says_that_nobody_knows(world: KubernetesWorld) -> None:
    store, other = world.connect(), world.connect()
    first = await store.commit((), (Put("k", b"1"),)) or 0
    world.server.lose_replies = 1
    with pytest.raises(StoreUnavailableError) as caught:
        await store.commit((Compare("k", first),), (Put("k", b"2"),))
    assert "may or may not have happened" in str(caught.value)
    found = await other.get("k")
    assert found is not None
    assert found.value == b"2"
    assert await store.commit((Compare("k", first),), (Put("k", b"2"),)) is None, "repeated under its guard: once"


async def test_a_server_that_comes_back_is_used_again(world: KubernetesWorld) -> None:
    store, impatient = world.connect(), world.connect(request_timeout_seconds=0.2)
    await store.commit((), (Put("k", b"1"),))
    await impatient.epoch()
    world.server.stop_listening()
    try:
        assert (await refused(impatient)).code in {"store-unreachable", "store-timeout"}
    finally:
        world.server.listen_again()
    assert await store.get("k") is not None
    assert await impatient.get("k") is not None


# --- leases and the server's clock


async def test_the_servers_clock_decides_when_a_lease_ends(world: KubernetesWorld) -> None:
    store, other = world.connect(), world.connect()
    lease = await store.grant(15)
    await store.commit((), (Put("live", b"", lease),))
    world.server.ahead_seconds = 14.0
    assert await other.get("live") is not None
    await store.keep_alive(lease)
    world.server.ahead_seconds = 28.0
    assert await other.get("live") is not None, "renewed at 14 s by the server's clock"
    world.server.ahead_seconds = 31.0
    assert await other.get("live") is None
    with pytest.raises(LeaseExpiredError):
        await store.keep_alive(lease)


async def test_a_lease_that_is_renewed_while_somebody_ends_it_lives_on(world: KubernetesWorld) -> None:
    store, other = world.connect(), world.connect()
    lease = await store.grant(15)
    await store.commit((), (Put("live", b"", lease),))
    await other.get("live")
    objects = world.server.objects

    def renew(request: Request) -> None:
        if request.right == ("delete", "leases"):
            world.server.before_write = None
            spec = objects.get(request.key)["spec"] | {"renewTime": micro_time(time.time() + 17.0)}
            objects.update(request.key, {"metadata": {"name": request.name}, "spec": spec})

    world.server.before_write = renew
    world.server.ahead_seconds = 17.0
    assert await other.get("live") is not None
    assert world.server.before_write is None, "it was about to be ended"


async def test_an_account_that_may_only_read_shows_no_ended_lease_and_ends_none(world: KubernetesWorld) -> None:
    store, viewer = world.connect(), world.connect()
    await store.commit((), (Put("live", b"", await store.grant(15)), Put("stay", b"")))
    world.server.allowed = rights("hitless-viewer")
    world.server.ahead_seconds = 17.0
    assert [each.key for each in (await viewer.list("")).entries] == ["stay"]
    world.server.allowed = rights("hitless-agent")
    assert len([key for key in world.server.objects.objects if key[0] == "leases"]) == 1


def test_the_clock_takes_the_latest_that_any_answer_allows() -> None:
    monotonic = 100.0
    clock = ServerClock(lambda: monotonic, lambda: 5.0)
    assert clock.now() == 5.0, "its own machine's, until a server was heard"
    clock.hear("Thu, 01 Jan 1970 00:16:40 GMT")
    assert clock.now() == 1000.0
    monotonic = 100.9
    clock.hear("Thu, 01 Jan 1970 00:16:40 GMT")  # rounded down: no reason to go back
    assert clock.now() == pytest.approx(1000.9)
    clock.hear("Thu, 01 Jan 1970 00:16:42 GMT")
    assert clock.now() == pytest.approx(1002.0)
    clock.hear("Thu, 01 Jan 1970 00:10:00 GMT")
    assert clock.now() == pytest.approx(600.0), "a server that was set back is believed"
    clock.hear("yesterday")
    assert clock.now() == pytest.approx(600.0)


# --- one history and another


async def test_a_cluster_that_was_restored_from_a_backup_is_another_history(world: KubernetesWorld) -> None:
    store, newcomer = world.connect(), world.connect()
    await store.commit((), (Put("k", b"old"),))
    epoch = await store.epoch()
    kept = world.server.act(world.server.objects.backup)
    await store.commit((), (Put("k", b"lost"),))
    world.server.act(lambda: world.server.objects.restore(kept))
    with pytest.raises(StoreUnavailableError) as caught:
        await store.list("")
    assert caught.value.code == "store-replaced"
    assert await store.epoch() != epoch
    assert await newcomer.epoch() == await store.epoch()
    assert (await newcomer.list("")).entries == (), "records of the lost history count for nothing"


async def test_a_record_written_too_late_counts_for_nothing_in_the_new_history(world: KubernetesWorld) -> None:
    """Between looking at the mark and creating an object the history may change. The object says which it is of."""
    store, other = world.connect(), world.connect()
    await store.epoch()

    def replace(_: object) -> None:
        world.server.before_write = None
        world.server.objects.wipe()

    world.server.before_write = replace
    await store.commit((), (Put("k", b"late"),))
    await other.epoch()
    assert await other.get("k") is None
    assert (await other.list("")).entries == ()
    assert await other.commit((Compare("k", 0),), (Put("k", b"new"),)) is not None
    with pytest.raises(StoreUnavailableError):
        await store.get("k")


# --- rights, definitions, and what failures are called


async def test_the_role_in_the_package_is_what_an_agent_needs_and_no_more(world: KubernetesWorld) -> None:
    store = world.connect()
    start = (await store.list("")).revision
    lease = await store.grant(FOREVER_SECONDS)
    key = "/hitless/lab/nodes/alpha"
    node = b'{"name":"alpha","node_id":7,"incarnation":{"counter":1,"nonce":"aa"},"addresses":[],"prefixes":[]}'
    await store.commit((), (Put(key, node), Put("live", b"", lease)))
    stone = b'{"name":"alpha","node_id":7,"incarnation":{"counter":1,"nonce":"aa"}}'
    await store.commit((), (Put("/hitless/lab/tombstones/alpha", stone), Delete(key)))
    await store.commit((), (Delete("/hitless/lab/tombstones/alpha"),))
    await store.shown.drained()
    await store.keep_alive(lease)
    await anext(store.watch("", start))
    await store.list("")
    await store.revoke(lease)
    assert set(world.server.seen) == rights("hitless-agent") - {("create", "hitlessnodes")}
    # (Applying an object that is not there takes the right to create it as well; the stand-in does not ask for it.)


@pytest.mark.parametrize(
    ("refusal", "code", "words"),
    [
        (Refusal(403, "Forbidden", 'User "node" cannot get resource'), "store-forbidden", "rbac.yaml"),
        (Refusal(404, "", "404 page not found"), "store-no-crd", "crds.yaml"),
        (Refusal(401, "Unauthorized", "Unauthorized"), "store-auth", "renew"),
        (Refusal(422, "Invalid", "spec: Invalid value"), "store-refused", "crds.yaml"),
        (Refusal(400, "BadRequest", "what?"), "store-refused", "report"),
    ],
)
async def test_what_the_server_refuses_has_a_code_and_says_what_to_do(
    world: KubernetesWorld, refusal: Refusal, code: str, words: str
) -> None:
    store = world.connect(request_timeout_seconds=5.0)
    await store.epoch()
    world.server.refuse_next = [refusal] * 5
    error = await refused(store)
    assert error.code == code
    assert words in str(error)


async def test_a_server_that_stays_busy_is_overloaded_and_one_that_stays_ill_unreachable(
    world: KubernetesWorld
) -> None:
    store = world.connect(request_timeout_seconds=0.3)
    await store.epoch()
    world.server.refuse_next = [Refusal(429, "TooManyRequests", "busy")] * 50
    assert (await refused(store)).code == "store-overloaded"
    world.server.refuse_next = [Refusal(503, "", "")] * 50
    assert (await refused(store)).code == "store-unreachable"


async def test_credentials_that_are_not_accepted(world: KubernetesWorld, tmp_path: Path) -> None:
    path = world.server.kubeconfig(tmp_path / "other", token="another-token")
    store = world.connect(kubeconfig=str(path))
    error = await refused(store)
    assert error.code == "store-auth"
    assert "another-token" not in str(error)


async def test_a_namespace_that_is_not_there(world: KubernetesWorld) -> None:
    store = world.connect(namespace="nowhere")
    error = await refused(store)
    assert (error.code, "nowhere" in str(error)) == ("store-no-namespace", True)


async def test_a_value_that_is_too_large_for_etcd_is_named_so(world: KubernetesWorld) -> None:
    store = world.connect()
    await store.epoch()
    world.server.before_write = lambda _: (_ for _ in ()).throw(Refusal(500, "", "etcdserver: request is too large"))
    with pytest.raises(StoreError) as caught:
        await store.commit((), (Put("k", b""),))
    assert caught.value.code == "store-commit-too-large"


async def test_the_largest_value_that_the_rules_allow_fits(world: KubernetesWorld) -> None:
    store = world.connect()
    await store.commit((), (Put("k", bytes(1024 * 1024 - 1)),))
    found = await store.get("k")
    assert found is not None
    assert len(found.value) == 1024 * 1024 - 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no usable access"),
        ("token: secret-token: broken\n  - yaml: [", "no usable access"),
        ('{"contexts": [], "clusters": []}', "No current context"),
    ],
)
async def test_a_kubeconfig_that_is_none_is_named_without_what_is_in_it(
    tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    error = await refused(KubernetesStore(KubernetesOptions(kubeconfig=str(path))))
    assert error.code == "store-bad-options"
    assert words in str(error)
    assert "secret-token" not in str(error)
    assert str(path) in str(error)


async def test_a_kubeconfig_that_is_missing(tmp_path: Path) -> None:
    error = await refused(KubernetesStore(KubernetesOptions(kubeconfig=str(tmp_path / "absent"))))
    assert (error.code, "not found" in str(error)) == ("store-bad-options", True)


@pytest.mark.parametrize(
    "options",
    [
        KubernetesOptions(namespace="Not_A_Name"),
        KubernetesOptions(request_timeout_seconds=0),
        KubernetesOptions(sweep_seconds=-1),
        KubernetesOptions(watch_silence_seconds=float("nan")),
        KubernetesOptions(context="there"),
    ],
)
def test_options_that_cannot_be_meant(options: KubernetesOptions) -> None:
    with pytest.raises(StoreError) as caught:
        KubernetesStore(options)
    assert caught.value.code == "store-bad-options"


def test_the_definitions_in_the_package_are_of_the_resources_that_are_used() -> None:
    names = {each["metadata"]["name"] for each in documents("crds.yaml")}
    assert names == {"hitlessrecords.hitless.dev", "hitlessnodes.hitless.dev"}
    spec = schemas()["hitlessrecords"]["properties"]["spec"]["properties"]
    assert set(spec) == set(record.Spec.__struct_fields__)


def test_the_client_library_is_not_imported_before_it_is_used() -> None:
    code = (
        "import sys, hitless.stores.kubernetes.store as s, hitless.stores.kubernetes.options as o;"
        "s.KubernetesStore(o.KubernetesOptions());"
        "sys.exit(any(m in sys.modules for m in ('lightkube', 'httpx2', 'yaml')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_the_daemon_sets_configuration_is_a_good_one(tmp_path: Path) -> None:
    template = next(each for each in documents("daemonset.yaml") if each["kind"] == "ConfigMap")
    text: str = template["data"]["node.toml"]
    text = text.replace("@NODE@", "alpha").replace("@ADDRESS@", "192.0.2.1")
    found = tomllib.loads(text)
    assert msgspec.convert(found["store"], KubernetesOptions) == KubernetesOptions()
    file = tmp_path / "node.toml"
    file.write_text(text.split("[store]")[0])
    assert config.load(file).addresses == ("192.0.2.1",)


def test_the_daemon_set_uses_the_account_that_the_role_is_bound_to() -> None:
    pod = next(each for each in documents("daemonset.yaml") if each["kind"] == "DaemonSet")["spec"]["template"]["spec"]
    binding = next(each for each in documents("rbac.yaml") if each["kind"] == "RoleBinding")
    assert [each["name"] for each in binding["subjects"]] == [pod["serviceAccountName"]]
    assert binding["roleRef"]["name"] == "hitless-agent"


def guide() -> str:
    return (Path(__file__).parents[2] / "docs" / "guide" / "kubernetes.md").read_text("utf-8")


def test_every_code_and_every_option_is_in_the_guide() -> None:
    folder = Path(record.__file__).parent
    codes = {code for file in folder.glob("*.py") for code in re.findall(r'"(store-[a-z-]+)"', file.read_text("utf-8"))}
    assert len(codes) > 12
    elsewhere = {"store-bad-ttl"}  # of the port, not of this store
    assert not [code for code in codes - elsewhere if f"| `{code}` |" not in guide()]
    assert not [name for name in KubernetesOptions.__struct_fields__ if f"| `{name}` |" not in guide()]


async def test_a_server_that_speaks_no_tls_is_named_so(world: KubernetesWorld, tmp_path: Path) -> None:
    path = world.server.kubeconfig(tmp_path / "tls")
    path.write_text(path.read_text("utf-8").replace("http://", "https://"))
    error = await refused(world.connect(kubeconfig=str(path), request_timeout_seconds=0.5))
    assert error.code == "store-tls"


async def test_a_credential_plugin_that_fails_is_named_so(world: KubernetesWorld, tmp_path: Path) -> None:
    path = world.server.kubeconfig(tmp_path / "exec")
    found = json.loads(path.read_text("utf-8"))
    plugin = {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": "false"}
    found["users"][0]["user"] = {"exec": plugin}
    path.write_text(json.dumps(found))
    error = await refused(world.connect(kubeconfig=str(path)))
    assert error.code == "store-auth"
    assert "false" in str(error)
