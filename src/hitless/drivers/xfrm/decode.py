"""SAs and policies from bytes: what the kernel holds, ours and everybody else's.

Nothing that another program may have installed makes the reader fail. What the model cannot express is read
as close as possible and named in `foreign_traits`; an object with a trait is never ours. Only bytes that are
too short to be the kernel's structure at all raise CodecError.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from socket import ntohl, ntohs

from hitless.core.model.sa import (
    Action,
    Aead,
    AuthEnc,
    Crypto,
    Direction,
    Mode,
    ObservedPolicy,
    ObservedSa,
    Policy,
    Sa,
    SaCounters,
    Selector,
    Template,
)
from hitless.core.model.secret import Secret
from hitless.drivers.xfrm import layout as wire
from hitless.drivers.xfrm.addresses import V4, V6, address_text, prefix_text
from hitless.drivers.xfrm.errors import CodecError

# Where each attribute's payload starts and ends, by type; `_UNREADABLE` is there if the list breaks off.
_Places = dict[int, tuple[int, int]]
_UNREADABLE = -1

_DIRECTIONS: tuple[Direction, ...] = ("in", "out", "fwd", "in", "out", "fwd")
_MODES: dict[int, Mode] = {wire.MODE_TRANSPORT: "transport", wire.MODE_TUNNEL: "tunnel"}
_MODE_NAMES = {2: "routeoptimization", 3: "in-trigger", 4: "beet", 5: "iptfs"}
_PROTO_NAMES = {51: "ah", 108: "comp", 43: "route", 60: "dstopts"}
_SA_ORDINARY = frozenset({
    wire.XFRMA_ALG_AEAD, wire.XFRMA_ALG_AUTH, wire.XFRMA_ALG_AUTH_TRUNC, wire.XFRMA_ALG_CRYPT,
    wire.XFRMA_REPLAY_ESN_VAL, wire.XFRMA_REPLAY_VAL, wire.XFRMA_LASTUSED, wire.XFRMA_PAD,
})  # fmt: skip
_POLICY_ORDINARY = frozenset({wire.XFRMA_TMPL, wire.XFRMA_POLICY_TYPE, wire.XFRMA_LASTUSED, wire.XFRMA_PAD})
_ATTRIBUTE_NAMES = {
    wire.XFRMA_ALG_COMP: "compression", wire.XFRMA_ENCAP: "encap", wire.XFRMA_SEC_CTX: "security-context",
    wire.XFRMA_COADDR: "care-of-address", wire.XFRMA_MARK: "mark", wire.XFRMA_TFCPAD: "tfc-padding",
    wire.XFRMA_SA_EXTRA_FLAGS: "extra-flags", wire.XFRMA_OFFLOAD_DEV: "offload", wire.XFRMA_SET_MARK: "output-mark",
    wire.XFRMA_SET_MARK_MASK: "output-mark", wire.XFRMA_IF_ID: "if_id", wire.XFRMA_MTIMER_THRESH: "mapping-timer",
    wire.XFRMA_SA_DIR: "direction", _UNREADABLE: "unreadable",
}  # fmt: skip


def _any_selector(family: int) -> bytes:
    return wire.SELECTOR.pack(bytes(16), bytes(16), 0, 0, 0, 0, family, 0, 0, 0, 0, 0)


# What the kernel makes of the empty selector an SA of ours is written with (`copy_from_user_state`).
_SA_SELECTORS = {
    (wire.MODE_TUNNEL, V4): _any_selector(0), (wire.MODE_TUNNEL, V6): _any_selector(0),
    (wire.MODE_TRANSPORT, V4): _any_selector(V4), (wire.MODE_TRANSPORT, V6): _any_selector(V6),
}  # fmt: skip


def decode_sa(data: bytes, start: int, end: int) -> ObservedSa:
    """One `xfrm_usersa_info` with its attributes, at `start` up to `end` of `data`. Raises CodecError if too short."""
    if end - start < wire.SA_BYTES or end > len(data):
        raise CodecError("malformed", f"an SA of {end - start} bytes is shorter than {wire.SA_BYTES}")
    (selector, daddr, spi, proto, saddr, limits, n_bytes, n_packets, add_time, use_time, late, replayed, failed,
     _, reqid, family, mode, window, flags) = wire.SA.unpack_from(data, start)  # fmt: skip
    places = _attributes(data, start + wire.SA_BYTES, end)
    crypto = _crypto(data, places)
    window, seq, oseq = _replay(data, places, window)
    traits: tuple[str, ...] = ()
    ordinary_flags = flags & ~wire.STATE_ESN == (wire.STATE_AF_UNSPEC if mode == wire.MODE_TUNNEL else 0)
    if not (
        ordinary_flags
        and proto == wire.PROTO_ESP
        and limits == wire.UNLIMITED
        and selector == _SA_SELECTORS.get((mode, family))
        and places.keys() <= _SA_ORDINARY
        and crypto is not None
    ):
        traits = _sa_traits(selector, proto, limits, family, mode, flags, places, crypto)
    sa = Sa(
        address_text(family, saddr), address_text(family, daddr), ntohl(spi), reqid, _MODES.get(mode, "transport"),
        crypto or _NO_CRYPTO, bool(flags & wire.STATE_ESN), window,
    )  # fmt: skip
    counters = SaCounters(n_packets, n_bytes, seq, oseq, add_time, use_time, replayed, late, failed)
    return ObservedSa(sa, counters, traits)


def decode_policy(data: bytes, start: int, end: int) -> ObservedPolicy:
    """One `xfrm_userpolicy_info` with its attributes. Raises CodecError if too short."""
    if end - start < wire.POLICY_BYTES or end > len(data):
        raise CodecError("malformed", f"a policy of {end - start} bytes is shorter than {wire.POLICY_BYTES}")
    raw_selector, limits, _, priority, index, number, verdict, flags, share = wire.POLICY.unpack_from(data, start)
    places = _attributes(data, start + wire.POLICY_BYTES, end)
    selector, selector_traits = _selector(raw_selector)
    traits = list(selector_traits)
    # A policy of a socket (IP_XFRM_POLICY) is in the same list, with its direction counted on from three.
    if number > 2:
        traits.append("socket")
    if limits != wire.UNLIMITED:
        traits.append("lifetime")
    if flags or share:
        traits.append("flags")
    if verdict > 1:
        traits.append("action")
    kind_start, kind_end = places.get(wire.XFRMA_POLICY_TYPE, (0, 0))
    if kind_end > kind_start and data[kind_start]:
        traits.append("sub-policy")
    if not places.keys() <= _POLICY_ORDINARY:
        traits.extend(_attribute_traits(places, _POLICY_ORDINARY))
    template, template_traits = _template(data, *places.get(wire.XFRMA_TMPL, (0, 0)))
    traits.extend(template_traits)
    action: Action = "block" if verdict else "allow"
    direction: Direction = _DIRECTIONS[number] if number < len(_DIRECTIONS) else "in"
    policy = Policy(direction, selector, action, priority, index, template)
    return ObservedPolicy(policy, tuple(dict.fromkeys(traits)))


def _attributes(data: bytes, start: int, end: int) -> _Places:
    places: _Places = {}
    unpack = wire.ATTRIBUTE.unpack_from
    while start + wire.ATTRIBUTE_BYTES <= end:
        length, kind = unpack(data, start)
        if length < wire.ATTRIBUTE_BYTES or start + length > end:
            places[_UNREADABLE] = (start, start)
            break
        places[kind & wire.ATTRIBUTE_TYPE_MASK] = (start + wire.ATTRIBUTE_BYTES, start + length)
        start += (length + 3) & ~3
    return places


_NO_CRYPTO = AuthEnc("", Secret(b""), 0, "", Secret(b""))


def _crypto(data: bytes, places: _Places) -> Crypto | None:
    """The algorithms of an SA, or None where they are not what ESP SAs of this program have."""
    place = places.get(wire.XFRMA_ALG_AEAD)
    if place is not None:
        aead = _keyed(data, *place, wire.ALGORITHM_ICV)
        return None if aead is None else Aead(aead[0], aead[2], aead[1])
    auth_place, enc_place = places.get(wire.XFRMA_ALG_AUTH_TRUNC), places.get(wire.XFRMA_ALG_CRYPT)
    if auth_place is None or enc_place is None:
        return None
    auth = _keyed(data, *auth_place, wire.ALGORITHM_ICV)
    enc = _keyed(data, *enc_place, wire.ALGORITHM)
    return None if auth is None or enc is None else AuthEnc(auth[0], auth[2], auth[1], enc[0], enc[2])


def _keyed(data: bytes, start: int, end: int, head: struct.Struct) -> tuple[str, int, Secret] | None:
    if end - start < head.size:
        return None
    name, key_bits, *icv = head.unpack_from(data, start)
    key_start = start + head.size
    key_end = key_start + (key_bits + 7) // 8
    if key_end > end:
        return None
    return _name(name), icv[0] if icv else 0, Secret(data[key_start:key_end])


# The kernel knows some fifty algorithms; what else a garbled message may contain is not worth remembering.
@lru_cache(maxsize=256)
def _name(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("ascii", "replace")


def _replay(data: bytes, places: _Places, window: int) -> tuple[int, int, int]:
    """Window in packets, and the 64-bit numbers of the last packet received and sent."""
    place = places.get(wire.XFRMA_REPLAY_ESN_VAL)
    if place is not None and place[1] - place[0] >= wire.REPLAY_ESN.size:
        _, oseq, seq, oseq_high, seq_high, long_window = wire.REPLAY_ESN.unpack_from(data, place[0])
        return long_window, seq_high << 32 | seq, oseq_high << 32 | oseq
    place = places.get(wire.XFRMA_REPLAY_VAL)
    if place is not None and place[1] - place[0] >= wire.REPLAY.size:
        oseq, seq, _ = wire.REPLAY.unpack_from(data, place[0])
        return window, seq, oseq
    return window, 0, 0


def _sa_traits(
    selector: bytes, proto: int, limits: bytes, family: int, mode: int, flags: int, places: _Places,
    crypto: Crypto | None,
) -> tuple[str, ...]:  # fmt: skip
    traits = []
    if proto != wire.PROTO_ESP:
        traits.append(f"proto:{_PROTO_NAMES.get(proto, proto)}")
    if mode not in _MODES:
        traits.append(f"mode:{_MODE_NAMES.get(mode, mode)}")
    if family not in {V4, V6}:
        traits.append("family")
    if limits != wire.UNLIMITED:
        traits.append("lifetime")
    if flags & ~(wire.STATE_ESN | wire.STATE_AF_UNSPEC):
        traits.append("flags")
    inner_family = wire.SELECTOR.unpack(selector)[6]
    if inner_family != (0 if mode == wire.MODE_TUNNEL else family) or (
        bool(flags & wire.STATE_AF_UNSPEC) != (mode == wire.MODE_TUNNEL)
    ):
        traits.append("inner-family")
    if selector != _any_selector(inner_family):
        traits.append("selector")
    if crypto is None:
        traits.append("algorithm")
    return tuple(dict.fromkeys((*traits, *_attribute_traits(places, _SA_ORDINARY))))


def _attribute_traits(places: _Places, ordinary: frozenset[int]) -> list[str]:
    return [_ATTRIBUTE_NAMES.get(kind, f"attribute:{kind}") for kind in sorted(places.keys() - ordinary)]


# Policies share few selectors, but every pass reads the same ones again.
@lru_cache(maxsize=65536)
def _selector(raw: bytes) -> tuple[Selector, tuple[str, ...]]:
    dst, src, dport, dport_mask, sport, sport_mask, family, dst_length, src_length, proto, ifindex, user = (
        wire.SELECTOR.unpack(raw)
    )
    traits = []
    src_text, src_canonical = prefix_text(family, src, src_length)
    dst_text, dst_canonical = prefix_text(family, dst, dst_length)
    if family not in {V4, V6}:
        traits.append("family")
    if not (src_canonical and dst_canonical):
        traits.append("host-bits")
    if dport_mask != (0xFFFF if dport else 0) or sport_mask != (0xFFFF if sport else 0):
        traits.append("port-mask")
    if ifindex:
        traits.append("ifindex")
    if user:
        traits.append("user")
    return Selector(src_text, dst_text, proto, ntohs(sport), ntohs(dport)), tuple(traits)


def _template(data: bytes, start: int, end: int) -> tuple[Template | None, list[str]]:
    count, rest = divmod(end - start, wire.TEMPLATE_BYTES)
    traits = []
    if rest:
        traits.append("unreadable")
    if not count:
        return None, traits
    if count > 1:
        traits.append("templates")
    dst, spi, proto, family, src, reqid, mode, share, optional, *masks = wire.TEMPLATE.unpack_from(data, start)
    if proto != wire.PROTO_ESP:
        traits.append(f"proto:{_PROTO_NAMES.get(proto, proto)}")
    if mode not in _MODES:
        traits.append(f"mode:{_MODE_NAMES.get(mode, mode)}")
    if family not in {V4, V6}:
        traits.append("family")
    if optional:
        traits.append("optional-template")
    if share:
        traits.append("flags")
    if any(mask != wire.ALL_ALGORITHMS for mask in masks):
        traits.append("algorithm")
    template = Template(
        address_text(family, src), address_text(family, dst), reqid, _MODES.get(mode, "transport"), ntohl(spi)
    )
    return template, traits
