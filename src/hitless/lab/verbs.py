"""The verbs of the scenario language and its conditions: how each is written, and what it becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, get_args

from hitless.lab import scenario as s
from hitless.lab.words import NODE_NAME, Words

ALL: Final = "all"
"""Stands for every node that is there, in `start all` and `stop all`."""

_PER_NODE: Final = ("keys", "sending", "writes")
_RELATIONS: Final[tuple[s.Relation, ...]] = get_args(s.Relation)


class Verb(NamedTuple):
    """How a verb is used, what it does in a sentence, and how the words after it are read."""

    usage: str
    meaning: str
    read: Callable[[Words], s.Action]


def condition(words: Words) -> s.Condition:
    """`settled [NODE …]`, `laggard NODE reason R`, `event NODE NAME [code C]`, `exited NODE`, or a comparison."""
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
            if words.next == "code":
                words.literal("code")
                return s.Logged(node, event, words.take("a code"))
            return s.Logged(node, event)
        case "exited":
            return s.Exited(words.node())
        case _:
            return _comparison(kind, words)


def _comparison(metric: str, words: Words) -> s.Compared:
    if metric not in (*s.TRAFFIC, *_PER_NODE) and not metric.startswith("Xfrm"):
        known = ", ".join(("settled", "laggard", "event", "exited", *_PER_NODE, *s.TRAFFIC, "Xfrm…"))
        raise words.wrong("scenario-unknown-word", f"`{metric}` is nothing that can be asked for; one of: {known}")
    nodes = words.nodes() if NODE_NAME.fullmatch(words.next) else ()
    allowed = {"keys": (1, 2), "sending": (2,), "writes": (1,), "lost": (0, 2)}.get(metric, (0,))
    if metric.startswith("Xfrm"):
        allowed = (0, 1)
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


def _link(words: Words) -> s.LinkDelay:
    node = words.node()
    words.literal("delay")
    return s.LinkDelay(node, words.duration())


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
    match words.one_of(("start", "add", "stop"), "deed"):
        case "start":
            return s.Probe("start")
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
    "join": Verb("join n4", "a new node comes up, with the current key", lambda w: s.Join(w.node())),
    "crash": Verb("crash n2 at out-installed", "armed: the agent kills itself after this step", _crash),
    "slow": Verb("slow n2 install 5ms", "armed: every kernel write takes longer", _slow),
    "fail": Verb("fail n1 install from n3 times 3", "armed: the IN state of one peer cannot be installed", _fail),
    "link": Verb("link n1 delay 300ms", "packets that leave a node take longer", _link),
    "hog": Verb("hog cpu 4 | hog stop", "endless loops beside the agents", _hog),
    "key": Verb(
        "key new [on n1 …] | key id 1 [on n1 …] | key copy to n3 | key bad same-id|wrong-length on n2 | "
        "key half-written on n2",
        "what an operator or a mishap does to key files",
        _key,
    ),
    "probe": Verb("probe start | probe add n4 | probe stop", "judge the traffic", _probe),
    "after": Verb("after 60s", "time passes, because that is the scenario", lambda w: s.After(w.duration())),
    "wait": Verb("wait CONDITION within 30s", "go on once it holds; end there if it does not in time", _wait),
    "hold": Verb("hold CONDITION for 5s", "it holds all the time", _hold),
    "expect": Verb("expect CONDITION", "it holds now", lambda w: s.Expect(condition(w))),
}
