"""`hitless plan`: what would change on this node, who would notice, and whether it is sound on the way. Read only."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

if TYPE_CHECKING:
    from hitless.agent.config import Config as IpsecConfig
    from hitless.agent.firewall.planning import Noticed, SavedPlan, Wanted
    from hitless.agent.firewall.rounds import Firewall
    from hitless.agent.plan_ipsec import IpsecPlan
    from hitless.core.model.flow import Connection

_PENDING = {"proved": 3, "refuted": 4, "unknown": 7}
_SHOWN = 20  # connections that are named
_ENDS = 4  # sources and destinations of one kind of packets that are named
_VALUES = 6  # values of one field that are named
_EVERY = 1 << 30


class PlanError(Exception):
    """A plan that cannot be made, read or carried out. `code` is stable, the message says what to do next."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def plan(
    config: Path = typer.Option(..., "--config", "-c", help="A configuration: the firewall's, or IPsec's."),
    output: Literal["text", "json"] = typer.Option("text", "--output", "-o", help="Text, or JSON."),
    out: Path | None = typer.Option(None, help="Save the firewall's plan here, for `hitless apply`."),
    cubes: int = typer.Option(20, min=1, help="Tell at most so many kinds of packets that fare differently."),
    every: bool = typer.Option(False, "--all", help="Tell all of them."),
) -> None:
    """Show what the agent would change now. Exit 0: nothing; 3: changes; 4: refuted; 7: unknown."""
    if is_firewall(config):
        raise typer.Exit(_firewall(config, output, out, _EVERY if every else cubes))
    if out is not None:
        raise typer.BadParameter("only the firewall's plans can be saved: what IPsec does next depends on its peers")
    raise typer.Exit(_ipsec(config, output))


def is_firewall(config: Path) -> bool:
    """Whether a configuration is the firewall's (it has `bridge`) or IPsec's (it has `keys`). Raises ConfigError."""
    from hitless.agent.config import ConfigError

    try:
        found = tomllib.loads(config.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return True  # whoever reads it says what is wrong
    if ("bridge" in found) == ("keys" in found):
        raise ConfigError(str(config), "top level", "is neither the firewall's configuration, which has `bridge`, nor "
                          "IPsec's, which has `keys`", "config-kind-unclear")  # fmt: skip
    return "bridge" in found


def read_plan(file: Path) -> SavedPlan:
    """A saved plan. Raises PlanError."""
    import msgspec

    from hitless.agent.firewall.planning import ChangedError, read

    try:
        return read(file.read_bytes())
    except FileNotFoundError:
        raise PlanError("plan-invalid", f"{file}: does not exist; `hitless plan --out` writes a plan") from None
    except ChangedError:
        raise PlanError("plan-invalid", f"{file}: was changed after it was made, and nobody has checked what it says "
                        "now; change the documents instead, and make a new plan") from None  # fmt: skip
    except OSError as error:
        raise PlanError("plan-invalid", f"{file}: cannot be read: {error.strerror}; `hitless plan --out` writes a "
                        "plan") from None  # fmt: skip
    except (UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise PlanError("plan-invalid", f"{file}: not a plan: {error}; `hitless plan --out` writes one") from None


# --- the firewall -----------------------------------------------------------------------------------------


def _firewall(config: Path, output: str, out: Path | None, cubes: int) -> int:
    import gc

    import msgspec

    from hitless.agent.firewall import planning
    from hitless.agent.firewall.config import load
    from hitless.agent.firewall.memory import read_intent
    from hitless.agent.firewall.rounds import Firewall
    from hitless.agent.firewall.run import open_switch
    from hitless.cli.firewall_files import intent_of

    gc.disable()  # nothing here is cyclic, and looking for it costs time
    loaded = load(config)
    intent = intent_of(loaded)
    firewall = Firewall(open_switch(loaded), loaded, lambda _step: None)
    before = read_intent(Path(loaded.state_dir))
    made = planning.make(firewall, intent, before, loaded.node, loaded.bridge, cubes)
    _tell_awaited(firewall, Path(loaded.state_dir), made.generation)
    if out is not None:
        try:
            out.write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=1))
        except OSError as error:
            raise PlanError("file-not-written", f"cannot write {out}: {error.strerror}; name another place") from None
    if output == "json":
        typer.echo(msgspec.json.encode(made).decode())
    else:
        for line in lines(made):
            typer.echo(line)
    return _PENDING[made.verdict.verdict] if made.batches else 0


def _tell_awaited(firewall: Firewall, directory: Path, generation: str) -> None:
    from hitless.agent.firewall import confirm

    found = confirm.awaited(directory)
    if found is not None:
        print(confirm.sentence(found, directory), file=sys.stderr)
    elif confirm.elsewhere(firewall.picture, directory) is not None:
        print(f"a change waits for its confirmation, of which {directory} knows nothing", file=sys.stderr)
    if firewall.picture.said(confirm.TAKEN_BACK) == generation:
        print("this change was not confirmed in time before: an agent does not make it, `hitless apply` does",
              file=sys.stderr)  # fmt: skip


def lines(made: SavedPlan) -> list[str]:
    """A plan for people."""
    from hitless.cli.verify import verdict_lines

    if not made.batches:
        return [f"{made.node}, bridge {made.bridge}: intent {made.generation} is in force, nothing to change"]
    sums = [sum(getattr(each, name) for each in made.wanted) for name in ("added", "replaced", "deleted")]
    how = "one bundle" if len(made.batches) == 1 else f"{len(made.batches)} bundles, one after the other"
    found = [
        f"{made.node}, bridge {made.bridge}: intent {made.generation}",
        "",
        f"{sums[0]} flows added, {sums[1]} replaced, {sums[2]} deleted, in {how}:",
        *map(_wanted, made.wanted),
    ]
    found += ["", *_noticed_lines(made)]
    for forms, some in zip(_FORMS, (made.cut, made.freed), strict=True):
        count = len(some)
        found += ["", f"no {forms[0]}" if not some else f"{count} {forms[count > 1]}:"]
        found += [*map(connection, some[:_SHOWN])]
        found += [f"  and {len(some) - _SHOWN} more"] if len(some) > _SHOWN else []
    return [*found, "", *verdict_lines(made.verdict)]


def _noticed_lines(made: SavedPlan) -> list[str]:
    told = [each for each in made.noticed if each.witness]
    blind = [f"  {each.packets}" for each in made.noticed if not each.witness]
    if not told:
        return ["no packet is known to fare differently:", *blind] if blind else ["no packet fares differently"]
    found = [f"packets that fare differently, in {len(told)} {'kind' if len(told) == 1 else 'kinds'}"
             f"{', and there are more (--cubes N, --all)' if made.more else ''}:"]  # fmt: skip
    for each in told:
        found += _kind_lines(each)
    counts = [(sum(each.live == word for each in told), verbs) for word, *verbs in _LIVE]
    sums = [f"{number} {verbs[number > 1]}" for number, verbs in counts if number]
    none = "none of these kinds has packets of connections that are established"
    return [*found, *blind, f"  established connections: {', '.join(sums) or none}"]


_FORMS = (("live connection ends", "live connections end"),
          ("connection that was cut lives again", "connections that were cut live again"))  # fmt: skip
_LIVE = (("cut", "kind cuts them", "kinds cut them"),
         ("freed", "kind lets them pass again", "kinds let them pass again"),
         ("moved", "kind sends them elsewhere", "kinds send them elsewhere"))  # fmt: skip


def _kind_lines(each: Noticed) -> list[str]:
    from hitless.core.verify.transition.cubes import LIVE_TEXT

    found = [f"  {_short(each.packets)}: {_places(each.was)} → {_places(each.becomes)}"]
    fates = [f"{fate.packets}: {fate.was} → {fate.becomes}" for fate in each.targets]
    for word, ends in (("from", each.sources), ("to", fates)):
        found += [f"      {word if not number else '':<5}{_short(end)}" for number, end in enumerate(ends[:_ENDS])]
        found += [f"           and {len(ends) - _ENDS} more (-o json names them)"] if len(ends) > _ENDS else []
    if each.returns:
        found.append("      not those that would leave by the port they came in by: they are dropped in any case")
    return [*found, f"      {LIVE_TEXT[each.live]}", f"      one of them: {each.witness}"]


def _places(text: str) -> str:
    """Where packets go: one place, or how many there are."""
    return f"{len(text.split(' or '))} places" if " or " in text else text


def _short(text: str) -> str:
    """A list of many values by the first ones."""
    parts = []
    for part in text.split(", "):
        values = part.split(" or ")
        more = [f"{len(values) - _VALUES} more"] if len(values) > _VALUES + 1 else []
        parts.append(" or ".join([*values[:_VALUES], *more] if more else values))
    return ", ".join(parts)


def _wanted(each: Wanted) -> str:
    signs = " ".join(f"{sign}{n}" for sign, n in (("+", each.added), ("~", each.replaced), ("-", each.deleted)) if n)
    place = f" ({each.place})" if each.place else ""
    return f"  {signs:<10} {each.kind} {each.name}{place}"


def connection(each: Connection) -> str:
    """A tracked connection as a line."""
    ends = f"{each.source} port {each.source_port} → {each.destination} port {each.destination_port}"
    return f"  protocol {each.protocol}, {ends}, zone {each.zone}"


# --- IPsec ------------------------------------------------------------------------------------------------


def _ipsec(config: Path, output: str) -> int:
    import asyncio

    from hitless.agent.config import load
    from hitless.agent.plan_ipsec import waves
    from hitless.drivers.xfrm.driver import XfrmDriver
    from hitless.drivers.xfrm.own import Owner

    loaded = load(config)
    listed = asyncio.run(_listed(loaded))
    with XfrmDriver(Owner(reqid_base=loaded.ipsec.reqid_base)) as driver:
        found = waves(loaded, listed, driver)
    if output == "json":
        import msgspec

        typer.echo(msgspec.json.encode({"node": loaded.node, **msgspec.to_builtins(found)}).decode())
    else:
        for line in _ipsec_lines(loaded.node, found):
            typer.echo(line)
    return 3 if found.waves or found.notes else 0


async def _listed(config: IpsecConfig) -> Any:
    from hitless.agent.feed import listing
    from hitless.cli.store import open_existing

    store = open_existing(config)
    try:
        return (await listing(store, config.cluster))[0]
    finally:
        await store.close()


def _ipsec_lines(node: str, found: IpsecPlan) -> list[str]:
    if not found.waves and not found.notes:
        return [f"{node}: nothing to change"]
    count, waves = sum(map(len, found.waves)), len(found.waves)
    shown = [f"{node}: {count} operation{'s' * (count != 1)} in {waves} wave{'s' * (waves != 1)}"]
    for number, wave in enumerate(found.waves, 1):
        shown += [f"wave {number}:", *(f"  {each}" for each in wave)]
    return [*shown, *found.notes]
