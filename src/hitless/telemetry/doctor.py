"""What is wrong with this node, and what to do about it: checks that each make as much progress as they can.

Pure judging: every function takes what was read and returns findings. `cli/doctor.py` does the reading. Nothing here
changes anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Literal

import msgspec

from hitless.core.ipsec import desired, watermarks
from hitless.core.ipsec.health import judged
from hitless.core.ipsec.settings import IpsecSettings
from hitless.core.ipsec.state import BLOCK, Sample, SaRef, State
from hitless.core.model.condition import REGISTRY
from hitless.core.model.sa import ObservedPolicy, Policy
from hitless.core.plan.actual import Actual
from hitless.core.plan.ops import SetPolicy

Level = Literal["ok", "warning", "failed", "unknown"]

_XFRM_STAT = {
    "XfrmInNoStates": "ESP arrived for an SPI that this node does not have: a peer uses a key too early or too long",
    "XfrmInStateProtoError": "decryption failed: another key, or a sender whose counter went back below the window",
    "XfrmInStateSeqError": "replays: packets seen before, or a sender whose counter went back inside the window",
    "XfrmInTmplMismatch": "plaintext, or the wrong transform, arrived where ESP is required, and was dropped",
    "XfrmInNoPols": "a decrypted packet matched no policy: do both ends agree on prefixes?",
    "XfrmInPolBlock": "a guard held: plaintext of a protected range arrived, and was dropped",
    "XfrmOutPolBlock": "a guard held: there was no SA for a protected destination, and the packet was dropped",
    "XfrmOutNoStates": "a policy pins an SA that is not there",
    "XfrmOutStateSeqError": "a sequence number ran out: without ESN that is after 2^32 packets",
    "XfrmInStateExpired": "an SA reached a hard limit: ours have none, see who set it",
}


class Finding(msgspec.Struct, frozen=True):
    """One check. `seen` is what was found, `next` what to do; `code` is a condition's where there is one."""

    check: str
    level: Level
    seen: str
    next: str = ""
    code: str = ""


def condition(check: str, level: Level, code: str, seen: str) -> Finding:
    """A finding whose advice stands in the condition registry."""
    known = REGISTRY.get(code)
    return Finding(check, level, seen, known.text if known else "", code)


def membership(state: State, alive: frozenset[str]) -> Iterator[Finding]:
    """What the store says of this node and of its peers."""
    name, view = state.me.name, state.view
    mine = view.nodes.get(name)
    if view.removed(name):
        yield condition("registered", "failed", "node-removed", f"a tombstone stands for {name}")
    elif mine is None:
        yield Finding("registered", "failed", f"{name} has no record in the store", "start its agent: it registers")
    elif mine.record.incarnation != state.me.incarnation:
        there, here = mine.record.incarnation.counter, state.me.incarnation.counter
        seen = f"the store has incarnation {there}, this node is {here}"
        yield condition("registered", "failed", "name-taken", seen)
    else:
        yield Finding("registered", "ok", f"{name}, incarnation {mine.record.incarnation.counter}")
    names = {name, *(peer.record.name for peer in view.peers(name))}
    dead = sorted(names - alive)
    if dead:
        advice = "their kernels go on forwarding; start their agents before the next rotation"
        yield Finding("heartbeats", "warning", f"no heartbeat: {', '.join(dead)}", advice)
    else:
        yield Finding("heartbeats", "ok", f"{len(names)} agents alive")


def waiting(state: State) -> Iterator[Finding]:
    """Whom this node waits for, and who says that it does not understand this node."""
    said = state.view.progress.get(state.me.name)
    if said is None:
        advice = "is its agent running, has it a key?"
        yield Finding("progress", "unknown", "this node has published nothing yet", advice)
        return
    behind = (*said.receives.behind, *said.sends.behind)
    for each in behind:
        yield condition("progress", "warning", each.reason, f"waits for {each.peer}: {each.reason}")
    for peer, progress in sorted(state.view.progress.items()):
        deaf = [each.reason for each in progress.receives.behind if each.peer == state.me.name]
        if peer != state.me.name and deaf:
            yield condition("progress", "warning", deaf[0], f"{peer} does not receive from this node: {deaf[0]}")
    if not behind:
        yield Finding("progress", "ok", f"sends with generation {said.sends.generation} to every peer, {said.phase}")


def associations(state: State, actual: Actual) -> Iterator[Finding]:
    """Our SAs against what the records ask for. The state has been folded with what the kernel holds."""
    missing, names = [], desired.peer_names(state)
    wanted: set[SaRef] = set()
    for peer in state.view.peers(state.me.name):
        refs = {watermarks.ref(state, "in", peer.record, each) for each in watermarks.wanted_in(state, peer.record)}
        refs |= {watermarks.ref(state, "out", peer.record, each) for each in watermarks.wanted_out(state, peer.record)}
        missing += sorted(refs - state.kernel)
        wanted |= refs
    for ref in missing:
        seen = f"no {ref.way.upper()} SA {ref.spi:#010x} with {ref.peer}"
        yield condition("associations", "failed", "sa-vanished", seen)
    if state.reincarnate:
        yield condition("associations", "failed", state.reincarnate, "an SA is not what this node would have written")
    known = {each.record.name for each in state.view.peers(state.me.name)}
    old = [ref for ref in sorted(state.kernel - wanted) if ref.peer in known]
    if old:
        listed = ", ".join(f"{ref.way} {ref.spi:#010x} ({ref.peer})" for ref in old[:5])
        yield Finding("old SAs", "warning", f"{len(old)} superseded: {listed}", "they drain, or wait for a late peer")
    stray = sorted({ref.peer for ref in state.kernel if ref.peer not in names.values()})
    if stray:
        advice = "no record names these nodes; a tombstone (hitless node remove) is what deletes"
        yield Finding("old SAs", "warning", f"SAs with unknown nodes: {', '.join(stray)}", advice)
    if not missing and not state.reincarnate:
        yield Finding("associations", "ok", f"{len(actual.sas)} SAs, all as they should be")
    for peer in state.view.peers(state.me.name):
        if state.pinned.get(peer.record.name, BLOCK) == BLOCK:
            yield condition("sending", "failed", "peer-not-ready", f"traffic to {peer.record.name} is blocked")


def policies(
    state: State, settings: IpsecSettings, actual: Actual, everything: Iterable[ObservedPolicy]
) -> Iterator[Finding]:
    """Guards and requirements that are not there, and others' policies that go before ours."""
    lacking = [op.policy for op in desired.standing_ops(state, actual, settings) if isinstance(op, SetPolicy)]
    for policy in lacking:
        advice = "the agent writes it at its next look; is the agent running?"
        yield Finding("policies", "failed", f"missing: {_shown(policy)}", advice)
    ours = [each.policy for each in actual.policies.values()]
    foreign = [each.policy for each in everything if each.policy.key not in actual.policies]
    before = [
        theirs
        for theirs in foreign
        if any(theirs.priority < mine.priority and _overlap(theirs, mine) for mine in ours)
    ]
    for theirs in before:
        advice = "another program's policy goes before ours and decides for this traffic: is that wanted?"
        yield Finding("other policies", "warning", f"{_shown(theirs)}, priority {theirs.priority}", advice)
    if not lacking:
        yield Finding("policies", "ok", f"{len(ours)} policies, guards included")


def counters(before: Mapping[SaRef, Sample], now: Mapping[SaRef, Sample], limit: int) -> Iterator[Finding]:
    """Two looks at the counters, a moment apart."""
    bad = False
    for ref, sample in judged(before, now).items():
        if ref.way == "in" and sample.strikes:
            bad = True
            seen = f"packets from {ref.peer} fail under {ref.spi:#010x}"
            yield condition("decryption", "failed", "cannot-decrypt", seen)
        if ref.way == "out" and sample.oseq >= limit:
            bad = True
            yield condition("sequence numbers", "warning", "sequence-limit", f"{ref.peer}: {sample.oseq} sent")
    if not bad:
        yield Finding("decryption", "ok", "no packet failed while this ran")


def kernel_errors(stat: Mapping[str, int]) -> Iterator[Finding]:
    """`/proc/net/xfrm_stat` of the namespace: counters since it was created, explained."""
    raised = {name: count for name, count in stat.items() if count}
    for name, count in raised.items():
        meaning = _XFRM_STAT.get(name, "see xfrm_proc in the kernel's documentation")
        yield Finding("kernel errors", "warning", f"{name} {count}", meaning)
    if not raised:
        yield Finding("kernel errors", "ok", "every counter is 0")


def _shown(policy: Policy) -> str:
    return f"{policy.direction} {policy.selector.src} > {policy.selector.dst} {policy.action}"


def _overlap(a: Policy, b: Policy) -> bool:
    if a.direction != b.direction:
        return False
    if a.selector.proto and b.selector.proto and a.selector.proto != b.selector.proto:
        return False
    return _meet(a.selector.src, b.selector.src) and _meet(a.selector.dst, b.selector.dst)


def _meet(a: str, b: str) -> bool:
    one: IPv4Network | IPv6Network = ip_network(a)
    other = ip_network(b)
    return one.version == other.version and one.overlaps(other)
