"""Which SA is which: identities that are never reused, and the SPI and reqid they show as (handover.md §2).

An SPI reads as `generation mod 255 + 1` (8 bits), `both incarnation counters mod 16` (4 bits), `sender's node
id` (20 bits): 0x07_3_0002a is generation 6, epoch 3, from node 42. It is at least 2^24 (RFC 4303 §2.1 reserves
1-255) and unique per destination, because the kernel ignores the source when it compares SPIs.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from ipaddress import ip_address

import msgspec

from hitless.core.model.node import NODE_ID_BITS, Incarnation, NodeRecord
from hitless.core.model.sa import Mode

REQID_BASE = 0x68000000
NODE_ID_MASK = (1 << NODE_ID_BITS) - 1
_ADDRESSES_LIMIT = 1 << 15
"""Addresses whose family is remembered: those of 8,000 nodes with four each. More only costs time."""
GENERATIONS_APART = 255  # two live generations are never further apart than the SPI's first byte can tell


class Endpoint(msgspec.Struct, frozen=True, order=True):
    """One side of an identity: the node's name, its 20-bit id and the life of its kernel state."""

    name: str
    node_id: int
    incarnation: Incarnation


class Identity(msgspec.Struct, frozen=True, order=True):
    """One direction of one pair under one key, for one life of both kernels. Never used twice."""

    sender: Endpoint
    receiver: Endpoint
    generation: int

    @property
    def spi(self) -> int:
        return spi(self.generation, self.sender, self.receiver)


class Path(msgspec.Struct, frozen=True, order=True):
    """Outer addresses of one SA; an identity has one SA per path."""

    src: str
    dst: str


def endpoint(record: NodeRecord) -> Endpoint:
    return Endpoint(record.name, record.node_id, record.incarnation)


def spi(generation: int, sender: Endpoint, receiver: Endpoint) -> int:
    """The SPI of an identity, host order."""
    epoch = (sender.incarnation.counter + receiver.incarnation.counter) % 16
    return (generation % GENERATIONS_APART + 1) << 24 | epoch << NODE_ID_BITS | sender.node_id


def sender_id(spi_value: int) -> int:
    """The node id of whoever sends with this SPI."""
    return spi_value & NODE_ID_MASK


def generation_of(spi_value: int, newest: int) -> int:
    """The generation an SPI was made for, given the newest that exists: the largest not above it that fits."""
    residue = (spi_value >> 24) - 1
    return newest - (newest - residue) % GENERATIONS_APART


def reqid(reqid_base: int, peer_id: int) -> int:
    """All SAs with one peer, both directions and all generations, share a reqid: the owner tag of SAs."""
    return reqid_base | peer_id


def node_id_candidate(name: str, probe: int) -> int:
    """The `probe`-th id to try for a node's name, from 1 to 2^20 - 1: a hash, then onward on collision."""
    digest = hashlib.sha256(name.encode()).digest()
    return (int.from_bytes(digest[:8], "big") + probe) % NODE_ID_MASK + 1


def paths(sender: NodeRecord, receiver: NodeRecord, mode: Mode) -> tuple[Path, ...]:
    """The outer address pairs between two nodes, the same list seen from either side.

    Tunnel mode uses one: the first addresses of the first family both have, IPv4 before IPv6. Transport mode
    pairs the k-th address of a family with the k-th of the peer's: an SPI is unique per destination, so a
    destination can be in one pair only.
    """
    found = [
        Path(mine, theirs)
        for version in (4, 6)
        for mine, theirs in zip(_family(sender, version), _family(receiver, version), strict=False)
    ]
    return tuple(found[:1] if mode == "tunnel" else found)


def _family(record: NodeRecord, version: int) -> list[str]:
    return [address for address in record.addresses if version_of(address) == version]


@lru_cache(_ADDRESSES_LIMIT)
def version_of(address: str) -> int:
    """4 or 6. Every pair asks for it again with every key, and parsing costs more than all the rest of a path."""
    return ip_address(address).version
