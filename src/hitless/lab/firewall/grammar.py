"""Reading a firewall scenario: its header lines and its verbs, in the form that all scenarios have.

    title        The agent restarts and nothing has changed
    ports        50
    groups       5
    connections  50
    ---
    start
    wait settled within 30s
    probe start
    stop
    start
    wait settled within 30s
    expect flow_mods == 0
    probe stop
    expect broken == 0
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple, get_args

from hitless.lab import grammar
from hitless.lab.firewall import scenario as s
from hitless.lab.firewall.streams import Expected, Stream
from hitless.lab.grammar import Fields, Headers, Reading
from hitless.lab.scenario import Relation, ScenarioError
from hitless.lab.words import LineError, Words

MARKER: Final = "ports"  # the header line that tells these scenarios from others
CLASSES: Final = ("connections", "forbidden")
_RELATIONS: Final[tuple[Relation, ...]] = get_args(Relation)
_PROTOCOLS: Final = ("tcp", "udp")


class Verb(NamedTuple):
    """How a verb is used, what it does in a sentence, and how the words after it are read."""

    usage: str
    meaning: str
    read: Callable[[Words], s.Action]


def concerns(text: str) -> bool:
    """Whether a scenario's text is one of the firewall's: its header has a line `ports`."""
    header = text.split("\n---", 1)[0]
    return any(line.split()[:1] == [MARKER] for line in header.splitlines())


def load(path: Path) -> s.Scenario:
    """Read a scenario file; its name is the file's name without `.txt`. Raises ScenarioError."""
    return parse(path.read_text(encoding="utf-8"), source=path.name, name=path.stem)


def parse(text: str, *, source: str, name: str) -> s.Scenario:
    """Read a scenario. `source` is how messages call it. Raises ScenarioError for the first line that is wrong."""

    def make(header: Fields, steps: Iterable[Reading], where: list[int]) -> s.Scenario:
        result = s.Scenario(name=name, steps=tuple(s.Step(*each) for each in steps), **header)
        _check(result, where)
        return result

    return grammar.read(text, source, HEADER, VERBS, make)


# --- the header -----------------------------------------------------------------------------------------


def _stream(words: Words) -> Fields:
    kind, name = words.one_of(_PROTOCOLS, "protocol"), words.take("a name")
    ends = words.take("a port"), words.take("a port")
    number = words.whole("port number", 1, 65535)
    expected: Expected = "pass"
    if words:
        words.literal("drop")
        expected = "drop"
    return {"streams": (s.Stream(Stream(name, "tcp" if kind == "tcp" else "udp", *ends, number, expected)),)}


def _count(field: str, low: int, high: int) -> tuple[str, Callable[[Words], Fields]]:
    return f"{field} {low}…{high}", lambda words: {field: words.whole("number", low, high)}


HEADER: Final[Headers] = {
    "title": ("title WORDS", grammar.title),
    "ports": _count("ports", 4, 100),
    "groups": _count("groups", 2, 10),
    "rules": _count("rules", 0, 100),
    "connections": _count("connections", 0, 200),
    "forbidden": _count("forbidden", 0, 200),
    "spare": _count("spare", 0, 20),
    "stream": ("stream tcp|udp NAME p1 p3 7001 [drop]", _stream),
    "datapath": ("datapath netdev|system", lambda w: {"datapath": w.one_of(get_args(s.Datapath), "datapath")}),
    "intent": ("intent files|store", lambda w: {"source": w.one_of(get_args(s.Source), "source")}),
    "write": ("write bundle|piecewise", lambda w: {"write": w.one_of(get_args(s.Write), "way of writing")}),
    "ids": ("ids hash|fresh|reused", lambda w: {"ids": w.one_of(get_args(s.Ids), "kind of ids")}),
    "order": ("order 1", lambda w: {"order": w.whole("seed", 0, 1000)}),
    "resync": ("resync 1s", lambda w: {"resync_seconds": w.duration()}),
    "replay": ("replay", lambda _: {"replay": True}),
}


# --- conditions -----------------------------------------------------------------------------------------


def condition(words: Words) -> s.Condition:  # noqa: PLR0911 - one flat case per condition
    """`settled`, `exited`, `event NAME [code C]`, `condition CODE|none`, `flowing NAMES`, `flows as-noted`,
    `foreign untouched`, or a comparison."""
    kind = words.take("a condition")
    match kind:
        case "settled":
            return s.Settled()
        case "exited":
            return s.Exited()
        case "event":
            return s.Logged(words.take("an event"), _code(words))
        case "condition":
            code = words.take("a condition's code")
            return s.Standing("" if code == "none" else code)
        case "flowing":
            return s.Flowing(words.take("a stream, or `connections`"))
        case "foreign":
            words.literal("untouched")
            return s.AsNoted("foreign")
        case "flows" if words.next == "as-noted":
            words.literal("as-noted")
            return s.AsNoted("ours")
        case _:
            return _comparison(kind, words)


def _code(words: Words) -> str:
    if words.next != "code":
        return ""
    words.literal("code")
    return words.take("a code")


def _comparison(metric: str, words: Words) -> s.Compared:
    if metric not in (*s.NUMBERS, *s.COUNTED):
        said = ("settled", "exited", "event", "condition", "flowing", "flows as-noted", "foreign")
        known = ", ".join((*said, *s.NUMBERS, *s.COUNTED))
        raise words.wrong("scenario-unknown-word", f"`{metric}` is nothing that can be asked for; one of: {known}")
    of = words.take("a stream") if metric in s.STREAMED and words.next not in (*_RELATIONS, "within") else ""
    if metric == "healed":
        words.literal("within")
        return s.Compared(metric, of, "<=", words.duration())
    sign = words.one_of(_RELATIONS, "comparison")
    relation = next(each for each in _RELATIONS if each == sign)
    return s.Compared(metric, of, relation, words.number("value"))


def _wait(words: Words) -> s.Wait:
    what = condition(words)
    words.literal("within")
    return s.Wait(what, words.duration())


def _hold(words: Words) -> s.Hold:
    what = condition(words)
    words.literal("for")
    return s.Hold(what, words.duration())


# --- verbs ----------------------------------------------------------------------------------------------


def _rule(words: Words) -> s.Rule:
    deed, group, name = words.one_of(("add", "remove"), "deed"), words.take("a group"), words.take("a rule's name")
    if deed == "remove":
        return s.Rule(group, name, None)
    protocol = words.one_of(_PROTOCOLS, "protocol")
    port = words.whole("port number", 1, 65535)
    words.literal("from")
    remote = words.take("a group, a prefix, or `any`")
    known: dict[str, object] = {"direction": "ingress", "ethertype": "ipv4", "protocol": protocol, "port": port}
    if remote != "any":
        known["remote"] = {"prefix" if "/" in remote else "group": remote}
    return s.Rule(group, name, tuple(known.items()))


def _port(words: Words) -> s.Groups:
    port, deed = words.take("a port"), words.one_of(("in", "gone"), "deed")
    groups: list[str] = []
    while deed == "in" and (words or not groups):
        groups.append(words.take("a group"))
    return s.Groups(port, tuple(groups))


def _prefix(words: Words) -> s.Prefix:
    deed = words.one_of(("add", "remove"), "deed")
    return s.Prefix("add" if deed == "add" else "remove", words.take("a prefix"))


def _store(words: Words) -> s.StoreReach:
    return s.StoreReach(words.one_of(("cut", "mend"), "deed") == "mend")


def _switch(words: Words) -> s.Switch:
    return s.Switch("kill" if words.one_of(("kill", "start"), "deed") == "kill" else "start")


def _tamper(words: Words) -> s.Tamper | s.Clean:
    deed = words.one_of(("id-zero", "orphan", "delete-accept", "undo"), "deed")
    if deed == "undo":
        return s.Clean()
    if deed == "delete-accept":
        return s.Tamper("delete-accept")
    whose: s.Whose = "ours" if words.one_of(("ours", "foreign"), "owner") == "ours" else "foreign"
    words.literal("at")
    return s.Tamper("id-zero" if deed == "id-zero" else "orphan", whose, words.take("a port"))


def _judge(words: Words) -> s.Judge:
    names = words.take("a stream, `connections` or `forbidden`")
    expected = words.one_of(get_args(Expected), "judgement")
    return s.Judge(names, next(each for each in get_args(Expected) if each == expected))


def _foreign(words: Words) -> s.Foreign:
    words.literal("place")
    return s.Foreign()


def _crash(words: Words) -> s.Crash:
    words.literal("at")
    return s.Crash(words.one_of(s.STEPS, "step"))


def _probe(words: Words) -> s.Probe:
    return s.Probe("start" if words.one_of(("start", "stop"), "deed") == "start" else "stop")


def _note(words: Words) -> s.Note:
    return s.Note("flows" if words.one_of(("flows", "flow-mods"), "thing") == "flows" else "flow-mods")


VERBS: Final = {
    "start": Verb("start", "start the agent; what is armed takes effect", lambda _: s.Start()),
    "stop": Verb("stop", "ask the agent to end (SIGTERM)", lambda _: s.Stop()),
    "kill": Verb("kill", "end the agent at once (SIGKILL)", lambda _: s.Stop(abruptly=True)),
    "crash": Verb("crash at applied", "armed: the agent kills itself after this step of a round", _crash),
    "order": Verb("order 2", "armed: ports are written in this order (with `write piecewise`)",
                  lambda w: s.Order(w.whole("seed", 0, 1000))),
    "rule": Verb(
        "rule add g1 NAME tcp|udp 7001 from g1|10.20.0.0/16|any | rule remove g1 NAME",
        "a rule of a group comes or goes", _rule,
    ),
    "port": Verb("port p7 in g1 … | port p7 gone", "a port's groups; `gone`: the documents name it no more", _port),
    "prefix": Verb("prefix add|remove 10.20.0.0/28", "a prefix comes into the address group, or leaves it", _prefix),
    "shuffle": Verb("shuffle 1", "the same documents in another order, over other files (the agent does not run)",
                    lambda w: s.Shuffle(w.whole("seed", 1, 1000))),
    "plug": Verb("plug p9", "a port comes onto the bridge", lambda w: s.Plug(w.take("a port"), "in")),
    "unplug": Verb("unplug p9", "a port leaves the bridge", lambda w: s.Plug(w.take("a port"), "out")),
    "store": Verb("store cut|mend", "armed: the store is out of reach, or within it", _store),
    "switch": Verb("switch kill|start", "kill -9 of ovs-vswitchd, and its start", _switch),
    "foreign": Verb("foreign place", "another controller's flows are put on the bridge", _foreign),
    "tamper": Verb(
        "tamper id-zero|orphan ours|foreign at p4 | tamper delete-accept | tamper undo",
        "somebody puts in an accept flow on conj_id=0, a conjunction without accept flow, or deletes accept flows of "
        "ours; `undo` takes out what has a foreign cookie",
        _tamper,
    ),
    "poison": Verb("poison NAME|connections", "live connections get the mark of a denied one",
                   lambda w: s.Poison(w.take("a stream, or `connections`"))),
    "judge": Verb("judge NAME|connections|forbidden pass|drop|any", "what must become of what is sent from now on",
                  _judge),
    "probe": Verb("probe start | probe stop", "play and judge the streams, and sample the tables", _probe),
    "note": Verb("note flows | note flow-mods", "note our tables; count flow-mods from here on", _note),
    "after": Verb("after 60s", "time passes, because that is the scenario", lambda w: s.After(w.duration())),
    "wait": Verb("wait CONDITION within 30s", "go on once it holds; end there if it does not in time", _wait),
    "hold": Verb("hold CONDITION for 5s", "it holds all the time", _hold),
    "expect": Verb("expect CONDITION", "it holds now", lambda w: s.Expect(condition(w))),
}  # fmt: skip


# --- what only the whole shows --------------------------------------------------------------------------


def _check(result: s.Scenario, where: list[int]) -> None:
    """Ports, groups and streams that exist, and numbers about traffic that are asked for when they are final."""
    ports, groups = set(result.port_names), set(result.group_names)
    if result.ports - result.spare < 2 * result.groups:
        raise LineError("scenario-bad-number", "each group needs two ports that are not spare")
    if (result.write, result.ids) != ("bundle", "hash") and not result.replay:
        raise LineError("scenario-order", "historic mistakes break connections; add `replay` to the header")
    names: set[str] = set(CLASSES)
    for each in result.streams:
        where[0] = each.line
        _known({each.stream.source, each.stream.destination}, ports, "port")
        names.add(each.stream.name)
    state = "before"
    for step in result.steps:
        where[0] = step.line
        state = _follow(step.action, state)
        _known(_named(step.action, ("port",)), ports, "port")
        _known(_named(step.action, ("group", "groups")), groups, "group")
        _known(_named(step.action, ("names", "of")), names, "stream")
    if state == "probing":
        raise LineError("scenario-order", "the probes are never stopped; add `probe stop` before the expectations")


def _follow(action: s.Action, state: str) -> str:
    match action:
        case s.Probe(deed="start"):
            if state != "before":
                raise LineError("scenario-order", "the probes were started above; they run once in a scenario")
            return "probing"
        case s.Probe() | s.Poison() | s.Judge() if state != "probing":
            raise LineError("scenario-order", "the probes do not run here; `probe start` comes first")
        case s.Probe():
            return "after"
        case s.Wait(condition=condition) | s.Hold(condition=condition) | s.Expect(condition=condition):
            if isinstance(condition, s.Compared) and condition.metric in s.COUNTED and state != "after":
                raise LineError("scenario-order", "this is known only after `probe stop`; move the line below it")
            if isinstance(condition, s.Flowing) and state != "probing":
                raise LineError("scenario-order", "the probes do not run here; `probe start` comes first")
    return state


def _named(action: s.Action, fields: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for thing in (action, getattr(action, "condition", None)):
        for field in fields:
            value = getattr(thing, field, ())
            found.update(value if isinstance(value, tuple) else (value,))
    return found - {""}


def _known(named: set[str], there: set[str], noun: str) -> None:
    if missing := sorted(named - there):
        raise LineError("scenario-unknown-name", f"there is no {noun} {missing[0]}; there are "
                        f"{', '.join(sorted(there))}")  # fmt: skip


__all__ = ["CLASSES", "HEADER", "MARKER", "VERBS", "ScenarioError", "concerns", "condition", "load", "parse"]
