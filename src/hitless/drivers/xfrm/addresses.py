"""Addresses and prefixes between canonical text and the kernel's 16 bytes, remembered.

A dump names the same few thousand addresses again and again, so both directions are cached; the limits are
several times the 20,000 SAs that one node is built for and keep the memory of a long-lived agent bounded.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from socket import AF_INET, AF_INET6, inet_ntop

from hitless.drivers.xfrm.errors import CodecError

_CACHED_ADDRESSES = 65536

V4 = int(AF_INET)
V6 = int(AF_INET6)


@lru_cache(maxsize=_CACHED_ADDRESSES)
def pack_address(text: str) -> tuple[int, bytes]:
    """Family and 16 bytes of an address. Raises CodecError for what is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise CodecError("invalid", f"{text!r} is not an IP address: {error}; write it without a prefix") from None
    return (V4, address.packed + bytes(12)) if address.version == 4 else (V6, address.packed)


@lru_cache(maxsize=_CACHED_ADDRESSES)
def pack_prefix(text: str) -> tuple[int, bytes, int]:
    """Family, 16 bytes and length of a prefix. Raises CodecError for what is none, and for bits after the prefix.

    The kernel compares selectors byte by byte: bits after the prefix would make a second policy for the same packets.
    """
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise CodecError("invalid", f"{text!r} is not a prefix: {error}; write it like 10.1.0.0/16") from None
    packed = network.network_address.packed
    return (V4, packed + bytes(12), network.prefixlen) if network.version == 4 else (V6, packed, network.prefixlen)


@lru_cache(maxsize=_CACHED_ADDRESSES)
def address_text(family: int, raw: bytes) -> str:
    """Canonical text of 16 bytes. A family that is neither IPv4 nor IPv6 is read as whichever the bytes look like."""
    if family == V4 or (family != V6 and not any(raw[4:])):
        return inet_ntop(AF_INET, raw[:4])
    text = inet_ntop(AF_INET6, raw)
    # The C library writes ::ffff:1.2.3.4 where `ipaddress` has pure hexadecimal groups.
    return str(ipaddress.IPv6Address(raw)) if "." in text else text


@lru_cache(maxsize=_CACHED_ADDRESSES)
def prefix_text(family: int, raw: bytes, length: int) -> tuple[str, bool]:
    """Text of a prefix, and whether it is canonical: a length the family has, and no bits after it."""
    text = f"{address_text(family, raw)}/{length}"
    bits = 32 if family == V4 else 128
    if length > bits:
        return text, False
    used = int.from_bytes(raw[: bits // 8], "big")
    return text, not used & ((1 << (bits - length)) - 1) and not any(raw[bits // 8 :])
