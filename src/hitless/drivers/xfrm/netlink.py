"""The real kernel as `apply` and `observe` see it: look-ups and writes over one socket.

A few objects are looked up one by one, in one system call; many are found in a dump. The look-up has the last
word where a dump shows several objects for one key (marks and if_ids make more of them): it resolves the key
exactly as a deletion would.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterator, Sequence, Set
from typing import TypeVar

from hitless.core.model.sa import ObservedPolicy, ObservedSa, PolicyKey, SaKey
from hitless.core.plan.ops import AddSa, DelSa, SetPolicy
from hitless.drivers.xfrm import layout as wire
from hitless.drivers.xfrm.codec import encode_policy, encode_policy_key, encode_sa, encode_sa_key
from hitless.drivers.xfrm.decode import decode_policy, decode_sa
from hitless.drivers.xfrm.errors import CodecError, XfrmError
from hitless.drivers.xfrm.kernel import Answer, Order
from hitless.drivers.xfrm.socket import Request, XfrmSocket

K = TypeVar("K", SaKey, PolicyKey)
V = TypeVar("V", ObservedSa, ObservedPolicy)

# A look-up costs about three times what one object costs in a dump; beyond this many the dump of a cluster's
# usual few thousand objects is the cheaper way.
_SINGLE_LOOKUPS = 64
# Objects that the plain look-up (ESP, main type, not a socket's) never resolves to.
_NOT_ESP = frozenset({"proto:ah", "proto:comp", "proto:route", "proto:dstopts"})
_NOT_MAIN = frozenset({"socket", "sub-policy"})


class NetlinkKernel:
    """Implements `Kernel` for Linux. `writes` counts the messages sent over its life that change the kernel."""

    def __init__(self, socket: XfrmSocket) -> None:
        self._socket = socket
        self.writes = 0

    def sas(self) -> list[ObservedSa]:
        return self._socket.dump(wire.MSG_GETSA, decode_sa)

    def policies(self) -> list[ObservedPolicy]:
        return self._socket.dump(wire.MSG_GETPOLICY, decode_policy)

    def look_sas(self, keys: Set[SaKey]) -> dict[SaKey, ObservedSa]:
        if len(keys) <= _SINGLE_LOOKUPS:
            return self._ask(keys, wire.MSG_GETSA, encode_sa_key, decode_sa)
        found: dict[SaKey, ObservedSa] = {}
        unclear: set[SaKey] = set()
        for seen in self.sas():
            key = seen.sa.key
            if key not in keys or (seen.foreign_traits and not _NOT_ESP.isdisjoint(seen.foreign_traits)):
                continue
            if key in found:
                unclear.add(key)
            found[key] = seen
        for key in unclear:
            del found[key]
        return found | self._ask(unclear, wire.MSG_GETSA, encode_sa_key, decode_sa) if unclear else found

    def look_policies(self, keys: Set[PolicyKey]) -> dict[PolicyKey, ObservedPolicy]:
        if len(keys) <= _SINGLE_LOOKUPS:
            return self._ask(keys, wire.MSG_GETPOLICY, encode_policy_key, decode_policy)
        found: dict[PolicyKey, ObservedPolicy] = {}
        unclear: set[PolicyKey] = set()
        for seen in self.policies():
            key = seen.policy.key
            if key not in keys or (seen.foreign_traits and not _NOT_MAIN.isdisjoint(seen.foreign_traits)):
                continue
            if key in found:
                unclear.add(key)
            found[key] = seen
        for key in unclear:
            del found[key]
        return found | self._ask(unclear, wire.MSG_GETPOLICY, encode_policy_key, decode_policy) if unclear else found

    def write(self, orders: Sequence[Order]) -> list[Answer]:
        invalid: dict[int, Answer] = {}

        def requests() -> Iterator[Request]:
            # Encoded chunk by chunk on the way to the socket: 20,000 SAs at once would be 10 MB of messages.
            for place, order in enumerate(orders):
                try:
                    request = _request(order)
                except CodecError as error:
                    invalid[place] = Answer(code="invalid", message=str(error))
                else:
                    self.writes += 1
                    yield request

        said = self._socket.write(requests())
        if not invalid:
            return said
        rest = iter(said)
        return [invalid[place] if place in invalid else next(rest) for place in range(len(orders))]

    def _ask(
        self, keys: Collection[K], kind: int, encode: Callable[[K], bytes], decode: Callable[[bytes, int, int], V]
    ) -> dict[K, V]:
        asked: list[K] = []
        requests: list[Request] = []
        for key in keys:
            try:
                requests.append((kind, encode(key)))
                asked.append(key)
            except CodecError:
                # A key without a form on the wire names nothing; the write that wants it will say why.
                continue
        found: dict[K, V] = {}
        for key, (answer, reply) in zip(asked, self._socket.read(requests), strict=True):
            if reply is not None:
                found[key] = decode(reply.data, reply.start, reply.end)
            elif answer.code:
                raise XfrmError("no-answer", "the kernel's answer to a look-up was lost; ask again")
            elif answer.errno == errno.EPERM:
                raise XfrmError("permission", "reading IPsec state takes CAP_NET_ADMIN; run as root")
        return found


def _request(order: Order) -> Request:
    op = order.op
    if isinstance(op, AddSa):
        return wire.MSG_NEWSA, encode_sa(op.sa)
    if isinstance(op, DelSa):
        return wire.MSG_DELSA, encode_sa_key(op.key)
    if isinstance(op, SetPolicy):
        return wire.MSG_NEWPOLICY if order.create else wire.MSG_UPDPOLICY, encode_policy(op.policy)
    return wire.MSG_DELPOLICY, encode_policy_key(op.key, order.index)
