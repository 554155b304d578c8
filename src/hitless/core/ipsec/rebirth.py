"""When a node can no longer vouch for its kernel state and begins a new incarnation (handover.md §2, §5).

Counters cannot be put back, so nothing is ever repaired in place: whatever is lost, altered, run out or refused by a
peer ends in new identities with fresh keys, and the old ones retire as after any other handover.
"""

from __future__ import annotations

from collections.abc import Iterator

from hitless.core.ipsec import watermarks
from hitless.core.ipsec.state import BLOCK, SaRef, State, Used


def reason(state: State, look: watermarks.Outlook, now: float) -> str:
    """Why a new incarnation is due (a condition code), or ""."""
    if state.rules.historic:
        return ""  # the replayed systems know no such thing
    if state.reincarnate:
        return state.reincarnate
    if any(True for _ in _vanished(state, look)):
        return "sa-vanished"
    if now >= state.reborn_at + state.rules.complaint_pause_seconds and _complained_of(state, look):
        return "peer-cannot-decrypt"
    return _limit(state)


def _vanished(state: State, look: watermarks.Outlook) -> Iterator[SaRef]:
    """What was installed once, is wanted or in use, and is not there. It must not come back: its counters would
    start again under the same key."""
    for ref in look.wanted - state.kernel:
        if Used(ref, state.view.nodes[ref.peer].record.incarnation.nonce) in state.used:
            yield ref
    complete = look.outs <= state.kernel
    for peer in look.peers:
        spi = state.pinned.get(peer.record.name, BLOCK)
        if spi == BLOCK or (complete and spi == look.best[peer.record.name]):
            continue
        pinned = SaRef("out", peer.record.name, spi)
        if pinned not in state.kernel and pinned in _present(state, peer.record.name):
            yield pinned


def _complained_of(state: State, look: watermarks.Outlook) -> bool:
    """Whether a peer says, of the identities in use now, that it cannot decrypt what this node sends."""
    for peer in look.peers:
        heard = state.view.progress.get(peer.record.name)
        if heard is None or not heard.receives.behind:
            continue  # nearly all of them, nearly always
        progress, revision = watermarks.said_by(state, peer.record), watermarks.pair_revision(state, peer)
        if progress is None or revision is None or progress.receives.revision < revision:
            continue
        if any(
            behind.peer == state.me.name and behind.reason == watermarks.CANNOT_DECRYPT
            for behind in progress.receives.behind
        ):
            return True
    return False


def _limit(state: State) -> str:
    rules = state.rules
    for ref, sample in state.samples.items():
        why = ""
        if sample.oseq >= rules.sequence_limit:
            why = "sequence-limit"
        elif rules.soft_bytes and sample.bytes >= rules.soft_bytes:
            why = "byte-limit"
        elif rules.soft_seconds and sample.age_seconds >= rules.soft_seconds:
            why = "age-limit"
        if not why or ref.way != "out" or state.pinned.get(ref.peer) != ref.spi:
            continue
        if ref in _present(state, ref.peer):
            return why
    return ""


def _present(state: State, name: str) -> set[SaRef]:
    """OUT refs of the newest identities with a peer: what is older is on its way out anyhow."""
    peer = state.view.nodes.get(name)
    if peer is None:
        return set()
    return {watermarks.ref(state, "out", peer.record, generation) for generation in state.view.keys}
