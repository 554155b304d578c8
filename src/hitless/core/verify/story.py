"""A counterexample as numbered sentences that a person can follow without knowing the model."""

from __future__ import annotations

from hitless.core.ipsec.identity import generation_of
from hitless.core.ipsec.state import BLOCK, Install, Publish, Reincarnate, Remove, SaRef, Switch
from hitless.core.model.node import KeyRecord, NodeRecord, Progress
from hitless.core.model.view import KeySeen, Listed, NodeSeen, ProgressSeen, RecordAbsent, StoreEvent, TombstoneSeen
from hitless.core.verify.explore import Counterexample
from hitless.core.verify.log import RELIST, Batch
from hitless.core.verify.model import Action, HandoverModel, World
from hitless.core.verify.node import Node

_HAPPENS = {
    "decide": "looks at what it knows and decides what to do",
    "crash": "'s agent dies and starts again; its kernel has not noticed",
    "reboot": "reboots: its kernel is empty, and it begins a new incarnation",
    "move": "'s agent starts with another underlay address: it begins a new incarnation, and its kernel is as it was",
    "reconnect": "finds another log in the store, reads it and registers again",
    "delete": "'s record vanishes from the store",
    "expire": "'s heartbeat runs out in the store; it goes on as it did",
    "beat": "has a heartbeat again",
    "remove": "is removed: a tombstone takes the place of its records",
    "restore": "'s tombstone is taken away",
    "notice": "finds that it was taken back",
}


def story(model: HandoverModel, found: Counterexample[World, Action]) -> tuple[str, ...]:
    """One numbered sentence a step, and a last one that says what is wrong."""
    lines, world = [], found.start
    for action, after in found.steps:
        lines.append(_sentence(model, world, action))
        world = after
    numbered = [f"{number}. {line}" for number, line in enumerate(lines, 1)]
    return (*numbered, f"=> {found.property}: {found.detail}")


def _sentence(model: HandoverModel, world: World, action: Action) -> str:  # noqa: PLR0911 - one flat case per action
    if action.what == "tick":
        return "a drain time passes; what was on the wire has arrived"
    if action.what == "wipe":
        return "the store is lost and created anew, empty"
    node = model.node(world, action.node)
    match action.what:
        case "load":
            return f"{node.name} loads the key of generation {action.number}"
        case "deliver":
            return f"{node.name} learns {_batch(model.queue(world, action.node)[0])}"
        case "perform":
            return f"{node.name} {_effect(node)}"
        case "refuse":
            return f"{node.name}'s kernel refuses when it {_effect(node)}"
        case "reboot" if node.state.rules.rebirth == "same-key":
            return f"{node.name} reboots: its kernel is empty, and it goes on in the incarnation that it had"
        case "vanish":
            ref = sorted(each for each, _ in node.kernel)[action.number]
            return f"somebody deletes at {node.name} {_sa(node, ref)}"
        case _:
            happens = _HAPPENS[action.what]
            return f"{node.name}{happens}" if happens.startswith("'") else f"{node.name} {happens}"


def _effect(node: Node) -> str:
    match node.pending[0].effect:
        case Install(ref):
            return f"installs {_sa(node, ref)}"
        case Remove(ref):
            return f"deletes {_sa(node, ref)}"
        case Switch(peer, spi, generation):
            return f"stops sending to {peer}" if spi == BLOCK else f"sends to {peer} with generation {generation}"
        case Publish(progress):
            return f"publishes that it receives {_generations(progress)}{_not_yet(node, progress)}"
        case Reincarnate(reason):
            return f"begins a new incarnation ({reason})"
        case other:
            raise AssertionError(f"not an effect that waits: {other!r}")


def _not_yet(node: Node, progress: Progress) -> str:
    """What the kernel lacks of what is being published: the point of a story about a broken promise."""
    newest = max(progress.receives.generations)
    peers = {peer.record.name for peer in node.state.view.peers(node.name)}
    behind = {each.peer for each in progress.receives.behind}
    present = {ref.peer for ref, ident in node.kernel if ref.way == "in" and ident.generation == newest}
    lacking = sorted(peers - behind - present)
    if not lacking:
        return ""
    return f" (its IN state for generation {newest} from {', '.join(lacking)} is not in the kernel yet)"


def _sa(node: Node, ref: SaRef) -> str:
    newest = max(node.state.view.newest_generation(), max(node.state.held, default=0))
    generation = generation_of(ref.spi, newest)
    towards = "from" if ref.way == "in" else "to"
    return f"its {ref.way.upper()} state of generation {generation} {towards} {ref.peer}"


def _batch(batch: Batch) -> str:
    if batch == RELIST:
        return "that the store holds another log, reads it and registers again"
    return ", and ".join(_event(each) for each in batch)


def _event(event: StoreEvent) -> str:
    match event:
        case NodeSeen(node):
            return _node(node.record)
        case KeySeen(key):
            return _key(key.record)
        case ProgressSeen(progress):
            behind = [each.peer for each in progress.sends.behind]
            waits = f", and waits for {', '.join(behind)}" if behind else ""
            sends = f"sends with generation {progress.sends.generation}{waits}"
            return f"that {progress.name} receives {_generations(progress)} and {sends}"
        case RecordAbsent(name):
            return f"that the record of {name} is not in the store"
        case TombstoneSeen(tombstone):
            return f"that {tombstone.record.name} was removed"
        case Listed():
            raise AssertionError("a listing is never queued")


def _node(record: NodeRecord) -> str:
    return f"that {record.name} lives incarnation {record.incarnation.counter}"


def _key(record: KeyRecord) -> str:
    return f"that generation {record.generation} is registered"


def _generations(progress: Progress) -> str:
    generations = progress.receives.generations
    word = "generation" if len(generations) == 1 else "generations"
    return f"{word} {' and '.join(map(str, generations))} as of revision {progress.receives.revision}"
