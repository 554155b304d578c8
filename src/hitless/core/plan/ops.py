"""Operations: the only things that change a kernel. Values that can be printed, saved, verified, replayed."""

from __future__ import annotations

import msgspec

from hitless.core.model.sa import Policy, PolicyKey, Sa, SaKey


class AddSa(msgspec.Struct, frozen=True, tag="add-sa"):
    """Create an SA; never changes one that exists (XFRM_MSG_NEWSA, EEXIST otherwise)."""

    sa: Sa


class DelSa(msgspec.Struct, frozen=True, tag="del-sa"):
    """Delete an SA by destination and SPI (XFRM_MSG_DELSA)."""

    key: SaKey


class SetPolicy(msgspec.Struct, frozen=True, tag="set-policy"):
    """Create or atomically replace a policy (XFRM_MSG_UPDPOLICY)."""

    policy: Policy


class DelPolicy(msgspec.Struct, frozen=True, tag="del-policy"):
    """Delete a policy by direction and selector (XFRM_MSG_DELPOLICY)."""

    key: PolicyKey


Op = AddSa | DelSa | SetPolicy | DelPolicy
Wave = tuple[Op, ...]


class Outcome(msgspec.Struct, frozen=True):
    """What became of one operation. `error` is "" on success, else a stable code such as `exists`, `no-such-sa`."""

    op: Op
    error: str = ""
    detail: str = ""

    @property
    def ok(self) -> bool:
        return not self.error
