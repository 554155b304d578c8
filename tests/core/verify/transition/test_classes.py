"""Classes of values: every value of an 8-bit field, against terms of every kind."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hitless.core.verify.transition.classes import Pattern, Ranked, Raw, coded

BYTE = st.integers(0, 255)
PREFIXES = st.integers(1, 8).map(lambda bits: 0xFF << (8 - bits) & 0xFF)
CHAIN = st.permutations(range(8)).flatmap(
    lambda order: st.integers(1, 8).map(lambda count: sum(1 << bit for bit in [*order][:count]))
)


def patterns(masks: st.SearchStrategy[int]) -> st.SearchStrategy[list[Pattern]]:
    return st.lists(st.tuples(BYTE, masks).map(lambda each: (each[0] & each[1], each[1])), min_size=1, max_size=6)


@given(patterns(PREFIXES))
def test_prefixes_are_intervals_of_classes(found: list[Pattern]) -> None:
    coding = coded("nw_tos", found)
    assert isinstance(coding, Ranked)
    for value in range(256):
        code = coding.code(value)
        assert coding.code(coding.sample(code)) == code
        for wanted, mask in found:
            first, last = coding.interval(wanted, mask)
            assert (first <= code <= last) == (value & mask == wanted)
            assert coding.is_exact(wanted, mask)


@given(patterns(BYTE.filter(bool) | CHAIN))
def test_any_masks_tell_apart_what_they_tell_apart(found: list[Pattern]) -> None:
    coding = coded("nw_tos", found)
    for value in range(256):
        for wanted, mask in found:
            assert _holds(coding, value, wanted, mask) == (value & mask == wanted)


def _holds(coding: Ranked | Raw, value: int, wanted: int, mask: int) -> bool:
    if isinstance(coding, Ranked):
        first, last = coding.interval(wanted, mask)
        return first <= coding.code(value) <= last
    bits = dict(coding.literals(value, 0xFF))
    return all(bits[at] == is_set for at, is_set in coding.literals(wanted, mask))


def test_bits_in_another_order_are_told_as_values() -> None:
    """A multicast bit and whole addresses: the bit comes first, and samples are values again."""
    coding = coded("dl_dst", [(0, 1 << 40), (0x020000000001, (1 << 48) - 1)])
    assert isinstance(coding, Ranked)
    assert coding.sample(coding.code(0x020000000001)) == 0x020000000001
    first, last = coding.interval(0, 1 << 40)
    assert first <= coding.code(0x020000000001) <= last
    assert not first <= coding.code(0x010000000000) <= last
