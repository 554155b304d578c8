"""A wave, carried out: look first, write only what is ours, read back.

1. **Look.** Everything that the wave deletes or replaces is read before the first write. What is not ours is
   refused with `foreign` and never reaches the kernel; what is not there is not deleted blindly.
2. **Write.** Where no policy was seen the message creates (and fails if someone was faster); where ours was
   seen it replaces. SAs are only ever created: an update of an existing SA answers success and silently keeps the
   old key.
3. **Read back.** What the wave says must exist is read again and compared, key included. A lost answer is
   decided the same way: by what the kernel holds.

There is no transaction over several objects in XFRM; an order of operations that is safe at every prefix is the
planner's work, and keeping that order is this one's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hitless.core.model.sa import Aead, ObservedPolicy, ObservedSa, Policy, PolicyKey, Sa, SaKey
from hitless.core.model.secret import Secret
from hitless.core.plan.ops import AddSa, DelPolicy, DelSa, Op, Outcome, SetPolicy, Wave
from hitless.drivers.xfrm.errors import XfrmError
from hitless.drivers.xfrm.kernel import Answer, Kernel, Order
from hitless.drivers.xfrm.own import Owner
from hitless.drivers.xfrm.refusal import outcome


def apply_wave(kernel: Kernel, owner: Owner, wave: Wave) -> tuple[Outcome, ...]:
    """Carry out a wave in order; one outcome per operation, in the same order. Never raises for a refusal."""
    try:
        gate = _Gate(kernel, owner, wave)
    except XfrmError as error:
        # Without a look nothing may be written: what is there could be someone else's.
        return tuple(Outcome(op, error.code, str(error)) for op in wave)
    outcomes: list[Outcome] = []
    places: list[int] = []
    orders: list[Order] = []
    for place, op in enumerate(wave):
        admitted = gate.admit(op)
        if isinstance(admitted, Order):
            places.append(place)
            orders.append(admitted)
            outcomes.append(Outcome(op))
        else:
            outcomes.append(admitted)
    for place, order, answer in zip(places, orders, _write(kernel, orders), strict=True):
        if answer.errno or answer.code:
            outcomes[place] = outcome(order.op, answer)
    _read_back(kernel, outcomes)
    return tuple(outcomes)


def _write(kernel: Kernel, orders: Sequence[Order]) -> Sequence[Answer]:
    try:
        return kernel.write(orders)
    except XfrmError as error:
        # The line broke in the middle: which messages got through is for the read-back to find out.
        return [Answer(code="no-answer", message=str(error))] * len(orders)


class _Gate:
    """Decides operation by operation what may be sent, following what the wave itself will have changed by then."""

    def __init__(self, kernel: Kernel, owner: Owner, wave: Wave) -> None:
        self._owner = owner
        self._sas = dict(kernel.look_sas({op.key for op in wave if isinstance(op, DelSa)}))
        wanted = {op.key if isinstance(op, DelPolicy) else op.policy.key
                  for op in wave if isinstance(op, DelPolicy | SetPolicy)}  # fmt: skip
        self._policies = dict(kernel.look_policies(wanted))
        self._indexes = {key: seen.policy.index for key, seen in self._policies.items()}

    def admit(self, op: Op) -> Order | Outcome:
        if isinstance(op, AddSa):
            return self._add_sa(op)
        if isinstance(op, DelSa):
            return self._del_sa(op)
        if isinstance(op, SetPolicy):
            return self._set_policy(op)
        return self._del_policy(op)

    def _add_sa(self, op: AddSa) -> Order | Outcome:
        if not self._owner.claims_sa(op.sa):
            return Outcome(op, "unowned", _unowned(f"reqid 0x{op.sa.reqid:x} and SPI 0x{op.sa.spi:x}"))
        self._sas.setdefault(op.sa.key, ObservedSa(op.sa))
        return Order(op)

    def _del_sa(self, op: DelSa) -> Order | Outcome:
        seen = self._sas.get(op.key)
        if seen is None:
            return Outcome(op, "no-such-sa", f"there is no SA to {op.key.dst} with SPI 0x{op.key.spi:08x}")
        if not self._owner.owns_sa(seen):
            return Outcome(op, "foreign", _foreign("SA", f"reqid 0x{seen.sa.reqid:x}", seen.foreign_traits))
        del self._sas[op.key]
        return Order(op)

    def _set_policy(self, op: SetPolicy) -> Order | Outcome:
        if not self._owner.claims_policy(op.policy):
            return Outcome(op, "unowned", _unowned(f"index 0x{op.policy.index:x} or the template's reqid"))
        seen = self._policies.get(op.policy.key)
        if seen is not None and not self._owner.owns_policy(seen):
            return Outcome(op, "foreign", _foreign("policy", f"index 0x{seen.policy.index:x}", seen.foreign_traits))
        self._policies[op.policy.key] = ObservedPolicy(op.policy)
        return Order(op, create=seen is None)

    def _del_policy(self, op: DelPolicy) -> Order | Outcome:
        seen = self._policies.get(op.key)
        if seen is None:
            return Outcome(op, "no-such-policy", "there is no policy with this direction and selector")
        if not self._owner.owns_policy(seen):
            return Outcome(op, "foreign", _foreign("policy", f"index 0x{seen.policy.index:x}", seen.foreign_traits))
        del self._policies[op.key]
        # Only an index that was *read* may name the victim: the kernel replaces a taken index by one of its own.
        return Order(op, index=self._indexes.pop(op.key, 0))


def _foreign(kind: str, numbers: str, traits: Sequence[str]) -> str:
    why = f"has {', '.join(traits)}" if traits else f"has {numbers}"
    return f"this {kind} is not ours ({why}) and stays as it is; remove it yourself if it is in the way"


def _unowned(what: str) -> str:
    return f"{what} is outside of this program's range, so that the object could never be recognised as ours again"


def _read_back(kernel: Kernel, outcomes: list[Outcome]) -> None:
    """Compare what the wave says with what the kernel holds, for the last operation on each key."""
    last: dict[SaKey | PolicyKey, int] = {_key(done.op): place for place, done in enumerate(outcomes)}
    asked = [
        place
        for place in last.values()
        if outcomes[place].error == "no-answer"
        or (outcomes[place].ok and isinstance(outcomes[place].op, AddSa | SetPolicy))
    ]
    if not asked:
        return
    keys = {_key(outcomes[place].op) for place in asked}
    try:
        sas = kernel.look_sas({key for key in keys if isinstance(key, SaKey)})
        policies = kernel.look_policies({key for key in keys if isinstance(key, PolicyKey)})
    except XfrmError as error:
        for place in asked:
            outcomes[place] = Outcome(outcomes[place].op, "no-answer", f"written, but not read back: {error}")
        return
    for place in asked:
        done = outcomes[place]
        wrong = _difference(done.op, sas, policies)
        if not wrong:
            outcomes[place] = Outcome(done.op)
        elif done.ok:
            outcomes[place] = Outcome(done.op, "read-back-differs", f"the kernel took it, but then: {wrong}")
        else:
            outcomes[place] = Outcome(done.op, done.error, f"{done.detail}; read back: {wrong}")


def _key(op: Op) -> SaKey | PolicyKey:
    if isinstance(op, AddSa):
        return op.sa.key
    return op.policy.key if isinstance(op, SetPolicy) else op.key


def _difference(op: Op, sas: Mapping[SaKey, ObservedSa], policies: Mapping[PolicyKey, ObservedPolicy]) -> str:
    """What is not as the operation wants it, "" where all is."""
    if isinstance(op, AddSa):
        sa = sas.get(op.sa.key)
        return "it is not there" if sa is None else _differing(op.sa, sa.sa, sa.foreign_traits)
    if isinstance(op, SetPolicy):
        policy = policies.get(op.policy.key)
        return "it is not there" if policy is None else _differing(op.policy, policy.policy, policy.foreign_traits)
    left = op.key in sas if isinstance(op, DelSa) else op.key in policies
    return "it is still there" if left else ""


def _differing(wanted: Sa | Policy, found: Sa | Policy, traits: tuple[str, ...]) -> str:
    if wanted == found and not traits:
        return ""
    fields = [name for name in wanted.__struct_fields__ if getattr(wanted, name) != getattr(found, name)]
    text = [f"{name} differs" for name in fields]
    if isinstance(found, Sa) and "crypto" in fields and _hidden(found):
        text.append("the key reads as zeros: the kernel hides keys (lockdown=confidentiality)")
    text += [f"it has {trait}" for trait in traits]
    return ", ".join(text)


def _hidden(sa: Sa) -> bool:
    key: Secret = sa.crypto.key if isinstance(sa.crypto, Aead) else sa.crypto.enc_key
    return key == Secret(bytes(len(key)))
