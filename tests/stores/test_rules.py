"""The bounds of a prefix, against the plain meaning of the word."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hitless.stores.rules import prefix_end

# Few characters, among them the last before the surrogates, the first after them, and the very last.
TEXT = st.text(st.sampled_from("ab/\ud7ff\ue000\U0010fffe\U0010ffff"), max_size=4)


@given(TEXT, TEXT)
def test_a_key_is_within_the_bounds_exactly_if_it_has_the_prefix(prefix: str, key: str) -> None:
    end = prefix_end(prefix)
    assert (prefix <= key and (end is None or key < end)) == key.startswith(prefix)


@given(TEXT)
def test_the_bound_can_be_stored(prefix: str) -> None:
    end = prefix_end(prefix)
    assert end is None or len(end.encode()) > 0
