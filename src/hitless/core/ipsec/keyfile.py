"""The key file, in the forms that operators have today.

One key a line, fields separated by white space; blank lines and `#` comments are skipped:

    ID[+] rfc4106(gcm(aes)) HEX ICV-BITS
    ID[+] hmac(sha256) HEX cbc(aes) HEX

`ID` is 1-15 and wraps to 1; a `+` is accepted and means nothing (every pair has its own keys here). A file is
taken whole or refused whole, and a refusal names the file, line and field. Material never appears in a message.

Sources: RFC 4106 §8.1 (key length with salt), RFC 7634 (ChaCha20-Poly1305), RFC 4868 (HMAC-SHA-256-128);
ICV lengths as the kernel accepts them (`crypto/gcm.c: crypto_rfc4106_setauthsize`, `crypto/chacha20poly1305.c`).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from hitless.core.model.key import AeadSpec, AuthEncSpec, MasterKey
from hitless.core.model.secret import Secret

KEY_ID_MAX = 15

# name -> ({total key length in bytes}, {ICV length in bits})
_AEADS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "rfc4106(gcm(aes))": ((20, 36), (64, 96, 128)),
    "rfc7539esp(chacha20,poly1305)": ((36,), (128,)),
}
_AUTHS: dict[str, tuple[tuple[int, ...], int]] = {"hmac(sha256)": ((32,), 128)}
_ENCS: dict[str, tuple[int, ...]] = {"cbc(aes)": (16, 24, 32)}
_LINE_LIMIT = 4096  # a key line is under 300 characters; more is not a key file
_KEY_LIMIT = 64  # far beyond the 15 ids there are


class KeyFault(msgspec.Struct, frozen=True):
    """One reason why a key file is refused. `field` is what a person would call the place in the line."""

    file: str
    line: int
    field: str
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.field}: {self.message} [{self.code}]"


class KeyFileError(Exception):
    """A key file that is refused whole. `faults` has every reason found, not only the first."""

    def __init__(self, faults: Sequence[KeyFault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = tuple(faults)


class _LineError(Exception):
    def __init__(self, field: str, code: str, message: str) -> None:
        super().__init__(message)
        self.field, self.code, self.message = field, code, message


def parse(text: str, file: str) -> tuple[MasterKey, ...]:
    """All keys of one file, in its order. Raises KeyFileError; an empty file is an error too (`key-file-empty`)."""
    keys: list[MasterKey] = []
    faults: list[KeyFault] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.split("#", 1)[0].strip()
        if not line:
            continue
        try:
            keys.append(_key(line))
        except _LineError as fault:
            faults.append(KeyFault(file, number, fault.field, fault.code, fault.message))
    if not keys and not faults:
        faults.append(KeyFault(file, 1, "file", "key-file-empty", "no key in this file; add one (hitless key new)"))
    if faults:
        raise KeyFileError(faults)
    return tuple(keys)


def join(files: Sequence[tuple[str, str]]) -> tuple[MasterKey, ...]:
    """The keys of several files (name, text), in that order. Refuses all if one is bad or two keys share an id."""
    faults: list[KeyFault] = []
    keys: dict[int, MasterKey] = {}
    for file, text in files:
        try:
            parsed = parse(text, file)
        except KeyFileError as error:
            faults.extend(error.faults)
            continue
        for key in parsed:
            if key.key_id in keys and keys[key.key_id] != key:
                faults.append(KeyFault(file, 1, "id", "key-id-duplicate", f"two different keys have id {key.key_id}"))
            keys.setdefault(key.key_id, key)
    if not files:
        faults.append(KeyFault("-", 1, "file", "key-file-missing", "there is no key file"))
    if len(keys) > _KEY_LIMIT:
        faults.append(KeyFault("-", 1, "file", "key-file-too-long", f"more than {_KEY_LIMIT} keys"))
    if faults:
        raise KeyFileError(faults)
    return tuple(keys.values())


def render(key: MasterKey) -> str:
    """The line of a key file for a key, material included: only for writing key files."""
    spec, hexes = key.spec, key.material.reveal().hex()
    if isinstance(spec, AeadSpec):
        return f"{key.key_id} {spec.name} 0x{hexes} {spec.icv_bits}"
    auth, enc = hexes[: spec.auth_bytes * 2], hexes[spec.auth_bytes * 2 :]
    return f"{key.key_id} {spec.auth_name} 0x{auth} {spec.enc_name} 0x{enc}"


def _key(line: str) -> MasterKey:
    fields = line.split()
    if len(line) > _LINE_LIMIT:
        raise _LineError("line", "key-line-too-long", f"longer than {_LINE_LIMIT} characters: not a key file")
    key_id = _key_id(fields[0])
    if len(fields) < 2:
        raise _LineError("algorithm", "key-fields", "a key line has 4 or 5 fields; this one has only an id")
    if fields[1] in _AUTHS:
        return _auth_enc(key_id, fields)
    if fields[1] in _AEADS:
        return _aead(key_id, fields)
    known = ", ".join((*_AEADS, *_AUTHS))
    raise _LineError("algorithm", "key-algorithm-unknown", f"not an algorithm this program uses; known: {known}")


def _key_id(field: str) -> int:
    text = field.removesuffix("+")
    if not (text.isascii() and text.isdigit()):
        raise _LineError("id", "key-id", f"the id is a number from 1 to {KEY_ID_MAX}, optionally with '+' behind it")
    if not 1 <= int(text[:9]) <= KEY_ID_MAX:
        raise _LineError("id", "key-id", f"the id is out of 1 to {KEY_ID_MAX}; after {KEY_ID_MAX} comes 1 again")
    return int(text)


def _aead(key_id: int, fields: list[str]) -> MasterKey:
    name = fields[1]
    lengths, icvs = _AEADS[name]
    if len(fields) != 4:
        raise _LineError("line", "key-fields", f"'ID {name} HEX ICV-BITS' has 4 fields, this line {len(fields)}")
    material = _hex("key", fields[2], lengths, "with its 4-byte salt ")
    icv = fields[3]
    if not (icv.isascii() and icv.isdigit()) or int(icv[:9]) not in icvs:
        accepted = ", ".join(map(str, icvs))
        raise _LineError("icv", "key-icv", f"the kernel accepts these ICV lengths for {name}, in bits: {accepted}")
    return MasterKey(key_id, AeadSpec(name, len(material), int(icv)), material)


def _auth_enc(key_id: int, fields: list[str]) -> MasterKey:
    auth = fields[1]
    if len(fields) != 5:
        raise _LineError("line", "key-fields", f"'ID {auth} HEX ENC HEX' has 5 fields, this line has {len(fields)}")
    lengths, trunc_bits = _AUTHS[auth]
    auth_key = _hex("auth key", fields[2], lengths)
    enc = fields[3]
    if enc not in _ENCS:
        raise _LineError("encryption", "key-algorithm-unknown", f"known beside {auth}: {', '.join(_ENCS)}")
    enc_key = _hex("encryption key", fields[4], _ENCS[enc])
    spec = AuthEncSpec(auth, len(auth_key), trunc_bits, enc, len(enc_key))
    return MasterKey(key_id, spec, Secret(auth_key.reveal() + enc_key.reveal()))


def _hex(field: str, text: str, lengths: tuple[int, ...], note: str = "") -> Secret:
    # Never quote the text: it is, or was meant to be, a key.
    digits = text.removeprefix("0x")
    try:
        material = bytes.fromhex(digits) if digits.isascii() and digits.isalnum() else None
    except ValueError:
        material = None
    if material is None:
        raise _LineError(field, "key-hex", "not a whole number of hexadecimal bytes (is the file complete?)") from None
    if len(material) not in lengths:
        wanted = " or ".join(map(str, lengths))
        raise _LineError(
            field, "key-length", f"{len(material)} bytes; this algorithm's key {note}has {wanted} (is it cut off?)"
        )
    if not any(material):
        raise _LineError(field, "key-zero", "all bytes are zero: not a key")
    return Secret(material)
