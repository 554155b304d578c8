"""`hitless plan`: what would change on this node, who would notice, and whether it is sound on the way. Read only."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

if TYPE_CHECKING:
    from hitless.agent.config import Config as IpsecConfig
    from hitless.agent.firewall.planning import SavedPlan, Wanted
    from hitless.agent.plan_ipsec import IpsecPlan
    from hitless.core.model.flow import Connection

_PENDING = {"proved": 3, "refuted": 4, "unknown": 7}
_SHOWN = 20  # connections, and kinds of packets, that are named


class PlanError(Exception):
    """A plan that cannot be made, read or carried out. `code` is stable, the message says what to do next."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def plan(
    config: Path = typer.Option(..., "--config", "-c", help="A configuration: the firewall's, or IPsec's."),
    output: Literal["text", "json"] = typer.Option("text", "--output", "-o", help="Text, or JSON."),
    out: Path | None = typer.Option(None, help="Save the firewall's plan here, for `hitless apply`."),
) -> None:
    """Show what the agent would change now. Exit 0: nothing; 3: changes; 4: refuted; 7: unknown."""
    if is_firewall(config):
        raise typer.Exit(_firewall(config, output, out))
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

    from hitless.agent.firewall.planning import SavedPlan

    try:
        return msgspec.json.decode(file.read_bytes(), type=SavedPlan)
    except (OSError, msgspec.MsgspecError) as error:
        raise PlanError("plan-invalid", f"{file}: not a plan: {error}; `hitless plan --out` writes one") from None


# --- the firewall -----------------------------------------------------------------------------------------


def _firewall(config: Path, output: str, out: Path | None) -> int:
    import msgspec

    from hitless.agent.firewall import planning
    from hitless.agent.firewall.config import load
    from hitless.agent.firewall.memory import read_intent
    from hitless.agent.firewall.rounds import Firewall
    from hitless.agent.firewall.run import open_switch
    from hitless.cli.firewall_files import intent_of

    loaded = load(config)
    intent = intent_of(loaded)
    firewall = Firewall(open_switch(loaded), loaded, lambda _step: None)
    made = planning.make(firewall, intent, read_intent(Path(loaded.state_dir)), loaded.node, loaded.bridge)
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
    found += ["", "packets that fare differently:" if made.noticed else "no packet fares differently"]
    for each in made.noticed[:_SHOWN]:
        found.append(f"  {each.packets}" + (f": {each.was} → {each.becomes}" if each.witness else ""))
        found += [f"      one of them: {each.witness}"] if each.witness else []
    found += [f"  and {len(made.noticed) - _SHOWN} kinds more"] if len(made.noticed) > _SHOWN else []
    for title, some in (("live connections that end", made.cut), ("marked connections that live again", made.freed)):
        found += ["", f"{len(some)} {title}{':' if some else ''}", *map(connection, some[:_SHOWN])]
        found += [f"  and {len(some) - _SHOWN} more"] if len(some) > _SHOWN else []
    return [*found, "", *verdict_lines(made.verdict)]


def _wanted(each: Wanted) -> str:
    signs = " ".join(
        f"{sign}{n}" for sign, n in (("+", each.added), ("~", each.replaced), ("-", each.deleted)) if n
    )
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
    shown = [f"{node}: {sum(map(len, found.waves))} operations in {len(found.waves)} waves"]
    for number, wave in enumerate(found.waves, 1):
        shown += [f"wave {number}:", *(f"  {each}" for each in wave)]
    return [*shown, *found.notes]
