"""Identities, SPIs and derived keys: known answers, computed here with `hmac` and `hashlib` alone."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from hitless.core.ipsec import derive, identity
from hitless.core.ipsec.identity import Endpoint, Identity, Path
from hitless.core.model.key import AeadSpec, AuthEncSpec, MasterKey
from hitless.core.model.node import Incarnation, NodeRecord
from hitless.core.model.sa import Aead, AuthEnc
from hitless.core.model.secret import Secret

A = Endpoint("a", 0x2A, Incarnation(1, "11" * 16))
B = Endpoint("b", 0x2B, Incarnation(2, "22" * 16))
ROAD = Path("192.0.2.1", "192.0.2.2")
GCM = MasterKey(3, AeadSpec("rfc4106(gcm(aes))", 36, 128), Secret(bytes(range(36))))
CBC = MasterKey(4, AuthEncSpec("hmac(sha256)", 32, 128, "cbc(aes)", 16), Secret(bytes(range(48))))


def hkdf(material: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 with SHA-256, written out."""
    pseudorandom = hmac.new(salt, material, hashlib.sha256).digest()
    out, block = b"", b""
    while len(out) < length:
        block = hmac.new(pseudorandom, block + info + bytes([len(out) // 32 + 1]), hashlib.sha256).digest()
        out += block
    return out[:length]


INFO = (
    b"\x00\x10hitless/1/esp-sa"
    b"\x00\x04\x00\x00\x00\x2a\x00\x10" + b"\x11" * 16 + b"\x00\x04\x00\x00\x00\x2b\x00\x10" + b"\x22" * 16 +
    b"\x00\x08" + bytes(7) + b"\x06"
    b"\x00\x09192.0.2.1\x00\x09192.0.2.2\x00\x19rfc4106(gcm(aes))-288-128"
)


def test_info_is_pinned_to_the_byte() -> None:
    assert derive.info(Identity(A, B, 6), ROAD, GCM.spec.label) == INFO


def test_the_reference_hkdf_is_rfc_5869s() -> None:
    """RFC 5869 A.1, so that the oracle of the tests below is one."""
    found = hkdf(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)), 42)
    assert found.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"


def test_derived_keys_are_known() -> None:
    aead = derive.crypto(GCM, "cluster", Identity(A, B, 6), ROAD)
    assert aead == Aead("rfc4106(gcm(aes))", Secret(hkdf(bytes(range(36)), b"cluster", INFO, 36)), 128)
    pair = derive.crypto(CBC, "cluster", Identity(A, B, 6), ROAD)
    label = derive.info(Identity(A, B, 6), ROAD, "hmac(sha256)-128+cbc(aes)-128")
    both = hkdf(bytes(range(48)), b"cluster", label, 48)
    assert pair == AuthEnc("hmac(sha256)", Secret(both[:32]), 128, "cbc(aes)", Secret(both[32:]))


def test_fingerprint_is_known_and_depends_on_key_algorithm_and_cluster() -> None:
    word = b"hitless/1/key-fingerprint"
    label = b"\x00\x19" + word + b"\x00\x19rfc4106(gcm(aes))-288-128"
    key = hkdf(bytes(range(36)), b"cluster", label, 32)
    assert derive.fingerprint(GCM, "cluster") == hmac.new(key, word, hashlib.sha256).hexdigest()[:32]
    other = MasterKey(3, AeadSpec("rfc4106(gcm(aes))", 36, 96), GCM.material)
    assert len({derive.fingerprint(GCM, "cluster"), derive.fingerprint(GCM, "x"), derive.fingerprint(other, "x")}) == 3


@pytest.mark.parametrize(
    ("changed", "road"),
    [
        (Identity(B, A, 6), ROAD),
        (Identity(Endpoint("a", 0x2A, Incarnation(1, "33" * 16)), B, 6), ROAD),
        (Identity(A, Endpoint("b", 0x2C, B.incarnation), 6), ROAD),
        (Identity(A, B, 6), Path("192.0.2.1", "192.0.2.3")),
    ],
)
def test_every_part_of_an_identity_changes_the_key(changed: Identity, road: Path) -> None:
    assert derive.crypto(GCM, "c", changed, road) != derive.crypto(GCM, "c", Identity(A, B, 6), ROAD)


def test_an_spi_reads_as_documented() -> None:
    """Generation 6, epoch 3 (1 + 2), from node 42."""
    assert Identity(A, B, 6).spi == 0x07_3_0002A
    assert identity.sender_id(0x07_3_0002A) == 42


@pytest.mark.parametrize("generation", [0, 1, 6, 254, 255, 256, 600])
def test_the_generation_of_an_spi_is_the_newest_that_fits(generation: int) -> None:
    spi = identity.spi(generation, A, B)
    assert 2**24 <= spi < 2**32
    assert identity.generation_of(spi, generation) == generation
    assert identity.generation_of(spi, generation + 254) == generation


def test_node_ids_are_probed_onward() -> None:
    start = int.from_bytes(hashlib.sha256(b"node-7").digest()[:8], "big") % (2**20 - 1) + 1
    assert identity.node_id_candidate("node-7", 0) == start
    assert identity.node_id_candidate("node-7", 1) == start % (2**20 - 1) + 1
    assert all(1 <= identity.node_id_candidate(str(name), name) < 2**20 for name in range(500))


def node(name: str, *addresses: str) -> NodeRecord:
    return NodeRecord(name, 1, Incarnation(1, "00"), addresses)


@pytest.mark.parametrize(
    ("mode", "a", "b", "expected"),
    [
        ("tunnel", ("192.0.2.1", "2001:db8::1"), ("2001:db8::2", "192.0.2.2"), (Path("192.0.2.1", "192.0.2.2"),)),
        ("tunnel", ("2001:db8::1",), ("192.0.2.2", "2001:db8::2"), (Path("2001:db8::1", "2001:db8::2"),)),
        ("tunnel", ("192.0.2.1",), ("2001:db8::2",), ()),
        (
            "transport",
            ("192.0.2.1", "192.0.2.3", "2001:db8::1"),
            ("192.0.2.2", "2001:db8::2"),
            (Path("192.0.2.1", "192.0.2.2"), Path("2001:db8::1", "2001:db8::2")),
        ),
    ],
)
def test_paths_are_the_same_from_either_side(
    mode: str, a: tuple[str, ...], b: tuple[str, ...], expected: tuple[Path, ...]
) -> None:
    kind = identity.Mode.__args__[0] if mode == "tunnel" else identity.Mode.__args__[1]  # type: ignore[attr-defined]
    there = identity.paths(node("a", *a), node("b", *b), kind)
    back = identity.paths(node("b", *b), node("a", *a), kind)
    assert there == expected
    assert tuple(Path(each.dst, each.src) for each in back) == expected
