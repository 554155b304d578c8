"""Reading a scenario: header lines, a line of three dashes, and one step a line.

    # comments and blank lines say why
    title  Twenty rotations under load
    nodes  3
    load   1000 packets/s
    ---
    start all
    wait settled within 60s
    repeat 20
        key new
        wait settled within 30s
    end

Indentation means nothing. `repeat N` and `foreach NAME in WORD WORD …` (the word is `$NAME` in the lines below) end
with `end` and are unrolled here. Every verb is one entry of a table: its usage, and a function from words to an action.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import msgspec

from hitless.lab import scenario as s
from hitless.lab.verbs import ALL, VERBS
from hitless.lab.words import LineError, Words

MAX_MEMBERS: Final = 3  # of etcd: with three of them one may die
MAX_STEPS: Final = 5000  # an unrolled loop nest larger than this is a mistake in a number, not a scenario
MAX_NODES: Final = 16  # network namespaces and Python agents on one machine; one lab kernel has one CPU

T = TypeVar("T")
Line = tuple[int, tuple[str, ...]]
Fields = dict[str, Any]
Headers = Mapping[str, tuple[str, Callable[[Words], Fields]]]
"""Header lines by their first word: how one is written, and what it becomes."""
Verbs = Mapping[str, tuple[str, str, Callable[[Words], Any]]]
"""Steps by their first word: how one is written, its meaning, and what it becomes."""
Reading = tuple[int, str, Any, int]
"""A step: its line, its text, what it became, and which turn of its loop it is."""


def load(path: Path) -> s.Scenario:
    """Read a scenario file; its name is the file's name without `.txt`. Raises ScenarioError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise s.ScenarioError("scenario-unreadable", str(path), 0, f"cannot read the file: {reason}") from None
    return parse(text, source=path.name, name=path.stem)


def parse(text: str, *, source: str, name: str) -> s.Scenario:
    """Read a scenario. `source` is how messages call it. Raises ScenarioError for the first line that is wrong."""

    def make(header: Fields, steps: Iterable[Reading], where: list[int]) -> s.Scenario:
        result = s.Scenario(name=name, steps=tuple(s.Step(*each) for each in steps), **header)
        _check(result, where)
        return result

    return read(text, source, HEADER, VERBS, make)


def read(
    text: str,
    source: str,
    headers: Headers,
    verbs: Verbs,
    make: Callable[[Fields, Iterable[Reading], list[int]], T],
) -> T:
    """Read a text of this form in words of its own. `make` gets header, steps, and where the line of a fault is noted.

    Raises ScenarioError.
    """
    lines = tuple(_lines(text))
    dashes = next((at for at, (_, words) in enumerate(lines) if words == ("---",)), None)
    if dashes is None:
        raise s.ScenarioError("scenario-no-steps", source, len(text.splitlines()) or 1,
                              "there is no line `---`; the header stands above it, the steps below")
    where = [1]  # the line being read, for the message
    try:
        header = _header(lines[:dashes], where, headers)
        return make(header, tuple(_unroll(lines[dashes + 1 :], where, verbs)), where)
    except LineError as error:
        raise s.ScenarioError(error.code, source, where[0], str(error)) from None


def parse_step(text: str, known: Collection[str]) -> s.Step | None:
    """One line as a step, None for a blank line or a comment; `known` are the nodes that are there.

    Loops span lines and are refused, and so are probes, whose numbers need a whole scenario. Raises ScenarioError.
    """
    try:
        read_step = next(_unroll(tuple(_lines(text)), [1], VERBS), None)
        step = None if read_step is None else s.Step(*read_step)
        if step is not None:
            _check_alone(step.action, set(known))
    except LineError as error:
        raise s.ScenarioError(error.code, "step", 1, str(error)) from None
    return step


def _lines(text: str) -> Iterator[Line]:
    for number, raw in enumerate(text.splitlines(), start=1):
        words = []
        for word in raw.split():
            if word.startswith("#"):
                break
            words.append(word)
        if words:
            yield number, tuple(words)


# --- the header -----------------------------------------------------------------------------------------

def title(words: Words) -> Fields:
    parts = [words.take("a title")]
    while words:
        parts.append(words.take("a title"))
    return {"title": " ".join(parts)}


def _load(words: Words) -> Fields:
    rate = words.number("rate")
    words.literal("packets/s")
    if not 0 < rate <= 100_000:
        raise words.wrong("scenario-bad-number", f"{rate:g} packets/s is more or less than probes can send")
    return {"load_pps": rate}


def _stream(words: Words) -> Fields:
    words.literal("tcp")
    return {"streams": (s.Stream(words.node(), words.node()),)}


def _cleanup(words: Words) -> Fields:
    if words.one_of(get_args(s.Cleanup), "cleanup") == "timer":
        return {"cleanup": "timer", "cleanup_seconds": words.duration()}
    return {"cleanup": "acked"}


def _store(words: Words) -> Fields:
    if words.one_of(("sqlite", "etcd"), "store") == "sqlite":
        return {"etcd_members": 0}
    if not words:
        return {"etcd_members": 1}
    members = words.whole("number of members", 1, MAX_MEMBERS)
    words.literal("members")
    return {"etcd_members": members}


HEADER: Final[Headers] = {
    "title": ("title WORDS", title),
    "nodes": ("nodes 3", lambda w: {"nodes": w.whole("number of nodes", 2, MAX_NODES)}),
    "mode": ("mode tunnel|transport", lambda w: {"mode": w.one_of(("tunnel", "transport"), "mode")}),
    "family": ("family ipv4|ipv6|dual-stack", lambda w: {"family": w.one_of(get_args(s.Family), "family")}),
    "udp-port": ("udp-port 4789", lambda w: {"udp_port": w.whole("port", 1, 65535)}),
    "drain": ("drain 0.5s", lambda w: {"drain_seconds": w.duration()}),
    "load": ("load 1000 packets/s", _load),
    "stream": ("stream tcp n1 n2", _stream),
    "first-key": ("first-key 14", lambda w: {"first_key": w.whole("key id", 1, 15)}),
    "order": ("order acked|advertise-first", lambda w: {"order": w.one_of(get_args(s.Order), "order")}),
    "cleanup": ("cleanup acked|timer 2s", _cleanup),
    "absent": ("absent keep|delete", lambda w: {"absent": w.one_of(get_args(s.Absent), "absent")}),
    "esn": ("esn on|off", lambda w: {"esn": w.one_of(("on", "off"), "esn") == "on"}),
    "resync": ("resync 1s", lambda w: {"resync_seconds": w.duration()}),
    "store": ("store sqlite|etcd [3 members]", _store),
    "replay": ("replay", lambda _: {"replay": True}),
}


def _header(lines: Sequence[Line], where: list[int], headers: Headers) -> Fields:
    fields: Fields = {}
    for number, words in lines:
        where[0] = number
        if words[0] not in headers:
            raise LineError("scenario-unknown-word", f"`{words[0]}` is no header; one of: {', '.join(headers)}")
        usage, reader = headers[words[0]]
        cursor = Words(words[1:], usage)
        for field, value in reader(cursor).items():
            if field == "streams":
                said_here = (msgspec.structs.replace(stream, line=number) for stream in value)
                fields[field] = (*fields.get(field, ()), *said_here)
            elif field in fields:
                raise LineError("scenario-said-twice", f"`{words[0]}` was said before")
            else:
                fields[field] = value
        cursor.done()
    if "title" not in fields:
        raise LineError("scenario-word-missing", "the header has no `title`")
    return fields


# --- the steps ------------------------------------------------------------------------------------------


def _unroll(lines: Sequence[Line], where: list[int], verbs: Verbs) -> Iterator[Reading]:
    turns: dict[int, int] = {}
    for count, (number, words) in enumerate(_expand(lines, where), start=1):
        where[0] = number
        if count > MAX_STEPS:
            raise LineError("scenario-too-long", f"more than {MAX_STEPS} steps; is a `repeat` too large?")
        if words[0] not in verbs:
            known = ", ".join((*verbs, "repeat", "foreach"))
            raise LineError("scenario-unknown-word", f"`{words[0]}` is no verb; one of: {known}")
        usage, _, reader = verbs[words[0]]
        cursor = Words(words[1:], usage)
        action = reader(cursor)
        cursor.done()
        turns[number] = turns.get(number, 0) + 1
        yield number, " ".join(words), action, turns[number]


def _expand(lines: Sequence[Line], where: list[int]) -> Iterator[Line]:
    """Lines without their loops, in the order in which they happen."""
    at = 0
    while at < len(lines):
        number, words = lines[at]
        where[0] = number
        if words[0] == "end":
            raise LineError("scenario-stray-end", "this `end` ends nothing")
        if words[0] not in ("repeat", "foreach"):
            yield lines[at]
            at += 1
            continue
        length = _block(lines[at + 1 :], words[0])
        body = lines[at + 1 : at + 1 + length]
        for variable, value in _rounds(words):
            yield from _expand([(n, tuple(value if w == variable else w for w in ws)) for n, ws in body], where)
        at += length + 2


def _block(lines: Sequence[Line], opener: str) -> int:
    """How many lines belong to the block that starts here."""
    depth = 1
    for at, (_, words) in enumerate(lines):
        depth += (words[0] in ("repeat", "foreach")) - (words[0] == "end")
        if depth == 0:
            return at
    raise LineError("scenario-missing-end", f"this `{opener}` has no `end`")


def _rounds(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    if words[0] == "repeat":
        cursor = Words(words[1:], "repeat 20")
        times = cursor.whole("number of times", 1, 1000)
        cursor.done()
        yield from [("", "")] * times
        return
    cursor = Words(words[1:], "foreach step in key-loaded retired")
    variable = "$" + cursor.take("a name")
    cursor.literal("in")
    value = cursor.take("a word")
    yield variable, value
    while cursor:
        yield variable, cursor.take("a word")


# --- what only the whole shows --------------------------------------------------------------------------


def _check(result: s.Scenario, where: list[int]) -> None:
    """Nodes that exist, and numbers about traffic that are asked for when they are final."""
    known = set(result.node_names)
    probing: bool | None = None
    _check_store(result, where)
    for stream in result.streams:
        where[0] = stream.line
        _known({stream.source, stream.target}, known)
    for step in result.steps:
        where[0] = step.line
        match step.action:
            case s.Join(node=node):
                if node in known:
                    raise LineError("scenario-unknown-node", f"{node} is there already; `start {node}`")
                known.add(node)
            case s.Probe(deed="start" | "watch"):
                if probing is not None:
                    raise LineError("scenario-order", "the probes were started above; they run once in a scenario")
                probing = True
            case s.Probe(deed=deed):
                if not probing:
                    raise LineError("scenario-order", "the probes do not run here; `probe start` comes first")
                probing = deed != "stop"
            case s.Send():
                _need_probes(probing)
            case s.Wait(condition=condition) | s.Hold(condition=condition) | s.Expect(condition=condition):
                _check_condition(condition, probing)
        _known(nodes_of(step.action), known)
    if probing:
        raise LineError("scenario-order", "the probes are never stopped; add `probe stop` before the expectations")


def _check_store(result: s.Scenario, where: list[int]) -> None:
    for step in result.steps:
        where[0] = step.line
        match step.action:
            case s.Link(to_store=True) | s.StoreDeed(deed="kill-leader" | "revive" | "restart"):
                if result.etcd_members:
                    continue
                raise LineError("scenario-order", "the store is one file; add `store etcd 3 members` to the header")


def _check_condition(condition: s.Condition, probing: bool | None) -> None:
    if not isinstance(condition, s.Compared):
        return
    if condition.about_traffic and probing is not False:
        raise LineError("scenario-order", "this is known only after `probe stop`; move the line below it")
    if condition.metric in s.LIVE:
        _need_probes(probing)


def _need_probes(probing: bool | None) -> None:
    if not probing:
        raise LineError("scenario-order", "the probes do not run here; `probe start` comes first")


def _check_alone(action: s.Action, known: set[str]) -> None:
    if isinstance(action, s.TrafficAction):
        raise LineError("scenario-order", "probes run in scenarios only: `hitless lab run`")
    if not isinstance(action, s.Join):
        _known(nodes_of(action), known)
    elif action.node in known:
        raise LineError("scenario-unknown-node", f"{action.node} is there already; `start {action.node}`")


def _known(nodes: set[str], known: set[str]) -> None:
    if missing := sorted(nodes - known):
        there = ", ".join(sorted(known))
        raise LineError("scenario-unknown-node", f"there is no {missing[0]} (yet); there are {there}")


def nodes_of(action: s.Action) -> set[str]:
    """All nodes that an action names, in itself or in its condition."""
    named: set[str] = set()
    things: list[Any] = [action, getattr(action, "condition", None)]
    for thing in things:
        for field in ("node", "peer"):
            if name := getattr(thing, field, ""):
                named.add(name)
        named.update(name for name in getattr(thing, "nodes", ()) if name != ALL)
    return named
