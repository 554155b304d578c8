"""What the IPsec agent would do to this node now, without doing it: the waves, printed as operations without keys.

The view is the store's present listing, the kernel is looked at once, and `handover.step` decides, as in the agent.
Each wave is then taken as acknowledged and `step` is asked again, until it wants nothing more; what peers say
meanwhile is not foreseen, so a rotation's plan ends where this node would wait for them. A new incarnation is foreseen
as well: its SPIs follow from its number, only its keys come from what is drawn then.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from hitless.agent import keys
from hitless.agent.config import Config
from hitless.agent.statefile import Remembered, StateFile, StateFileError, boot_id, next_incarnation
from hitless.core.ipsec import derive, desired
from hitless.core.ipsec.handover import fold, step
from hitless.core.ipsec.state import (
    Effect,
    Event,
    Incarnated,
    Install,
    Installed,
    KeysFiled,
    Publish,
    Published,
    Recalled,
    Reincarnate,
    Remove,
    Removed,
    State,
    Switch,
    Switched,
)
from hitless.core.model.condition import title
from hitless.core.model.key import MasterKey
from hitless.core.model.node import NodeRecord
from hitless.core.model.sa import Policy
from hitless.core.model.view import Listed
from hitless.core.plan.actual import Actual, actual, after
from hitless.core.plan.ops import AddSa, DelPolicy, DelSa, Op, Outcome, SetPolicy, Wave
from hitless.ports import Dataplane

_PEERS_TURN = (
    "peers then install what they need for it and say so; each that has is sent to with the new SPI, and what was in "
    "use is removed when nothing comes by it any more"
)
_WAVES_LIMIT = 16  # a handover has at most install, switch and remove in a row for each generation it holds


class IpsecPlan(msgspec.Struct, frozen=True):
    """Operations on the kernel, wave by wave, as text; and what else there is to say. Both empty: nothing to change."""

    waves: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


class _Undrawn:
    """In place of randomness that is drawn only when the incarnation begins."""

    def token(self, n_bytes: int) -> bytes:
        return bytes(n_bytes)


class NoIdentityError(StateFileError):
    """This node has no identity to plan for."""

    code = "node-not-registered"


def waves(config: Config, listed: Listed, dataplane: Dataplane) -> IpsecPlan:
    """What the agent would do now. Raises NoIdentityError, StateFileError, KeyFileError."""
    file = StateFile(Path(config.state_dir))
    remembered = _remembered(config, file)
    anew = (config.lab.boot_id or boot_id(), config.addresses) != (remembered.boot_id, remembered.addresses)
    incarnation = next_incarnation(remembered.incarnation.counter, _Undrawn()) if anew else remembered.incarnation
    me = NodeRecord(config.node, remembered.node_id, incarnation, config.addresses, config.prefixes)
    filed = keys.read(Path(config.keys))
    prints = {each.record.fingerprint: each.record.generation for each in listed.keys}
    keyring = {prints[each]: key for key in filed if (each := derive.fingerprint(key, config.cluster)) in prints}
    notes = []
    if len(keyring) < len(filed):
        notes.append(f"{len(filed) - len(keyring)} keys are not registered; the agent registers them first")
    if anew:
        notes += ["a new incarnation begins: the machine has rebooted or has other addresses", _PEERS_TURN]
    state = State(me=me, rules=config.rules)
    for event in (Recalled(file.read_used(me.incarnation)), listed, KeysFiled(frozenset(keyring))):
        state = fold(state, event, time.monotonic())
    return _foreseen(config, state, actual(dataplane.observe(), dataplane.owns), keyring, notes)


def _remembered(config: Config, file: StateFile) -> Remembered:
    found = file.read()
    if found is None or found.name != config.node:
        raise NoIdentityError(f"{config.state_dir} knows no node {config.node}: its agent has not run with this "
                              "configuration, and claims an identity when it first does; start it")  # fmt: skip
    return found


def _foreseen(
    config: Config, state: State, held: Actual, keyring: dict[int, MasterKey], notes: list[str]
) -> IpsecPlan:
    settings, planned = config.settings, list[tuple[str, ...]]()
    events: Sequence[Event] = [desired.observed(state, keyring, held, settings)]
    for _ in range(_WAVES_LIMIT):
        state, effects = step(state, events, time.monotonic())
        reborn = next((each for each in effects if isinstance(each, Reincarnate)), None)
        if reborn is not None:
            notes += [f"a new incarnation begins: {title(reborn.reason)}", _PEERS_TURN]
            me = replace(state.me, incarnation=next_incarnation(state.me.incarnation.counter, _Undrawn()))
            state = fold(state, Incarnated(me), time.monotonic())
            events = [desired.observed(state, keyring, held, settings)]
            continue
        wave = desired.standing_ops(state, held, settings)
        held = after(held, map(Outcome, wave))
        events = []
        for effect in effects:
            ops, done = _carried_out(effect, state, held, keyring, config)
            held = after(held, map(Outcome, ops))
            wave += ops
            events = [*events, *done]
            notes += _said(effect, state)
        if wave:
            planned.append(tuple(map(told, wave)))
        if not events:
            break
    return IpsecPlan(tuple(planned), tuple(dict.fromkeys(notes)))


def _carried_out(
    effect: Effect, state: State, held: Actual, keyring: dict[int, MasterKey], config: Config
) -> tuple[Wave, Iterable[Event]]:
    """The operations of an effect, and what would be reported of them."""
    match effect:
        case Install(ref, generation):
            peer = state.view.nodes[ref.peer].record
            wanted = desired.sas(state.me, peer, ref.way, generation, keyring, config.settings)
            return desired.install_ops(wanted, held), [Installed((ref,))]
        case Switch(peer, spi, _) if peer in state.view.nodes:
            record = state.view.nodes[peer].record
            return desired.switch_ops(state, record, spi, held, config.settings), [Switched(peer, spi)]
        case Remove(ref):
            found = desired.by_ref(state, held, config.settings).get(ref, ())
            return tuple(DelSa(each.sa.key) for each in found), [Removed((ref,))]
        case Publish(progress):
            return (), [Published(progress)]
        case _:
            return (), []


def _said(effect: Effect, state: State) -> list[str]:
    match effect:
        case Publish(progress) if progress != state.view.progress.get(state.me.name):
            return [f"published then: sends with generation {progress.sends.generation}, receives "
                    f"{', '.join(map(str, progress.receives.generations)) or 'none'}, {progress.phase}"]  # fmt: skip
        case _:
            return []


def _required(policy: Policy) -> str:
    if policy.template is None:
        return policy.action
    spi = policy.template.spi
    return f"spi {spi:#010x}" if spi else f"any spi of reqid {policy.template.reqid}"


def told(op: Op) -> str:
    """An operation without its keys."""
    match op:
        case AddSa(sa):
            return f"add-sa {sa.src} > {sa.dst} spi {sa.spi:#010x}"
        case DelSa(key):
            return f"del-sa {key.dst} spi {key.spi:#010x}"
        case SetPolicy(policy):
            return f"set-policy {policy.direction} {policy.selector.src} > {policy.selector.dst} {_required(policy)}"
        case DelPolicy(key):
            return f"del-policy {key.direction} {key.selector.src} > {key.selector.dst}"
