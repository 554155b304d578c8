"""What `apply` needs from a kernel: look an object up, and write.

Two kernels have this shape: the real one behind a netlink socket (`netlink.py`) and the executable one in
memory (`drivers/fake/kernel.py`). The rules of ownership and read-back stand above it, once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Protocol

import msgspec

from hitless.core.model.sa import ObservedPolicy, ObservedSa, PolicyKey, SaKey
from hitless.core.plan.ops import Op


class Order(msgspec.Struct, frozen=True):
    """One message to be sent: an operation that has been admitted.

    `create` says that the policy must not exist yet (XFRM_MSG_NEWPOLICY); without it the policy is replaced.
    `index`, where not 0, deletes exactly the policy that was looked at, whatever stands at its selector by now.
    """

    op: Op
    create: bool = False
    index: int = 0


class Answer(msgspec.Struct, frozen=True):
    """What the kernel said to one message. `errno` 0 is success; `message` is the kernel's own text, if any.

    `code` is set where no errno tells it: `no-answer` (lost on the way back), `invalid` (nothing was sent).
    """

    errno: int = 0
    message: str = ""
    code: str = ""


class Kernel(Protocol):
    """A kernel that answers look-ups and takes messages in order."""

    def look_sas(self, keys: Set[SaKey]) -> Mapping[SaKey, ObservedSa]:
        """Those of the SAs that exist now."""
        ...

    def look_policies(self, keys: Set[PolicyKey]) -> Mapping[PolicyKey, ObservedPolicy]:
        """Those of the policies that exist now."""
        ...

    def write(self, orders: Sequence[Order]) -> Sequence[Answer]:
        """Send the messages in order; one answer each."""
        ...
