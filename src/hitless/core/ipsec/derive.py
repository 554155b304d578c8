"""Keys of single SAs, derived from a generation's master key (HKDF-SHA256, RFC 5869).

Two identities never share a key, and neither do two paths of one identity: counters may always start at 0, and
nothing captured earlier can be replayed. The info string is a list of length-prefixed fields, so that no two
different inputs give the same bytes.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hitless.core.ipsec.identity import Endpoint, Identity, Path
from hitless.core.model.key import AeadSpec, MasterKey
from hitless.core.model.sa import Aead, AuthEnc, Crypto
from hitless.core.model.secret import Secret

_SA_LABEL = b"hitless/1/esp-sa"
_FINGERPRINT_LABEL = b"hitless/1/key-fingerprint"


def info(identity: Identity, path: Path, algorithm: str) -> bytes:
    """The HKDF info of one SA. The order sender, receiver is the direction.

    The generation is in it although every generation has its own master key: should one key ever be registered
    under two generations (a store created anew), their SAs still share nothing.
    """
    return _fields(
        _SA_LABEL,
        *_end(identity.sender),
        *_end(identity.receiver),
        identity.generation.to_bytes(8, "big"),
        path.src.encode(),
        path.dst.encode(),
        algorithm.encode(),
    )


def crypto(master: MasterKey, cluster: str, identity: Identity, path: Path) -> Crypto:
    """Algorithm and keys of one SA."""
    spec = master.spec
    if isinstance(spec, AeadSpec):
        key = _hkdf(master.material, cluster, info(identity, path, spec.label), spec.key_bytes)
        return Aead(spec.name, Secret(key), spec.icv_bits)
    length = spec.auth_bytes + spec.enc_bytes
    key = _hkdf(master.material, cluster, info(identity, path, spec.label), length)
    auth, enc = Secret(key[: spec.auth_bytes]), Secret(key[spec.auth_bytes :])
    return AuthEnc(spec.auth_name, auth, spec.trunc_bits, spec.enc_name, enc)


def fingerprint(master: MasterKey, cluster: str) -> str:
    """A name for a key that tells nothing about it: HMAC of a fixed label under a key derived from it (hex)."""
    label = _fields(_FINGERPRINT_LABEL, master.spec.label.encode())
    derived = _hkdf(master.material, cluster, label, 32)
    return hmac.new(derived, _FINGERPRINT_LABEL, hashlib.sha256).hexdigest()[:32]


def _hkdf(material: Secret, cluster: str, label: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, salt=cluster.encode(), info=label).derive(material.reveal())


def _end(end: Endpoint) -> tuple[bytes, bytes]:
    return end.node_id.to_bytes(4, "big"), bytes.fromhex(end.incarnation.nonce)


def _fields(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(2, "big") + field for field in fields)
