"""The codec by itself: every value comes back as it went, and no foreign bytes make the reader fail."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.drivers.things import policies, policy, sa, sas

from hitless.core.model.sa import Policy, Sa, SaKey, Selector
from hitless.drivers.xfrm import layout as wire
from hitless.drivers.xfrm.codec import encode_policy, encode_policy_key, encode_sa, encode_sa_key
from hitless.drivers.xfrm.decode import decode_policy, decode_sa
from hitless.drivers.xfrm.errors import CodecError, XfrmError
from hitless.drivers.xfrm.monitor import decode_changes
from hitless.drivers.xfrm.socket import messages


def as_the_kernel_keeps_it(body: bytes, thing: Sa) -> bytes:
    """The kernel fills the inner family of a transport SA (`copy_from_user_state`)."""
    if thing.mode == "tunnel":
        return body
    family = wire.SA.unpack_from(body)[15]
    return body[:40] + struct.pack("=H", family) + body[42:]


@given(sas())
def test_an_sa_comes_back_as_it_went(thing: Sa) -> None:
    body = as_the_kernel_keeps_it(encode_sa(thing), thing)
    seen = decode_sa(b"before" + body, 6, 6 + len(body))
    assert seen.sa == thing
    assert seen.foreign_traits == ()


@given(policies())
def test_a_policy_comes_back_as_it_went(thing: Policy) -> None:
    body = encode_policy(thing)
    seen = decode_policy(b"before" + body, 6, 6 + len(body))
    assert seen.policy == thing
    assert seen.foreign_traits == ()


@given(sas(), st.integers(0, 700))
def test_a_truncated_sa_is_an_error_or_foreign(thing: Sa, length: int) -> None:
    body = as_the_kernel_keeps_it(encode_sa(thing), thing)[:length]
    if length < wire.SA_BYTES:
        with pytest.raises(CodecError):
            decode_sa(body, 0, len(body))
    else:
        decode_sa(body, 0, len(body))


@given(st.binary(min_size=wire.SA_BYTES, max_size=wire.SA_BYTES + 400))
def test_garbage_never_makes_the_sa_reader_fail(body: bytes) -> None:
    assert decode_sa(body, 0, len(body)).foreign_traits


@given(sas(), st.lists(st.tuples(st.integers(0, 40), st.binary(max_size=120)), max_size=6), st.binary(max_size=8))
def test_garbage_attributes_never_make_the_sa_reader_fail(
    thing: Sa, attributes: list[tuple[int, bytes]], tail: bytes
) -> None:
    body = encode_sa(thing)[: wire.SA_BYTES]
    for kind, payload in attributes:
        body += wire.ATTRIBUTE.pack(4 + len(payload), kind) + payload + bytes(-len(payload) % 4)
    decode_sa(body + tail, 0, len(body + tail))


@given(st.binary(min_size=wire.POLICY_BYTES, max_size=wire.POLICY_BYTES + 300))
def test_garbage_never_makes_the_policy_reader_fail(body: bytes) -> None:
    decode_policy(body, 0, len(body))


@given(policies(), st.lists(st.tuples(st.integers(0, 40), st.binary(max_size=200)), max_size=6))
def test_garbage_attributes_never_make_the_policy_reader_fail(
    thing: Policy, attributes: list[tuple[int, bytes]]
) -> None:
    body = encode_policy(thing)[: wire.POLICY_BYTES]
    for kind, payload in attributes:
        body += wire.ATTRIBUTE.pack(4 + len(payload), kind) + payload + bytes(-len(payload) % 4)
    decode_policy(body, 0, len(body))


@given(st.binary(max_size=200))
def test_broken_frames_are_a_codec_error_at_most(data: bytes) -> None:
    for read in (messages, decode_changes):
        code = "malformed"
        try:
            read(data)
        except XfrmError as error:
            code = error.code
        assert code == "malformed"


@given(st.integers(0x10, 0x1D), st.binary(max_size=300))
def test_short_announcements_are_still_announcements(kind: int, body: bytes) -> None:
    data = wire.HEADER.pack(wire.HEADER_BYTES + len(body), kind, 0, 0, 7) + body
    assert all(change.pid == 7 for change in decode_changes(data))


@pytest.mark.parametrize(
    "wrong",
    [
        sa(dst="2001:db8::1"), sa(dst="nowhere"), sa(spi=2**32), sa(reqid=-1), sa(replay_window=40000),
        policy(selector=Selector("10.1.0.1/16", "10.2.0.0/16")), policy(selector=Selector("10.1.0.0/16", "::/0")),
        policy(selector=Selector("10.1.0.0/16", "10.2.0.0/16", 17, 70000)),
        policy(index=0x68000002), policy(priority=-1),
    ],
)  # fmt: skip
def test_what_has_no_form_is_refused_in_words(wrong: Sa | Policy) -> None:
    with pytest.raises(CodecError) as caught:
        encode_sa(wrong) if isinstance(wrong, Sa) else encode_policy(wrong)
    assert caught.value.code == "invalid"
    assert len(str(caught.value)) > 10


def test_spi_and_ports_travel_in_network_order() -> None:
    assert encode_sa_key(SaKey("192.0.2.1", 0x01020304))[16:20] == bytes([1, 2, 3, 4])
    key = policy(selector=Selector("10.0.0.0/8", "10.0.0.0/8", 17, 0x0102, 0x0304)).key
    assert encode_policy_key(key)[32:40] == bytes([3, 4, 255, 255, 1, 2, 255, 255])
