"""An executable XFRM kernel in memory, with the real one's rules.

It answers messages with the errno that Linux answers (`net/xfrm/xfrm_user.c`, `xfrm_state.c`, `xfrm_policy.c`) and
stands below the same `apply` as the netlink socket, so ownership, codes and read-back are the real driver's. The
conformance tests run against both. Rules worth knowing:

* an SA is identified by destination and SPI; a second one is EEXIST, whatever its source;
* a policy is identified by direction and selector, the priority does not count; a replacement keeps the index;
* an index that is taken by another policy is silently replaced by a number of the kernel's own;
* only a tunnel template may be of another family than the selector;
* an ESN SA needs a replay window; algorithms and key lengths are checked when the SA is added.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set

from hitless.core.model.sa import (
    Aead,
    AuthEnc,
    ObservedPolicy,
    ObservedSa,
    Policy,
    PolicyKey,
    Sa,
    SaCounters,
    SaKey,
    XfrmState,
)
from hitless.core.plan.ops import AddSa, DelSa, Outcome, SetPolicy, Wave
from hitless.drivers.xfrm.apply import apply_wave
from hitless.drivers.xfrm.codec import encode_policy, encode_policy_key, encode_sa, encode_sa_key
from hitless.drivers.xfrm.errors import CodecError
from hitless.drivers.xfrm.kernel import Answer, Order
from hitless.drivers.xfrm.own import Owner
from hitless.drivers.xfrm.refusal import bad_key_length
from hitless.ports import Change

_DEFAULT_OWNER = Owner()
_OK = Answer()
# What a monitor that nobody reads keeps; like a socket buffer, it then says that some were lost.
_PENDING_CHANGES = 4096

_AEADS = frozenset({
    "rfc4106(gcm(aes))", "rfc4543(gcm(aes))", "rfc4309(ccm(aes))", "rfc7539esp(chacha20,poly1305)",
})  # fmt: skip
_AUTHS = frozenset({"hmac(md5)", "hmac(sha1)", "hmac(sha256)", "hmac(sha384)", "hmac(sha512)", "digest_null"})
_CIPHERS = frozenset({"cbc(aes)", "rfc3686(ctr(aes))", "cbc(des3_ede)", "ecb(cipher_null)"})


class FakeKernel:
    """Implements `Dataplane` in memory; `place` and `remove` are someone else's hand on the same kernel."""

    def __init__(self, owner: Owner = _DEFAULT_OWNER, wall: Callable[[], float] = lambda: 0.0) -> None:
        """`wall` gives the add time of new SAs in seconds since 1970."""
        self.owner = owner
        self.writes = 0
        self.port_id = 1
        self._wall = wall
        self._sas: dict[SaKey, ObservedSa] = {}
        self._policies: dict[PolicyKey, ObservedPolicy] = {}
        self._next_index = 0
        self._monitors: list[FakeMonitor] = []

    def observe(self) -> XfrmState:
        return XfrmState(tuple(self._sas.values()), tuple(self._policies.values()))

    def apply(self, wave: Wave) -> tuple[Outcome, ...]:
        return apply_wave(self, self.owner, wave)

    def owns(self, thing: ObservedSa | ObservedPolicy) -> bool:
        return self.owner.owns(thing)

    def close(self) -> None:
        """Nothing to let go of; here so that a driver can be closed whichever it is."""

    def monitor(self) -> FakeMonitor:
        """A new listener to everything that happens from now on."""
        listener = FakeMonitor(self._monitors.remove)
        self._monitors.append(listener)
        return listener

    # --- someone else's hand ---

    def place(self, thing: ObservedSa | ObservedPolicy, port_id: int = 2) -> None:
        """Put an object there, over whatever has its key; announced as the change of `port_id`."""
        if isinstance(thing, ObservedSa):
            self._sas[thing.sa.key] = thing
            self._announce("sa-added", thing.sa.key, thing.sa.reqid, port_id)
        else:
            self._policies[thing.policy.key] = thing
            self._announce("policy-added", port=port_id)

    def remove(self, key: SaKey | PolicyKey, port_id: int = 2) -> None:
        """Take an object away. Raises KeyError where there is none."""
        if isinstance(key, SaKey):
            gone = self._sas.pop(key)
            self._announce("sa-deleted", key, gone.sa.reqid, port_id)
        else:
            del self._policies[key]
            self._announce("policy-deleted", port=port_id)

    def count(self, key: SaKey, counters: SaCounters) -> None:
        """Set what an SA has seen. Raises KeyError where there is none."""
        seen = self._sas[key]
        self._sas[key] = ObservedSa(seen.sa, counters, seen.foreign_traits)

    def expire(self, key: SaKey, hard: bool) -> None:
        """Let an SA reach a limit: a soft one is announced, a hard one also removes it."""
        self._announce(f"sa-expired-{'hard' if hard else 'soft'}", key, self._sas[key].sa.reqid, 0)
        if hard:
            del self._sas[key]

    # --- the kernel, as `apply` sees it ---

    def look_sas(self, keys: Set[SaKey]) -> Mapping[SaKey, ObservedSa]:
        return {key: self._sas[key] for key in keys if key in self._sas}

    def look_policies(self, keys: Set[PolicyKey]) -> Mapping[PolicyKey, ObservedPolicy]:
        return {key: self._policies[key] for key in keys if key in self._policies}

    def write(self, orders: Sequence[Order]) -> Sequence[Answer]:
        return [self._write(order) for order in orders]

    def _write(self, order: Order) -> Answer:
        op = order.op
        try:
            # What has no form on the wire is refused here as the real driver refuses it.
            if isinstance(op, AddSa):
                encode_sa(op.sa)
            elif isinstance(op, DelSa):
                encode_sa_key(op.key)
            elif isinstance(op, SetPolicy):
                encode_policy(op.policy)
            else:
                encode_policy_key(op.key, order.index)
        except CodecError as error:
            return Answer(code="invalid", message=str(error))
        self.writes += 1
        if isinstance(op, AddSa):
            return self._new_sa(op.sa)
        if isinstance(op, DelSa):
            return self._delete_sa(op.key)
        if isinstance(op, SetPolicy):
            return self._put_policy(op.policy, order.create)
        return self._delete_policy(op.key, order.index)

    def _new_sa(self, sa: Sa) -> Answer:
        refused = _refuse(sa)
        if refused is not None:
            return refused
        if sa.key in self._sas:
            return Answer(errno.EEXIST)
        self._sas[sa.key] = ObservedSa(sa, SaCounters(add_time=int(self._wall())))
        self._announce("sa-added", sa.key, sa.reqid, self.port_id)
        return _OK

    def _delete_sa(self, key: SaKey) -> Answer:
        gone = self._sas.pop(key, None)
        if gone is None:
            return Answer(errno.ESRCH)
        self._announce("sa-deleted", key, gone.sa.reqid, self.port_id)
        return _OK

    def _put_policy(self, policy: Policy, create: bool) -> Answer:
        old = self._policies.get(policy.key)
        template = policy.template
        if template and template.mode == "transport" and (":" in template.dst) != (":" in policy.selector.dst):
            # `validate_tmpl`: only a tunnel may change the family.
            return Answer(errno.EINVAL, "Template in mode transport has another family than the selector")
        if old is not None and create:
            return Answer(errno.EEXIST)
        index = old.policy.index if old is not None else self._free_index(policy)
        kept = Policy(policy.direction, policy.selector, policy.action, policy.priority, index, policy.template)
        # A replaced policy moves to the end of the list: it is a new object with the old one's index.
        self._policies.pop(policy.key, None)
        self._policies[policy.key] = ObservedPolicy(kept)
        self._announce("policy-added" if create else "policy-updated", port=self.port_id)
        return _OK

    def _delete_policy(self, key: PolicyKey, index: int) -> Answer:
        if index:
            taken = [k for k, seen in self._policies.items()
                     if seen.policy.index == index and k.direction == key.direction]  # fmt: skip
            if not taken:
                return Answer(errno.ENOENT)
            key = taken[0]
        if self._policies.pop(key, None) is None:
            return Answer(errno.ENOENT)
        self._announce("policy-deleted", port=self.port_id)
        return _OK

    def _free_index(self, policy: Policy) -> int:
        taken = {seen.policy.index for seen in self._policies.values()}
        if policy.index and policy.index not in taken:
            return policy.index
        low = {"in": 0, "out": 1, "fwd": 2}[policy.direction]
        while True:
            # `xfrm_gen_index`: counted in steps of 8 with the direction in the low bits, never 0.
            index = self._next_index | low
            self._next_index += 8
            if index and index not in taken:
                return index

    def _announce(self, what: str, key: SaKey | None = None, reqid: int = 0, port: int = 0) -> None:
        change = Change(what, pid=port) if key is None else Change(what, key.dst, key.spi, reqid, port)
        for listener in self._monitors:
            listener.put(change)


def _refuse(sa: Sa) -> Answer | None:
    """What `xfrm_state_construct` and `esp_init_state` say to an SA before it is inserted; None where it is good."""
    crypto = sa.crypto
    if isinstance(crypto, Aead):
        known = crypto.name in _AEADS
        missing = "Requested AEAD algorithm not found"
    else:
        known = _known(crypto)
        missing = "Requested AUTH_TRUNC or CRYPT algorithm not found"
    if not known:
        return Answer(errno.ENOSYS, missing)
    if sa.esn and not sa.replay_window:
        return Answer(errno.EINVAL, "ESN replay window must be > 0")
    if bad_key_length(sa):
        return Answer(errno.EINVAL, "Kernel was unable to initialize cryptographic operations")
    return None


def _known(crypto: AuthEnc) -> bool:
    return crypto.auth_name in _AUTHS and crypto.enc_name in _CIPHERS


class FakeMonitor:
    """Implements `Monitor` for a `FakeKernel`; its descriptor is readable while something is unread."""

    def __init__(self, closed: Callable[[FakeMonitor], None]) -> None:
        self._pending: deque[Change] = deque()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closed = closed
        self._lock = threading.Lock()

    def fileno(self) -> int:
        return self._bell

    def put(self, change: Change) -> None:
        """Add an announcement; where too many are unread they are dropped and one `overrun` stands for them."""
        with self._lock:
            if len(self._pending) >= _PENDING_CHANGES:
                self._pending.clear()
                change = Change("overrun")
            self._pending.append(change)
            os.eventfd_write(self._bell, 1)

    def read(self) -> tuple[Change, ...]:
        with self._lock:
            changes = tuple(self._pending)
            self._pending.clear()
            if select.select([self._bell], [], [], 0)[0]:
                os.eventfd_read(self._bell)
        return changes

    def close(self) -> None:
        self._closed(self)
        os.close(self._bell)
