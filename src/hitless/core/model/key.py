"""Keys as operators hand them over: algorithms the kernel takes, and one parsed key of a key file."""

from __future__ import annotations

import msgspec

from hitless.core.model.secret import Secret


class AeadSpec(msgspec.Struct, frozen=True, tag="aead"):
    """A combined-mode algorithm: name as in `ip xfrm`, total key length with salt in bytes, ICV in bits."""

    name: str
    key_bytes: int
    icv_bits: int

    @property
    def label(self) -> str:
        return f"{self.name}-{self.key_bytes * 8}-{self.icv_bits}"


class AuthEncSpec(msgspec.Struct, frozen=True, tag="auth-enc"):
    """Integrity and encryption apart: names as in `ip xfrm`, key lengths in bytes, truncation in bits."""

    auth_name: str
    auth_bytes: int
    trunc_bits: int
    enc_name: str
    enc_bytes: int

    @property
    def label(self) -> str:
        return f"{self.auth_name}-{self.trunc_bits}+{self.enc_name}-{self.enc_bytes * 8}"


AlgorithmSpec = AeadSpec | AuthEncSpec


class MasterKey(msgspec.Struct, frozen=True):
    """One key of a key file: the operator's id (1-15), the algorithm, the material all SA keys derive from."""

    key_id: int
    spec: AlgorithmSpec
    material: Secret
