"""The policies of a node: which traffic needs which transform, and the guards that hold when something is missing.

Per peer an OUT policy (blocking, or pinned to one SPI) and IN/FWD policies that require the transform. Under them
lie the guards: whatever would go to a protected prefix without a transform is a counted drop, never plaintext.
The kernel identifies a policy by selector and direction, not by priority (`xfrm_policy_insert_list`), so a guard's
selector always differs from the selector of what it guards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import ip_network

from hitless.core.ipsec.identity import Path, paths, reqid, version_of
from hitless.core.ipsec.settings import (
    INDEX_TAG,
    PRIORITY_EXEMPT,
    PRIORITY_GUARD,
    PRIORITY_LOCAL,
    PRIORITY_PEER,
    IpsecSettings,
)
from hitless.core.model.node import NodeRecord
from hitless.core.model.sa import Action, Direction, Policy, PolicyKey, Selector, Template

_ANY = {4: "0.0.0.0/0", 6: "::/0"}
_UNSPECIFIED = {4: "0.0.0.0", 6: "::"}  # noqa: S104 - a template's wildcard, nothing is bound
_DIRECTION_BITS: dict[Direction, int] = {"in": 0, "out": 1, "fwd": 2}
_UDP, _ICMPV6 = 17, 58
_NEIGHBOUR_TYPES = (135, 136)  # solicitation and advertisement, RFC 4861 §4.3 and §4.4
_INDEX_SLOTS = 1 << 21
_PREFIXES_LIMIT = 1 << 15  # prefixes whose family is remembered: those of 8,000 nodes with four each


def peer_out(me: NodeRecord, peer: NodeRecord, spi: int, settings: IpsecSettings) -> tuple[Policy, ...]:
    """OUT policies towards a peer, pinned to `spi`; with `spi` 0 they let nothing pass."""
    return tuple(
        _policy("out", selector, "allow" if spi else "block", PRIORITY_PEER, _pinned(path, peer, spi, settings))
        for selector, path in _selectors(me, peer, settings)
    )


def peer_in(me: NodeRecord, peer: NodeRecord, settings: IpsecSettings) -> tuple[Policy, ...]:
    """IN (and, in tunnel mode, FWD) policies that accept a peer's traffic only out of one of its SAs.

    The template names the reqid and no address (`xfrm_state_addr_cmp` takes 0 as any): it holds for old and new
    SAs alike, whatever their outer addresses.
    """
    directions: tuple[Direction, ...] = ("in", "fwd") if settings.mode == "tunnel" else ("in",)
    return tuple(
        _policy(direction, selector, "allow", PRIORITY_PEER, _required(path, peer, settings))
        for selector, path in _selectors(peer, me, settings)
        for direction in directions
    )


def guards(me: NodeRecord, peers: Iterable[NodeRecord], settings: IpsecSettings) -> tuple[Policy, ...]:
    """What holds when everything else is missing."""
    everyone = list(peers)
    if settings.mode == "transport":
        found = [*_transport_guards(everyone, settings), *_exempt(me, everyone, settings)]
    else:
        found = [*_tunnel_guards(me, everyone, settings)]
    return tuple({policy.key: policy for policy in reversed(found)}.values())


def index_of(key: PolicyKey, taken: Iterable[int]) -> int:
    """An owner-tagged index for a new policy: a hash, probed onward past what is taken (`xfrm_gen_index`)."""
    used = frozenset(taken)
    text = f"{key.direction} {key.selector}".encode()
    slot = int.from_bytes(hashlib.sha256(text).digest()[:4], "big")
    while True:
        index = INDEX_TAG << 24 | (slot % _INDEX_SLOTS) << 3 | _DIRECTION_BITS[key.direction]
        if index not in used:
            return index
        slot += 1


def _selectors(src: NodeRecord, dst: NodeRecord, settings: IpsecSettings) -> Iterator[tuple[Selector, Path]]:
    """Selectors from one node to another, each with the outer path that carries it."""
    found = paths(src, dst, settings.mode)
    if settings.mode == "transport":
        for path in found:
            yield _host_to_host(path, settings), path
    elif found:
        for mine in src.prefixes:
            for theirs in dst.prefixes:
                if _version(mine) == _version(theirs):
                    yield Selector(mine, theirs), found[0]


def _host_to_host(path: Path, settings: IpsecSettings) -> Selector:
    port = settings.udp_port
    return Selector(_host(path.src), _host(path.dst), _UDP if port else 0, 0, port)


def _tunnel_guards(me: NodeRecord, peers: list[NodeRecord], settings: IpsecSettings) -> Iterator[Policy]:
    for prefix in settings.protected:
        version = _version(prefix)
        if prefix not in me.prefixes:
            yield _policy("out", Selector(_ANY[version], prefix), "block", PRIORITY_GUARD)
        for mine in me.prefixes:
            if _version(mine) != version:
                continue
            if prefix != mine:
                for direction in _inward():
                    yield _policy(direction, Selector(prefix, mine), "block", PRIORITY_GUARD)
            yield _policy("out", Selector(_ANY[version], mine), "allow", PRIORITY_LOCAL)
            for direction in _inward():
                yield _policy(direction, Selector(mine, mine), "allow", PRIORITY_LOCAL)
    for peer in peers:
        for prefix in peer.prefixes:
            yield _policy("out", Selector(_ANY[_version(prefix)], prefix), "block", PRIORITY_GUARD)


def _inward() -> tuple[Direction, ...]:
    return ("in", "fwd")


def _transport_guards(peers: list[NodeRecord], settings: IpsecSettings) -> Iterator[Policy]:
    protocol = _UDP if settings.udp_port else 0
    protected = (*settings.protected, *(_host(address) for peer in peers for address in peer.addresses))
    for prefix in protected:
        selector = Selector(_ANY[_version(prefix)], prefix, protocol, 0, settings.udp_port)
        yield _policy("out", selector, "block", PRIORITY_GUARD)


def _exempt(me: NodeRecord, peers: list[NodeRecord], settings: IpsecSettings) -> Iterator[Policy]:
    if settings.udp_port:
        return
    for peer in peers:
        for path in paths(me, peer, settings.mode):
            if version_of(path.src) != 6:
                continue
            for icmp_type in _NEIGHBOUR_TYPES:
                there = Selector(_host(path.src), _host(path.dst), _ICMPV6, icmp_type)
                back = Selector(_host(path.dst), _host(path.src), _ICMPV6, icmp_type)
                yield _policy("out", there, "allow", PRIORITY_EXEMPT)
                yield _policy("in", back, "allow", PRIORITY_EXEMPT)


def _policy(
    direction: Direction, selector: Selector, action: Action, priority: int, template: Template | None = None
) -> Policy:
    key = PolicyKey(direction, selector)
    return Policy(direction, selector, action, priority, index_of(key, ()), template)


def _pinned(path: Path, peer: NodeRecord, spi: int, settings: IpsecSettings) -> Template | None:
    if not spi:
        return None
    return Template(path.src, path.dst, reqid(settings.reqid_base, peer.node_id), settings.mode, spi)


def _required(path: Path, peer: NodeRecord, settings: IpsecSettings) -> Template:
    anywhere = _UNSPECIFIED[version_of(path.src)]
    return Template(anywhere, anywhere, reqid(settings.reqid_base, peer.node_id), settings.mode)


@lru_cache(_PREFIXES_LIMIT)
def _version(prefix: str) -> int:
    return ip_network(prefix).version


def _host(address: str) -> str:
    return f"{address}/{32 if version_of(address) == 4 else 128}"
