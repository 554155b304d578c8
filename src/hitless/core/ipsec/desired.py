"""From the handover's effects to operations, and from the kernel's objects back to the handover's facts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from hitless.core.ipsec import derive, policies, watermarks
from hitless.core.ipsec.identity import Identity, endpoint, paths, reqid, sender_id
from hitless.core.ipsec.settings import IpsecSettings
from hitless.core.ipsec.state import BLOCK, Observed, Sample, SaRef, State, Way
from hitless.core.model.key import MasterKey
from hitless.core.model.node import NodeRecord
from hitless.core.model.sa import ObservedSa, Policy, PolicyKey, Sa
from hitless.core.plan.actual import Actual
from hitless.core.plan.ops import AddSa, DelPolicy, Op, SetPolicy

Keyring = Mapping[int, MasterKey]
"""Master keys by generation: the one place where key material lives, beside the key file and the kernel."""


def sas(
    me: NodeRecord, peer: NodeRecord, way: Way, generation: int, keyring: Keyring, settings: IpsecSettings
) -> tuple[Sa, ...]:
    """The SAs of one identity, one a path."""
    sender, receiver = (me, peer) if way == "out" else (peer, me)
    identity = Identity(endpoint(sender), endpoint(receiver), generation)
    return tuple(
        Sa(
            src=path.src,
            dst=path.dst,
            spi=identity.spi,
            reqid=reqid(settings.reqid_base, peer.node_id),
            mode=settings.mode,
            crypto=derive.crypto(keyring[generation], settings.cluster, identity, path),
            esn=settings.esn,
            replay_window=settings.replay_window,
        )
        for path in paths(sender, receiver, settings.mode)
    )


def install_ops(wanted: Iterable[Sa], actual: Actual) -> tuple[Op, ...]:
    """What is missing of an identity's SAs. One that is there and right is not touched."""
    return tuple(AddSa(sa) for sa in wanted if sa.key not in actual.sas or actual.sas[sa.key].sa != sa)


def by_ref(state: State, actual: Actual, settings: IpsecSettings) -> dict[SaRef, tuple[ObservedSa, ...]]:
    """Our SAs, grouped by what the handover calls them."""
    names, found = peer_names(state), defaultdict[SaRef, list[ObservedSa]](list)
    for each in actual.sas.values():
        way: Way = "out" if sender_id(each.sa.spi) == state.me.node_id else "in"
        found[SaRef(way, _name(each.sa.reqid, names, settings), each.sa.spi)].append(each)
    return {ref: tuple(each) for ref, each in found.items()}


def switch_ops(state: State, peer: NodeRecord, spi: int, actual: Actual, settings: IpsecSettings) -> tuple[Op, ...]:
    """Pin all OUT policies of a peer to an SPI (BLOCK: to nothing)."""
    return _writes(policies.peer_out(state.me, peer, spi, settings), actual)


def standing_ops(state: State, actual: Actual, settings: IpsecSettings) -> tuple[Op, ...]:
    """Guards, IN/FWD requirements, and OUT policies where there is none yet; policies nobody needs any more go.

    An OUT policy that exists is left as it is: what it pins is the handover's business. Nothing is deleted before
    the store's first full listing, nor while an SA or policy of ours belongs to a node that nobody has named.
    """
    peers = [peer.record for peer in state.view.peers(state.me.name)]
    guards = policies.guards(state.me, peers, settings)
    inward = [policy for peer in peers for policy in policies.peer_in(state.me, peer, settings)]
    outward = [policy for peer in peers for policy in _outward(state, peer, actual, settings)]
    wanted: dict[PolicyKey, Policy] = {policy.key: policy for policy in (*guards, *inward, *outward)}
    writes = _writes(wanted.values(), actual)
    return (*writes, *_sweep(state, wanted, actual, settings))


def observed(state: State, keyring: Keyring, actual: Actual, settings: IpsecSettings) -> Observed:
    """What a full look at the kernel means to the handover."""
    found = by_ref(state, actual, settings)
    altered, partial = set(), set()
    for peer in state.view.peers(state.me.name):
        for way in _ways():
            for generation in state.held & keyring.keys():
                ref = watermarks.ref(state, way, peer.record, generation)
                if ref not in found:
                    continue
                wanted = {sa.key: sa for sa in sas(state.me, peer.record, way, generation, keyring, settings)}
                if any(wanted.get(each.sa.key) != each.sa for each in found[ref]):
                    altered.add(ref)
                elif len(found[ref]) < len(wanted):
                    partial.add(ref)
    return Observed(frozenset(found.keys() - partial), _pinned(state, actual, settings), frozenset(altered))


def sample(group: Iterable[ObservedSa], wall: float) -> Sample:
    """The counters of a ref, over all its paths; `wall` is the kernel's clock, in seconds since 1970."""
    counters = [each.counters for each in group]
    if len(counters) == 1:  # tunnel mode has one path, and a look reads thousands
        only = counters[0]
        errors = only.integrity_failed + only.replay
        return Sample(only.seq, only.oseq, errors, only.bytes, wall - only.add_time)
    return Sample(
        seq=sum(each.seq for each in counters),
        oseq=max(each.oseq for each in counters),
        errors=sum(each.integrity_failed + each.replay for each in counters),
        bytes=max(each.bytes for each in counters),
        age_seconds=max(wall - each.add_time for each in counters),
    )


def peer_names(state: State) -> dict[int, str]:
    """Node names by node id, removed nodes included."""
    names = {each.record.node_id: name for name, each in state.view.tombstones.items()}
    names.update((each.record.node_id, name) for name, each in state.view.nodes.items())
    return names


def _ways() -> tuple[Way, ...]:
    return ("in", "out")


def _name(reqid_value: int, names: Mapping[int, str], settings: IpsecSettings) -> str:
    peer_id = reqid_value - settings.reqid_base
    return names.get(peer_id, f"#{peer_id}")


def _pinned(state: State, actual: Actual, settings: IpsecSettings) -> dict[str, int]:
    names, found = peer_names(state), defaultdict[str, set[int]](set)
    for each in actual.policies.values():
        policy = each.policy
        if policy.direction == "out" and policy.template is not None:
            found[_name(policy.template.reqid, names, settings)].add(policy.template.spi)
    for peer in state.view.peers(state.me.name):
        keys = [policy.key for policy in policies.peer_out(state.me, peer.record, BLOCK, settings)]
        if any(key not in actual.policies or actual.policies[key].policy.template is None for key in keys):
            found[peer.record.name].add(BLOCK)
    # A switch that was cut short has pinned some selectors only: it counts as not done, and is done again.
    return {name: spis.pop() if len(spis) == 1 else BLOCK for name, spis in found.items()}


def _outward(state: State, peer: NodeRecord, actual: Actual, settings: IpsecSettings) -> Iterator[Policy]:
    blocking = policies.peer_out(state.me, peer, BLOCK, settings)
    templates = {
        actual.policies[policy.key].policy.template for policy in blocking if policy.key in actual.policies
    }
    # A selector that is new beside others of the same peer (a prefix was added) follows them.
    template = templates.pop() if len(templates) == 1 else None
    for policy in blocking:
        if policy.key in actual.policies:
            yield actual.policies[policy.key].policy
        elif template is not None and template.mode == "tunnel":
            pinned = policies.peer_out(state.me, peer, template.spi, settings)
            yield from (each for each in pinned if each.key == policy.key)
        else:
            yield policy


def _writes(wanted: Iterable[Policy], actual: Actual) -> tuple[Op, ...]:
    taken = {each.policy.index for each in actual.policies.values()} | actual.foreign_indexes
    ops: list[Op] = []
    for policy in wanted:
        there = actual.policies.get(policy.key)
        index = there.policy.index if there else policies.index_of(policy.key, taken)
        final = Policy(policy.direction, policy.selector, policy.action, policy.priority, index, policy.template)
        taken.add(index)
        # A selector that somebody else's policy occupies is asked for all the same: the driver refuses, and it shows.
        if there is None or there.policy != final:
            ops.append(SetPolicy(final))
    return tuple(ops)


def _sweep(
    state: State, wanted: Mapping[PolicyKey, Policy], actual: Actual, settings: IpsecSettings
) -> Iterator[Op]:
    if not state.view.synced:
        return
    names = peer_names(state)
    orphans = [each.policy for key, each in actual.policies.items() if key not in wanted]
    used = {each.sa.reqid for each in actual.sas.values()}
    used |= {each.policy.template.reqid for each in actual.policies.values() if each.policy.template}
    nobody = any(reqid_value - settings.reqid_base not in names for reqid_value in used)
    for policy in orphans:
        if policy.template is None:
            known = not nobody
        else:
            name = _name(policy.template.reqid, names, settings)
            gone = state.view.removed(name) and state.pinned.get(name, BLOCK) == BLOCK
            known = name in state.view.nodes and (gone or not state.view.removed(name))
        if known:
            yield DelPolicy(policy.key)


