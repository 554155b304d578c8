"""The engine says what trying everything says: random small plans, every packet, every subset of writes."""

from __future__ import annotations

from collections import Counter

import pytest
from tests.core.verify.transition.brute import SEEN_AT_ONCE, Brute
from tests.core.verify.transition.small import Small

from hitless.core.verify.transition.check import check
from hitless.core.verify.transition.verdict import KINDS, Counterexample, Proved, Unknown

BLOCKS, PLANS = 40, 50


@pytest.mark.parametrize("block", range(BLOCKS))
def test_every_verdict_is_that_of_trying_everything(block: int) -> None:
    verdicts: Counter[str] = Counter()
    for seed in range(block * PLANS, (block + 1) * PLANS):
        small = Small(seed)
        before = small.tables()
        plan = small.plan(before)
        brute = Brute(before, plan)
        kinds = brute.kinds()
        for kind in KINDS:
            found = check(before, plan, properties=frozenset({kind}))
            verdicts[type(found).__name__] += 1
            if isinstance(found, Unknown):
                known = kind in {"poison-stays", "leaked-connection"} or "two ct() at once" in found.limit
                assert brute.has_rivals or known, f"plan {seed}, {kind}: {found.limit}"
            else:
                assert isinstance(found, Counterexample) == (kind in kinds), f"plan {seed}, {kind}: {found}"
    assert verdicts[Unknown.__name__] * 5 < verdicts[Proved.__name__], verdicts


def test_random_plans_show_both_verdicts_of_what_matters() -> None:
    seen: Counter[str] = Counter()
    for seed in range(400):
        small = Small(seed)
        before = small.tables()
        plan = small.plan(before)
        for kind in SEEN_AT_ONCE:
            seen[f"{kind} {type(check(before, plan, properties=frozenset({kind}))).__name__}"] += 1
    for kind in SEEN_AT_ONCE:
        assert seen[f"{kind} {Proved.__name__}"] >= 50, seen
        assert seen[f"{kind} {Counterexample.__name__}"] >= 2, seen
