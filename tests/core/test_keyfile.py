"""The key file: what is taken, what is refused and why, and that a refusal never shows a key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitless.core.ipsec import keyfile
from hitless.core.ipsec.keyfile import KeyFileError
from hitless.core.model.key import AeadSpec, AuthEncSpec, MasterKey
from hitless.core.model.secret import Secret

K20, K36, K32, K16 = "a1" * 20, "b2" * 36, "c3" * 32, "d4" * 16
GCM, CHACHA = "rfc4106(gcm(aes))", "rfc7539esp(chacha20,poly1305)"


@pytest.mark.parametrize(
    ("text", "key_id", "spec"),
    [
        (f"3 {GCM} {K20} 128", 3, AeadSpec(GCM, 20, 128)),
        (f"3+ {GCM} 0x{K36} 64", 3, AeadSpec(GCM, 36, 64)),
        (f"\n# new\n  15\t{GCM}  {K20}   96  # until May\n\n", 15, AeadSpec(GCM, 20, 96)),
        (f"1 {CHACHA} {K36} 128", 1, AeadSpec(CHACHA, 36, 128)),
        (f"2 hmac(sha256) {K32} cbc(aes) 0x{K16}", 2, AuthEncSpec("hmac(sha256)", 32, 128, "cbc(aes)", 16)),
    ],
)
def test_good_lines(text: str, key_id: int, spec: AeadSpec | AuthEncSpec) -> None:
    (key,) = keyfile.parse(text, "keys")
    assert (key.key_id, key.spec) == (key_id, spec)


@pytest.mark.parametrize(
    ("line", "field", "code"),
    [
        ("", "file", "key-file-empty"),
        ("# nothing", "file", "key-file-empty"),
        (f"x {GCM} {K20} 128", "id", "key-id"),
        (f"0 {GCM} {K20} 128", "id", "key-id"),
        (f"16 {GCM} {K20} 128", "id", "key-id"),
        (f"-1 {GCM} {K20} 128", "id", "key-id"),
        (f"\u0663 {GCM} {K20} 128", "id", "key-id"),
        (f"{K36} {GCM} {K20} 128", "id", "key-id"),
        ("3", "algorithm", "key-fields"),
        (f"3 {K36} {GCM} 128", "algorithm", "key-algorithm-unknown"),
        (f"3 gcm {K20} 128", "algorithm", "key-algorithm-unknown"),
        (f"3 {GCM} {K20}", "line", "key-fields"),
        (f"3 {GCM} {K20} 128 1", "line", "key-fields"),
        (f"3 {GCM} {K20[:-1]} 128", "key", "key-hex"),
        (f"3 {GCM} {K20[:-2]}zz 128", "key", "key-hex"),
        (f"3 {GCM} {K20[:-2]} 128", "key", "key-length"),
        (f"3 {GCM} {K32} 128", "key", "key-length"),
        (f"3 {GCM} {'00' * 20} 128", "key", "key-zero"),
        (f"3 {GCM} {K20} 127", "icv", "key-icv"),
        (f"3 {GCM} {K20} {K20}", "icv", "key-icv"),
        (f"3 {CHACHA} {K36} 64", "icv", "key-icv"),
        (f"3 hmac(sha256) {K32} cbc(aes)", "line", "key-fields"),
        (f"3 hmac(sha256) {K20} cbc(aes) {K16}", "auth key", "key-length"),
        (f"3 hmac(sha256) {K32} {K16} cbc(aes)", "encryption", "key-algorithm-unknown"),
        (f"3 hmac(sha256) {K32} cbc(aes) {K20}", "encryption key", "key-length"),
        ("3 " + "f" * 5000, "line", "key-line-too-long"),
    ],
)
def test_bad_lines_are_refused_by_place_and_code(line: str, field: str, code: str) -> None:
    text = f"\n# comment\n{line}" if code != "key-file-empty" else line
    with pytest.raises(KeyFileError) as caught:
        keyfile.parse(text, "keys.conf")
    (fault,) = caught.value.faults
    assert (fault.field, fault.code) == (field, code)
    number = 1 if code == "key-file-empty" else 3
    assert str(caught.value).startswith(f"keys.conf:{number}: {field}: ")
    assert str(caught.value).endswith(f"[{code}]")


def test_every_fault_is_named_and_nothing_is_taken() -> None:
    with pytest.raises(KeyFileError) as caught:
        keyfile.parse(f"0 {GCM} {K20} 128\n3 {GCM} {K20} 128\n4 {GCM} {K16} 128\n", "keys")
    assert [(each.line, each.code) for each in caught.value.faults] == [(1, "key-id"), (3, "key-length")]


def test_files_are_joined_or_refused_whole() -> None:
    one, other = f"3 {GCM} {K20} 128", f"3 {GCM} {'a2' * 20} 128"
    assert len(keyfile.join([("a", one), ("b", one)])) == 1
    assert [each.key_id for each in keyfile.join([("a", f"4 {GCM} {K20} 128"), ("b", one)])] == [4, 3]
    for files, code in (
        ([("a", one), ("b", other)], "key-id-duplicate"),
        ([], "key-file-missing"),
        ([("a", one), ("b", "?")], "key-id"),
    ):
        with pytest.raises(KeyFileError) as caught:
            keyfile.join(files)
        assert [each.code for each in caught.value.faults] == [code]


keys = st.one_of(
    st.builds(
        lambda number, name, material, icv: MasterKey(number, AeadSpec(name, len(material), icv), Secret(material)),
        st.integers(1, 15),
        st.just(GCM),
        st.sampled_from([20, 36]).flatmap(lambda size: st.binary(min_size=size, max_size=size).filter(any)),
        st.sampled_from([64, 96, 128]),
    ),
    st.builds(
        lambda number, auth, enc: MasterKey(
            number, AuthEncSpec("hmac(sha256)", 32, 128, "cbc(aes)", len(enc)), Secret(auth + enc)
        ),
        st.integers(1, 15),
        st.binary(min_size=32, max_size=32).filter(any),
        st.sampled_from([16, 24, 32]).flatmap(lambda size: st.binary(min_size=size, max_size=size).filter(any)),
    ),
)


@given(keys)
def test_what_is_written_is_read_back(key: MasterKey) -> None:
    assert keyfile.parse(keyfile.render(key), "keys") == (key,)


words = st.one_of(
    st.sampled_from(["3", "3+", "99", GCM, CHACHA, "hmac(sha256)", "cbc(aes)", "128", "+", "#", "0x"]),
    st.text(max_size=6),
)


@given(
    st.binary(min_size=16, max_size=64),
    st.lists(words, max_size=5),
    st.lists(words, max_size=5),
    st.sampled_from(["", "0x", "z"]),
    st.integers(0, 1),
)
def test_a_refusal_never_shows_a_key(
    material: bytes, before: list[str], after: list[str], mark: str, cut: int
) -> None:
    """A key anywhere in a line, whole or mutilated: no eight digits of it come back."""
    digits = material.hex()
    planted = mark + digits[cut:]
    text = " ".join([*before, planted, *after])
    shown = ""
    try:
        shown = repr(keyfile.parse(text, "keys")) + repr(keyfile.join([("keys", text)]))
    except KeyFileError as error:
        shown = str(error) + repr(error) + repr(error.faults) + repr(error.__cause__)
    windows = {digits[at : at + 8] for at in range(len(digits) - 7)} - {"00000000"}
    assert not [each for each in windows if each in shown]
