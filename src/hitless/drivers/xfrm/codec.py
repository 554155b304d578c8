"""SAs and policies as bytes: what is written to the kernel.

The way back is in `decode.py`. Both go through the layouts of `layout.py`; `decode(encode(x)) == x` for every
SA and policy the core can express, which is what makes "nothing to do" recognisable after a write.
"""

from __future__ import annotations

from socket import htonl, htons

from hitless.core.model.sa import Aead, Direction, Mode, Policy, PolicyKey, Sa, SaKey, Selector, Template
from hitless.drivers.xfrm.addresses import pack_address, pack_prefix
from hitless.drivers.xfrm.errors import CodecError
from hitless.drivers.xfrm.layout import (
    ALGORITHM,
    ALGORITHM_ICV,
    ALL_ALGORITHMS,
    ATTRIBUTE,
    ATTRIBUTE_BYTES,
    MODE_TRANSPORT,
    MODE_TUNNEL,
    NOTHING_YET,
    POLICY,
    POLICY_ID,
    PROTO_ESP,
    REPLAY_ESN,
    SA,
    SA_ID,
    SELECTOR,
    STATE_AF_UNSPEC,
    STATE_ESN,
    TEMPLATE,
    UNLIMITED,
    XFRMA_ALG_AEAD,
    XFRMA_ALG_AUTH_TRUNC,
    XFRMA_ALG_CRYPT,
    XFRMA_REPLAY_ESN_VAL,
    XFRMA_TMPL,
)

DIRECTION_NUMBER: dict[Direction, int] = {"in": 0, "out": 1, "fwd": 2}
_MODE_NUMBER: dict[Mode, int] = {"transport": MODE_TRANSPORT, "tunnel": MODE_TUNNEL}
_ANY_SELECTOR = bytes(SELECTOR.size)

# XFRMA_REPLAY_ESN_MAX is 4096 bytes of bitmap.
WINDOW_MAX_PACKETS = 4096 * 8
# The 32-bit bitmap of the plain replay state (RFC 4303 §3.4.3's minimum); a larger window needs the long form.
PLAIN_WINDOW_MAX_PACKETS = 32
_NAME_BYTES = 64
_U32 = 0xFFFFFFFF


def encode_sa(sa: Sa) -> bytes:
    """Body of XFRM_MSG_NEWSA: `xfrm_usersa_info` and its attributes. Raises CodecError for what cannot be written.

    In tunnel mode XFRM_STATE_AF_UNSPEC opens the SA for inner packets of either family; without it the kernel
    sets the inner family to the outer one.
    """
    family, dst = pack_address(sa.dst)
    src_family, src = pack_address(sa.src)
    if family != src_family:
        raise CodecError("invalid", f"the ends {sa.src} and {sa.dst} are of different families; give both in one")
    window = sa.replay_window
    if not 0 <= window <= WINDOW_MAX_PACKETS:
        raise CodecError("invalid", f"a replay window of {window} packets is not within 0 to {WINDOW_MAX_PACKETS}")
    long_form = sa.esn or window > PLAIN_WINDOW_MAX_PACKETS
    flags = (STATE_ESN if sa.esn else 0) | (STATE_AF_UNSPEC if sa.mode == "tunnel" else 0)
    body = SA.pack(
        _ANY_SELECTOR, dst, htonl(_u32("SPI", sa.spi)), PROTO_ESP, src, UNLIMITED,
        0, 0, 0, 0, 0, 0, 0, 0, _u32("reqid", sa.reqid),
        family, _MODE_NUMBER[sa.mode], 0 if long_form else window, flags,
    )  # fmt: skip
    # The kernel demands that the short window field is 0 where the long form is present.
    return body + _crypto(sa) + (_replay(window) if long_form else b"")


def encode_sa_key(key: SaKey) -> bytes:
    """Body of XFRM_MSG_DELSA and XFRM_MSG_GETSA: `xfrm_usersa_id`."""
    family, dst = pack_address(key.dst)
    return SA_ID.pack(dst, htonl(_u32("SPI", key.spi)), family, PROTO_ESP)


def encode_policy(policy: Policy) -> bytes:
    """Body of XFRM_MSG_NEWPOLICY and XFRM_MSG_UPDPOLICY: `xfrm_userpolicy_info` and its template."""
    direction = DIRECTION_NUMBER[policy.direction]
    if policy.index and policy.index & 7 != direction:
        raise CodecError(
            "invalid",
            f"index 0x{policy.index:x} ends in {policy.index & 7}, but direction {policy.direction} is "
            f"{direction}; the kernel takes an index only with its direction in the low three bits",
        )
    body = POLICY.pack(
        _selector(policy.selector), UNLIMITED, NOTHING_YET, _u32("priority", policy.priority),
        _u32("index", policy.index), direction, 0 if policy.action == "allow" else 1, 0, 0,
    )  # fmt: skip
    return body if policy.template is None else body + _attribute(XFRMA_TMPL, _template(policy.template))


def encode_policy_key(key: PolicyKey, index: int = 0) -> bytes:
    """Body of XFRM_MSG_DELPOLICY and XFRM_MSG_GETPOLICY: `xfrm_userpolicy_id`.

    With an index the kernel ignores the selector and takes exactly the policy of that index.
    """
    return POLICY_ID.pack(_selector(key.selector), index, DIRECTION_NUMBER[key.direction])


def _attribute(kind: int, payload: bytes) -> bytes:
    return ATTRIBUTE.pack(ATTRIBUTE_BYTES + len(payload), kind) + payload + bytes(-len(payload) % 4)


def _crypto(sa: Sa) -> bytes:
    crypto = sa.crypto
    if isinstance(crypto, Aead):
        key = crypto.key.reveal()
        head = ALGORITHM_ICV.pack(_name(crypto.name), len(key) * 8, _u32("ICV length", crypto.icv_bits))
        return _attribute(XFRMA_ALG_AEAD, head + key)
    auth_key, enc_key = crypto.auth_key.reveal(), crypto.enc_key.reveal()
    auth = ALGORITHM_ICV.pack(_name(crypto.auth_name), len(auth_key) * 8, _u32("ICV length", crypto.trunc_bits))
    enc = ALGORITHM.pack(_name(crypto.enc_name), len(enc_key) * 8)
    return _attribute(XFRMA_ALG_AUTH_TRUNC, auth + auth_key) + _attribute(XFRMA_ALG_CRYPT, enc + enc_key)


def _replay(window_packets: int) -> bytes:
    words = (window_packets + 31) // 32
    return _attribute(XFRMA_REPLAY_ESN_VAL, REPLAY_ESN.pack(words, 0, 0, 0, 0, window_packets) + bytes(words * 4))


def _template(template: Template) -> bytes:
    family, dst = pack_address(template.dst)
    src_family, src = pack_address(template.src)
    if family != src_family:
        raise CodecError("invalid", f"the template's ends {template.src} and {template.dst} are of different families")
    # optional=0 is `level required`: without an SA the packet is dropped, never passed in plaintext.
    return TEMPLATE.pack(
        dst, htonl(_u32("SPI", template.spi)), PROTO_ESP, family, src, _u32("reqid", template.reqid),
        _MODE_NUMBER[template.mode], 0, 0, ALL_ALGORITHMS, ALL_ALGORITHMS, ALL_ALGORITHMS,
    )  # fmt: skip


def _selector(selector: Selector) -> bytes:
    family, dst, dst_length = pack_prefix(selector.dst)
    src_family, src, src_length = pack_prefix(selector.src)
    if family != src_family:
        raise CodecError("invalid", f"the prefixes {selector.src} and {selector.dst} are of different families")
    for what, value, limit in (("port", selector.sport, 65535), ("port", selector.dport, 65535),
                               ("protocol", selector.proto, 255)):  # fmt: skip
        if not 0 <= value <= limit:
            raise CodecError("invalid", f"{what} {value} is not within 0 to {limit}")
    return SELECTOR.pack(
        dst, src, htons(selector.dport), 0xFFFF if selector.dport else 0,
        htons(selector.sport), 0xFFFF if selector.sport else 0,
        family, dst_length, src_length, selector.proto, 0, 0,
    )  # fmt: skip


def _name(text: str) -> bytes:
    raw = text.encode()
    # The field is NUL-terminated text; an embedded NUL would name another algorithm than the one asked for.
    if len(raw) >= _NAME_BYTES or b"\0" in raw:
        raise CodecError("invalid", f"algorithm name {text[:80]!r} has no form of less than {_NAME_BYTES} bytes")
    return raw


def _u32(what: str, value: int) -> int:
    if not 0 <= value <= _U32:
        raise CodecError("invalid", f"{what} {value} does not fit 32 bits")
    return value
