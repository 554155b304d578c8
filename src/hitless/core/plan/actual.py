"""What the kernel holds, as far as this node knows: the last full look, and every acknowledged operation since."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from hitless.core.model.sa import ObservedPolicy, ObservedSa, PolicyKey, SaKey, XfrmState
from hitless.core.plan.ops import AddSa, DelPolicy, DelSa, Outcome, SetPolicy


class Actual(msgspec.Struct, frozen=True):
    """Our own objects by kernel key, and the policy indexes that others occupy."""

    sas: Mapping[SaKey, ObservedSa] = {}
    policies: Mapping[PolicyKey, ObservedPolicy] = {}
    foreign_indexes: frozenset[int] = frozenset()


def actual(state: XfrmState, owns: Callable[[ObservedSa | ObservedPolicy], bool]) -> Actual:
    """Sort a full look into ours and others'."""
    return Actual(
        sas={each.sa.key: each for each in state.sas if owns(each)},
        policies={each.policy.key: each for each in state.policies if owns(each)},
        foreign_indexes=frozenset(each.policy.index for each in state.policies if not owns(each)),
    )


def after(before: Actual, outcomes: Iterable[Outcome]) -> Actual:
    """The same, once these operations have been acknowledged. Refused ones change nothing."""
    sas, policies = dict(before.sas), dict(before.policies)
    for outcome in outcomes:
        if not outcome.ok:
            continue
        match outcome.op:
            case AddSa(sa):
                sas[sa.key] = ObservedSa(sa)
            case DelSa(key):
                sas.pop(key, None)
            case SetPolicy(policy):
                policies[policy.key] = ObservedPolicy(policy)
            case DelPolicy(key):
                policies.pop(key, None)
    return msgspec.structs.replace(before, sas=sas, policies=policies)
