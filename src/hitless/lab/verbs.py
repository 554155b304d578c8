"""The verbs of the scenario language and its conditions: how each is written, and what it becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, get_args

from hitless.lab import scenario as s
from hitless.lab.words import NODE_NAME, Words

ALL: Final = "all"
"""Stands for every node that is there, in `start all` and `stop all`."""

_PER_NODE: Final = ("keys", "sending", "writes", "heartbeat")
# Of how many nodes each number is asked.
_COUNTS: Final[Mapping[str, tuple[int, ...]]] = {
    "keys": (1, 2), "sending": (2,), "writes": (1,), "heartbeat": (1,), "lost": (0, 2), "sent": (0, 2),
    "received": (2,), "silence": (2,),
}  # fmt: skip
_RELATIONS: Final[tuple[s.Relation, ...]] = get_args(s.Relation)


class Verb(NamedTuple):
    """How a verb is used, what it does in a sentence, and how the words after it are read."""

    usage: str
    meaning: str
    read: Callable[[Words], s.Action]


def condition(words: Words) -> s.Condition:  # noqa: PLR0911 - one flat case per condition
    """`settled [NODE …]`, `laggard NODE reason R`, `event NODE NAME [code|reason C]`, `exited NODE`,
    `foreign untouched`, `healed [NODE NODE] within T`, or a comparison."""
    kind = words.take("a condition")
    match kind:
        case "settled":
            return s.Settled(words.nodes() if NODE_NAME.fullmatch(words.next) else ())
        case "laggard":
            peer = words.node()
            words.literal("reason")
            return s.Lagging(peer, words.take("a reason"))
        case "event":
            node, event = words.node(), words.take("an event")
            if words.next in ("code", "reason"):
                words.literal(words.next)
                return s.Logged(node, event, words.take("a code"))
            return s.Logged(node, event)
        case "exited":
            return s.Exited(words.node())
        case "foreign":
            words.literal("untouched")
            return s.Untouched()
        case "healed":
            pair = (words.node(), words.node()) if NODE_NAME.fullmatch(words.next) else ()
            words.literal("within")
            return s.Compared("healed", pair, "<=", words.duration())
        case _:
            return _comparison(kind, words)


def _comparison(metric: str, words: Words) -> s.Compared:
    if metric not in (*s.TRAFFIC, *s.LIVE, *_PER_NODE) and not metric.startswith("Xfrm"):
        said = ("settled", "laggard", "event", "exited", "foreign")
        known = ", ".join((*said, *_PER_NODE, *s.LIVE, *s.TRAFFIC, "Xfrm…"))
        raise words.wrong("scenario-unknown-word", f"`{metric}` is nothing that can be asked for; one of: {known}")
    nodes = words.nodes() if NODE_NAME.fullmatch(words.next) else ()
    allowed = (0, 1) if metric.startswith("Xfrm") else _COUNTS.get(metric, (0,))
    if len(nodes) not in allowed:
        counts = " or ".join(str(count) for count in allowed)
        raise words.wrong("scenario-word-count", f"`{metric}` is asked of {counts} nodes, here it is {len(nodes)}")
    sign = words.one_of(_RELATIONS, "comparison")
    relation = next(each for each in _RELATIONS if each == sign)
    return s.Compared(metric, nodes, relation, words.number("value"))


def _wait(words: Words) -> s.Wait:
    what = condition(words)
    words.literal("within")
    return s.Wait(what, words.duration())


def _hold(words: Words) -> s.Hold:
    what = condition(words)
    words.literal("for")
    return s.Hold(what, words.duration())


def _all_or_nodes(words: Words) -> tuple[str, ...]:
    if words.next == ALL:
        words.literal(ALL)
        return (ALL,)
    return words.nodes()


def _crash(words: Words) -> s.Crash:
    node = words.node()
    words.literal("at")
    return s.Crash(node, words.one_of(s.CRASH_POINTS, "step"))


def _slow(words: Words) -> s.SlowInstall:
    node = words.node()
    words.literal("install")
    return s.SlowInstall(node, words.duration())


def _fail(words: Words) -> s.FailInstall:
    node = words.node()
    words.literal("install", "from")
    peer = words.node()
    words.literal("times")
    return s.FailInstall(node, peer, words.whole("number of times", 1, 1000))


def _link(words: Words) -> s.LinkDelay | s.Link:
    node = words.node()
    match words.one_of(("delay", "down", "up"), "state of a link"):
        case "delay":
            return s.LinkDelay(node, words.duration())
        case "down":
            return s.Link(node, "down")
        case _:
            return s.Link(node, "up")


def _join(words: Words) -> s.Join:
    node = words.node()
    if not words:
        return s.Join(node)
    words.literal("as")
    return s.Join(node, words.node())


def _rename(words: Words) -> s.Rename:
    node = words.node()
    words.literal("as")
    return s.Rename(node, words.node())


def _address(words: Words) -> s.Address:
    match words.one_of(("add", "use", "drop"), "deed"):
        case "add":
            return s.Address(words.node(), "add")
        case "use":
            return s.Address(words.node(), "use")
        case _:
            return s.Address(words.node(), "drop")


def _xfrm(words: Words) -> s.Flush | s.TouchSa:
    deed = words.one_of(("flush", "delete", "recreate"), "deed")
    node = words.node()
    if deed == "flush":
        return s.Flush(node, "states" if words.one_of(("states", "policies"), "kind") == "states" else "policies")
    inward = words.one_of(("to", "from"), "direction") == "from"
    return s.TouchSa(node, words.node(), "delete" if deed == "delete" else "recreate", inward)


def _plant(words: Words) -> s.Plant:
    node = words.node()
    words.literal("to")
    peer = words.node()
    words.literal("oseq")
    return s.Plant(node, peer, words.whole("sequence number", 0, (1 << 64) - 2))


_STORE: Final = {
    "wipe": s.StoreDeed("wipe"),
    "compact": s.StoreDeed("compact"),
    "restart": s.StoreDeed("restart"),
    "revive": s.StoreDeed("revive"),
}


def _store(words: Words) -> s.StoreDeed | s.Link:
    match words.one_of((*_STORE, "kill", "cut", "mend"), "deed"):
        case "kill":
            words.literal("leader")
            return s.StoreDeed("kill-leader")
        case "cut":
            return s.Link(words.node(), "down", to_store=True)
        case "mend":
            return s.Link(words.node(), "up", to_store=True)
        case deed:
            return _STORE[deed]


def _record(words: Words) -> s.StoreDeed:
    words.literal("delete")
    return s.StoreDeed("forget", words.node())


def _foreign(words: Words) -> s.Foreign:
    words.literal("place")
    return s.Foreign()


def _count(words: Words) -> s.CountWrites:
    words.literal("writes")
    return s.CountWrites()


def _hog(words: Words) -> s.Hog:
    if words.next == "stop":
        words.literal("stop")
        return s.Hog(0)
    words.literal("cpu")
    return s.Hog(words.whole("number of endless loops", 1, 64))


def _key(words: Words) -> s.Key:
    deed = words.one_of(("new", "id", "copy", "bad", "half-written"), "deed")
    if deed == "copy":
        words.literal("to")
        return s.Key("copy", words.nodes())
    if deed == "bad":
        kind = words.one_of(("same-id", "wrong-length"), "kind of bad key")
        words.literal("on")
        return s.Key("same-id" if kind == "same-id" else "wrong-length", words.nodes())
    if deed == "half-written":
        words.literal("on")
        return s.Key("half-written", words.nodes())
    key_id = words.whole("key id", 1, 15) if deed == "id" else 0
    if words.next == "on":
        words.literal("on")
        return s.Key("new", words.nodes(), key_id)
    return s.Key("new", (), key_id)


def _probe(words: Words) -> s.Probe:
    match words.one_of(("start", "watch", "add", "stop"), "deed"):
        case "start":
            return s.Probe("start")
        case "watch":
            return s.Probe("watch")
        case "add":
            return s.Probe("add", words.nodes())
        case _:
            return s.Probe("stop")


VERBS: Final[Mapping[str, Verb]] = {
    "start": Verb(
        "start all | start n1 n2", "start agents; armed faults take effect", lambda w: s.Start(_all_or_nodes(w))
    ),
    "stop": Verb("stop all | stop n2", "ask agents to end (SIGTERM)", lambda w: s.Stop(_all_or_nodes(w))),
    "kill": Verb("kill n2", "end agents at once (SIGKILL)", lambda w: s.Stop(_all_or_nodes(w), abruptly=True)),
    "join": Verb("join n4 [as n2]", "a new node comes up, with the current key; its agent has that name", _join),
    "rename": Verb("rename n4 as n4", "the agent's name from its next start on", _rename),
    "reboot": Verb(
        "reboot n2", "agent killed, SAs and policies gone, another boot id, agent started", lambda w: s.Reboot(w.node())
    ),
    "remove": Verb(
        "remove n2", "`hitless node remove`, said on another node", lambda w: s.Membership(w.node(), "remove")
    ),
    "restore": Verb(
        "restore n2", "`hitless node restore`, said on another node", lambda w: s.Membership(w.node(), "restore")
    ),
    "address": Verb(
        "address add|use|drop n2",
        "a second underlay address comes up; only it is configured (from the next start on); the first one goes",
        _address,
    ),
    "crash": Verb("crash n2 at out-installed", "armed: the agent kills itself after this step", _crash),
    "slow": Verb("slow n2 install 5ms", "armed: every kernel write takes longer", _slow),
    "fail": Verb("fail n1 install from n3 times 3", "armed: the IN state of one peer cannot be installed", _fail),
    "link": Verb("link n1 delay 300ms|down|up", "packets that leave a node take longer, or none passes", _link),
    "store": Verb(
        "store wipe|compact | store restart | store kill leader | store revive | store cut|mend n2",
        "the store is deleted and begins anew, or forgets its history; with `store etcd`: its servers end and begin "
        "again, its leader dies, who died comes back with what it had, or it is out of a node's reach",
        _store,
    ),
    "record": Verb("record delete n2", "all records of a node are deleted from the store", _record),
    "xfrm": Verb(
        "xfrm flush n2 states|policies | xfrm delete|recreate n2 to|from n1",
        "somebody empties a kernel, deletes the newest SA of a direction, or sets it back to 0",
        _xfrm,
    ),
    "plant": Verb("plant n1 to n2 oseq 4294960000", "the counter of a sending SA is moved", _plant),
    "foreign": Verb("foreign place", "SAs and policies of other programs appear on every node", _foreign),
    "count": Verb("count writes", "`writes` counts from here on", _count),
    "hog": Verb("hog cpu 4 | hog stop", "endless loops beside the agents", _hog),
    "key": Verb(
        "key new [on n1 …] | key id 1 [on n1 …] | key copy to n3 | key bad same-id|wrong-length on n2 | "
        "key half-written on n2",
        "what an operator or a mishap does to key files",
        _key,
    ),
    "probe": Verb(
        "probe start | probe watch | probe add n4 | probe stop",
        "judge the traffic; `watch` sends nothing but what `send` asks for",
        _probe,
    ),
    "send": Verb(
        "send n1 n2 1500", "exactly so many packets", lambda w: s.Send(w.node(), w.node(), w.whole("count", 1, 100_000))
    ),
    "after": Verb("after 60s", "time passes, because that is the scenario", lambda w: s.After(w.duration())),
    "wait": Verb("wait CONDITION within 30s", "go on once it holds; end there if it does not in time", _wait),
    "hold": Verb("hold CONDITION for 5s", "it holds all the time", _hold),
    "expect": Verb("expect CONDITION", "it holds now", lambda w: s.Expect(condition(w))),
}
