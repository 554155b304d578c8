"""`hitless doctor`: look at this node from every side, change nothing, and say what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

if TYPE_CHECKING:
    from hitless.agent.config import Config
    from hitless.agent.statefile import Remembered
    from hitless.core.model.key import MasterKey
    from hitless.core.model.view import Listed
    from hitless.telemetry.doctor import Finding

_LOOK_SECONDS = 1.0
_MARKS = {"ok": "ok     ", "warning": "WARNING", "failed": "FAILED ", "unknown": "unknown"}
_STAT = Path("/proc/net/xfrm_stat")


def doctor(
    config: Path = typer.Option(..., "--config", "-c", help="This node's configuration."),
    output: Literal["text", "json"] = typer.Option("text", "--output", "-o", help="A line a check, or JSON."),
) -> None:
    """Check this node; run it as root in the node's network namespace. Exit status 5 where something is wrong."""
    import msgspec

    from hitless.agent.config import load

    found = list(examine(load(config)))
    if output == "json":
        typer.echo(msgspec.json.encode(found).decode())
    else:
        for each in found:
            code = f" [{each.code}]" if each.code else ""
            typer.echo(f"{_MARKS[each.level]}  {each.check}: {each.seen}{code}")
            if each.next and each.level != "ok":
                typer.echo(f"         {each.next}")
    if any(each.level in ("warning", "failed") for each in found):
        raise typer.Exit(5)


def examine(config: Config) -> Iterator[Finding]:
    """All checks, each as far as it gets: one that fails does not keep the others from being made."""
    import asyncio

    from hitless.telemetry.doctor import Finding, kernel_errors

    keys: list[MasterKey] = []
    yield from _guarded("key file", lambda: _keys(config, keys))
    remembered: list[Remembered] = []
    yield from _guarded("state directory", lambda: _remembered(config, remembered))
    listing: list[tuple[Listed, frozenset[str]]] = []
    yield from _guarded("store", lambda: asyncio.run(_listed(config, listing)))
    if remembered and listing:
        yield from _guarded("kernel", lambda: _kernel(config, keys, remembered[0], *listing[0]))
    else:
        yield Finding("kernel", "unknown", "not compared: that takes this node's identity and the store's records")
    if _STAT.exists():
        lines = (line.split() for line in _STAT.read_text().splitlines())
        yield from kernel_errors({name: int(count) for name, count in lines})
    else:
        yield Finding("kernel errors", "unknown", "this kernel keeps no IPsec statistics (CONFIG_XFRM_STATISTICS)")


def _guarded(check: str, work: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    from hitless.telemetry.doctor import Finding

    try:
        yield from work()
    except Exception as error:
        # An error with a code is an answer; anything else is a defect and shows its trace.
        code = getattr(error, "code", "") or next((fault.code for fault in getattr(error, "faults", ())), "")
        if not code:
            raise
        yield Finding(check, "failed", str(error), "", code)


def _keys(config: Config, into: list[MasterKey]) -> list[Finding]:
    from hitless.agent.keys import read
    from hitless.telemetry.doctor import Finding

    into.extend(read(Path(config.keys)))
    return [Finding("key file", "ok", f"{len(into)} good, newest id {into[-1].key_id}")]


def _remembered(config: Config, into: list[Remembered]) -> list[Finding]:
    from hitless.agent.statefile import StateFile, boot_id
    from hitless.telemetry.doctor import Finding, condition

    found = StateFile(Path(config.state_dir)).read()
    if found is None or found.name != config.node:
        seen = f"{config.state_dir} knows no node {config.node}"
        return [Finding("state directory", "failed", seen, "start its agent")]
    into.append(found)
    if found.boot_id != (config.lab.boot_id or boot_id()):
        return [condition("state directory", "warning", "rebooted", "the machine has rebooted since the agent ran")]
    if found.addresses != config.addresses:
        return [condition("state directory", "warning", "address-changed", "the agent has not seen the new addresses")]
    return [Finding("state directory", "ok", f"node id {found.node_id}, incarnation {found.incarnation.counter}")]


async def _listed(config: Config, into: list[tuple[Listed, frozenset[str]]]) -> list[Finding]:
    from hitless.agent.feed import listing
    from hitless.cli.store import open_existing
    from hitless.core.model.layout import Layout
    from hitless.telemetry.doctor import Finding

    store = open_existing(config)
    try:
        listed, revision = await listing(store, config.cluster)
        prefix = Layout(config.cluster).live("")
        alive = await store.list(prefix)
    finally:
        await store.close()
    into.append((listed, frozenset(entry.key.removeprefix(prefix) for entry in alive.entries)))
    return [Finding("store", "ok", f"epoch {listed.epoch}, revision {revision}, {len(listed.nodes)} nodes")]


def _kernel(
    config: Config, keys: list[MasterKey], remembered: Remembered, listed: Listed, alive: frozenset[str]
) -> Iterator[Finding]:
    import time

    from hitless.core.ipsec import derive, desired
    from hitless.core.ipsec.handover import fold
    from hitless.core.ipsec.state import KeysFiled, State
    from hitless.core.model.node import NodeRecord
    from hitless.core.plan.actual import actual
    from hitless.drivers.xfrm.driver import XfrmDriver
    from hitless.drivers.xfrm.own import Owner
    from hitless.telemetry import doctor as judge

    me = NodeRecord(config.node, remembered.node_id, remembered.incarnation, config.addresses, config.prefixes)
    prints = {record.record.fingerprint: record.record.generation for record in listed.keys}
    keyring = {prints[each]: key for key in keys if (each := derive.fingerprint(key, config.cluster)) in prints}
    if len(keyring) < len(keys):
        advice = "the agent registers keys when it reads them: see its log for key-refused"
        yield judge.Finding("key file", "warning", f"{len(keys) - len(keyring)} keys are not registered", advice)
    state = fold(fold(State(me=me, rules=config.rules), listed, 0.0), KeysFiled(frozenset(keyring)), 0.0)
    with XfrmDriver(Owner(reqid_base=config.ipsec.reqid_base)) as driver:
        first = driver.observe()
        time.sleep(_LOOK_SECONDS)
        second = driver.observe()
        held, before = actual(second, driver.owns), actual(first, driver.owns)
    state = fold(state, desired.observed(state, keyring, held, config.settings), 0.0)
    yield from judge.membership(state, alive)
    yield from judge.waiting(state)
    yield from judge.associations(state, held)
    yield from judge.policies(state, config.settings, held, second.policies)
    samples = [
        {ref: desired.sample(group, time.time()) for ref, group in desired.by_ref(state, look, config.settings).items()}
        for look in (before, held)
    ]
    yield from judge.counters(samples[0], samples[1], config.rules.sequence_limit)
