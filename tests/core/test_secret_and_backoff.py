"""Key material never shows, and waiting grows but not for ever."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import msgspec
import pytest

from hitless.core.model.key import AeadSpec, MasterKey
from hitless.core.model.secret import Secret
from hitless.core.plan.backoff import delay_seconds

MATERIAL = bytes.fromhex("c0ffee11decafbadfeedfacecafebeef")
SECRET = Secret(MATERIAL)
KEY = MasterKey(1, AeadSpec("rfc4106(gcm(aes))", 16, 128), SECRET)


@pytest.mark.parametrize("show", [repr, str, "{}".format, "{!r}".format, lambda each: f"{each}", ascii])
@pytest.mark.parametrize("thing", [SECRET, KEY, [KEY], {"key": SECRET}])
def test_no_text_form_shows_it(show: Callable[[object], str], thing: object) -> None:
    shown = show(thing)
    assert "Secret(<128 bits>)" in shown
    for form in (MATERIAL.hex(), repr(MATERIAL), str(list(MATERIAL))[1:-1], MATERIAL.hex()[:8]):
        assert form not in shown


@pytest.mark.parametrize("encode", [pickle.dumps, msgspec.json.encode, msgspec.msgpack.encode, copy.deepcopy])
@pytest.mark.parametrize("thing", [SECRET, KEY])
def test_it_cannot_be_encoded(encode: Callable[[object], object], thing: object) -> None:
    with pytest.raises(TypeError) as caught:
        encode(thing)
    assert MATERIAL.hex()[:8] not in str(caught.value)


def test_it_compares_by_content_and_cannot_be_hashed() -> None:
    assert Secret(b"a") == Secret(b"a") != Secret(b"b")
    assert SECRET != MATERIAL
    assert len(SECRET) == 16
    assert SECRET.reveal() == MATERIAL
    with pytest.raises(TypeError):
        hash(SECRET)


def test_attributes_cannot_be_added_or_listed() -> None:
    assert not hasattr(SECRET, "__dict__")


@pytest.mark.parametrize(("attempts", "seconds"), [(1, 0.5), (2, 1.0), (3, 2.0), (6, 16.0), (7, 30.0), (10**9, 30.0)])
def test_backoff_doubles_up_to_its_limit(attempts: int, seconds: float) -> None:
    assert delay_seconds(attempts, 0.5, 30.0) == seconds
