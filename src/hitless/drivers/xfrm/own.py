"""How a program with no memory knows its own objects: a pure predicate on what the kernel shows.

XFRM has no owner field. For an SA the tag is a range of reqids together with an SPI of at least 2^24; for a
policy it is the index, which its creator may choose and which the kernel keeps over updates. A trait that an
object of ours never has (a mark, an if_id …) makes it someone else's, whatever its numbers say.
"""

from __future__ import annotations

import msgspec

from hitless.core.model.sa import ObservedPolicy, ObservedSa, Policy, Sa

SPI_MIN = 2**24


class Owner(msgspec.Struct, frozen=True):
    """The ranges that mark an object as this program's. `reqid_count` reqids from `reqid_base` on are ours.

    The kernel numbers policies of others from 0 up in steps of 8: it would have to make 218 million before
    one reached `index_tag` << 24.
    """

    reqid_base: int = 0x68000000
    reqid_count: int = 0x100000
    index_tag: int = 0x68

    def owns_sa(self, thing: ObservedSa) -> bool:
        return not thing.foreign_traits and self.claims_sa(thing.sa)

    def owns_policy(self, thing: ObservedPolicy) -> bool:
        return not thing.foreign_traits and self.claims_policy(thing.policy)

    def owns(self, thing: ObservedSa | ObservedPolicy) -> bool:
        return self.owns_sa(thing) if isinstance(thing, ObservedSa) else self.owns_policy(thing)

    def claims_sa(self, sa: Sa) -> bool:
        """Whether an SA of these values would be recognised as ours once it is in the kernel."""
        return self._has_reqid(sa.reqid) and sa.spi >= SPI_MIN

    def claims_policy(self, policy: Policy) -> bool:
        """Whether a policy of these values would be recognised as ours once it is in the kernel."""
        template = policy.template
        return policy.index >> 24 == self.index_tag and (template is None or self._has_reqid(template.reqid))

    def _has_reqid(self, reqid: int) -> bool:
        return self.reqid_base <= reqid < self.reqid_base + self.reqid_count
