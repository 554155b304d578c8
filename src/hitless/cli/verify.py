"""`hitless verify`: is a change of a bridge's tables sound for every packet on the way? Dumps and flow-mods are enough.

The bridge may be anybody's: `ovs-ofctl dump-flows` is what it takes, and flow-mods as `ovs-ofctl` reads them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NoReturn

import typer

if TYPE_CHECKING:
    from hitless.agent.firewall.flowmods import Line
    from hitless.agent.firewall.guard import Told
    from hitless.agent.firewall.verifying import Answer
    from hitless.core.model.flow import Flow

EXIT: Final = {"proved": 0, "refuted": 4, "unknown": 7}
_SHOWN: Final = 8  # writes named on each side of a missing order
_WIDTH: Final = 160
_LARGEST: Final = 256 << 20  # bytes; some two million flows
# The same actions as an OpenFlow 1.0 dump writes them, which is what `ovs-ofctl` asks for by default.
_LOAD: Final = re.compile(r"\bload:(?P<value>\w+)->(?:NXM_NX|OXM_OF)_(?P<field>REG\d+|CT_MARK|TUN_ID|METADATA)\[\]")
_STRIP: Final = re.compile(r"\bstrip_vlan\b")


def verify(
    before: Path = typer.Option(..., help="The tables now: all that `ovs-ofctl --no-names dump-flows BRIDGE` prints."),
    plan: Path | None = typer.Option(None, help="Flow-mods in order, or a plan of `hitless plan`."),
    after: Path | None = typer.Option(None, help="The tables afterwards, as a dump, in place of a plan."),
    batch_size: int = typer.Option(0, min=0, help="Write so many lines at a time, with a barrier in between."),
    atomic: bool = typer.Option(False, "--atomic", help="Each batch is one bundle."),
    output: Literal["text", "json"] = typer.Option("text", "--output", "-o", help="Text, or JSON."),
) -> None:
    """Check every state in between. Exit 0: proved; 4: refuted, with the story; 7: unknown; 2: input is not usable."""
    if (plan is None) == (after is None):
        raise typer.BadParameter("give --plan or --after, one of them")
    import gc

    from hitless.agent.firewall.dumps import is_partial
    from hitless.agent.firewall.verifying import judge_lines

    gc.disable()  # nothing here is cyclic, and looking for it costs time
    tables, ends = _dump(before)
    partial = is_partial(tables)
    if plan is not None:
        batches, atomic = _planned(plan, tables, atomic=atomic)
    elif after is not None:
        wanted, _ = _dump(after)
        batches, partial = (_difference(tables, wanted),), partial or is_partial(wanted)
    found = judge_lines(tables, _cut(batches, batch_size), atomic=atomic, partial=partial, ends=ends)
    for line in [_json(found)] if output == "json" else answer_lines(found):
        typer.echo(line)
    raise typer.Exit(EXIT[found.told.verdict])


def answer_lines(found: Answer) -> list[str]:
    """The verdict, then what has to be said beside it."""
    verdict = verdict_lines(found.told)
    return [
        *verdict,
        *([""] if found.notes and len(verdict) > 1 else []),
        *(f"note: {each}" for each in found.notes),
        *(f"not covered: {each}" for each in found.not_covered),
    ]


def _json(found: Answer) -> str:
    import msgspec

    more = {"notes": found.notes, "not_covered": found.not_covered}
    return msgspec.json.encode(msgspec.to_builtins(found.told) | more).decode()


def verdict_lines(told: Told) -> list[str]:
    """A verdict for people: the answer first, then how to see it, then what to change."""
    if told.verdict != "refuted":
        return [f"{told.verdict}: {told.about}"]
    lines = [f"refuted: {told.kind}", "", *(f"  {each}" for each in told.story), "", "its look-ups in that moment:"]
    lines += [f"  {each}" for each in told.steps]
    if told.missing:
        lines += ["", "the missing order: these writes", *_some(told.missing)]
        lines += ["have to come before these", *_some(told.first), "or all of them in one bundle (--atomic)"]
    elif told.first:
        lines += ["", "it takes no more than these writes:", *_some(told.first)]
    return lines


def _some(writes: Sequence[str]) -> list[str]:
    more = [f"  and {len(writes) - _SHOWN} more"] if len(writes) > _SHOWN else []
    return [f"  {each if len(each) <= _WIDTH else each[: _WIDTH - 1] + '…'}" for each in writes[:_SHOWN]] + more


# --- what is read -----------------------------------------------------------------------------------------


def _dump(file: Path) -> tuple[tuple[Flow, ...], int]:
    """The flows, and how many of them have a timeout."""
    from hitless.agent.firewall import dumps

    text = _text(file)
    try:
        return dumps.read_dump(text, str(file)), dumps.ends_by_itself(text)
    except dumps.DumpError as error:
        _unusable(str(error), error.code)


def _planned(file: Path, tables: Sequence[Flow], *, atomic: bool) -> tuple[Sequence[Sequence[Line]], bool]:
    """The batches, and whether they are bundles: those of a plan of ours are, whatever is asked."""
    from hitless.agent.firewall import flowmods

    text = _text(file)
    if text.lstrip().startswith("{"):
        from hitless.cli.plan import PlanError, read_plan

        try:
            saved = read_plan(file)
        except PlanError as error:
            _unusable(str(error), error.code)
        text, atomic = f"\n{flowmods.BARRIER}\n".join("\n".join(batch) for batch in saved.batches), True
    try:
        return flowmods.read(text, tables, str(file), bundled=atomic), atomic
    except flowmods.FlowModError as error:
        _unusable(str(error), error.code)


def _difference(before: Sequence[Flow], after: Sequence[Flow]) -> tuple[Line, ...]:
    """Each write is a line of its own."""
    from hitless.agent.firewall.flowmods import Line
    from hitless.core.plan.flows import by_key, diff

    return tuple(Line(0, "", (op,)) for op in diff(by_key(after), by_key(before), {}))


def _cut(batches: Sequence[Sequence[Line]], size: int) -> Sequence[Sequence[Line]]:
    return [batch[at : at + size] for batch in batches for at in range(0, len(batch), size)] if size else batches


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            found = opened.read(_LARGEST + 1)
        if len(found) > _LARGEST:
            _unusable(f"{file}: is larger than {_LARGEST >> 20} MiB, which no dump of a bridge is; give a file of text",
                      "file-too-large")  # fmt: skip
        return _STRIP.sub("pop_vlan", _LOAD.sub(_set_field, found.decode("utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        _unusable(f"{file}: cannot be read: {why}; give a file of text", "file-unreadable")


def _set_field(found: re.Match[str]) -> str:
    return f"set_field:{found['value']}->{found['field'].lower()}"


def _unusable(message: str, code: str) -> NoReturn:
    print(f"{message} [{code}]", file=sys.stderr)
    raise typer.Exit(2)
