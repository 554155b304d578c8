"""The pipeline: table numbers, registers and priorities, in the layout that operators of Neutron's bridges know.

    0 ─ 60 classify ─┬─ 71 egress base ─ ct ─ 72 egress rules ─ 73 local? ─┬─ 94 out
                     └─ 81 ingress base ─ ct ─ 82 ingress rules ─ 92 in    └─ 81 (a port of this bridge)
                                     denied anywhere: 93

`reg5` is the OpenFlow number of the port whose rules are asked, `reg6` its network's VLAN tag, which is also the
conntrack zone, `reg7` the deciding conjunction. What crosses a `ct()` (registers, zone, mark) means the same before and
after every change, for a packet can meet the tables of both.

Rules stand between `RULES` and `RULES + 3 * TIERS`: three levels a tier, a deny above a stateless allow above an
allow. All that is decided before rules are asked (replies, related, invalid) stands above, and what no rule allows
falls through to 93, the one place where a connection is marked.
"""

from __future__ import annotations

from typing import Final

from hitless.core.model.flow import NEW, REL, RPL, TRK, Ct, Flow, Match, Resubmit, Term, ct_state, exact
from hitless.core.model.security import TIERS, Direction, Verdict

ENTRY, CANARY, CLASSIFY = 0, 23, 60
EGRESS_BASE, EGRESS_RULES, EGRESS_ACCEPTED = 71, 72, 73
INGRESS_BASE, INGRESS_RULES = 81, 82
HOOK_EGRESS, INGRESS_ACCEPTED, DENIED, OUT = 91, 92, 93, 94

TABLES: Final = frozenset({ENTRY, CANARY, CLASSIFY, EGRESS_BASE, EGRESS_RULES, EGRESS_ACCEPTED, INGRESS_BASE,
                           INGRESS_RULES, HOOK_EGRESS, INGRESS_ACCEPTED, DENIED, OUT})  # fmt: skip
RULE_TABLE: Final[dict[Direction, int]] = {"egress": EGRESS_RULES, "ingress": INGRESS_RULES}

# 72 and 82.
INVALID, DECIDED, KEPT, RULES, UNTRACKED = 100, 95, 90, 60, 50

COOKIE_PREFIX: Final = 0x6874  # "ht": the top 16 bits of every cookie of ours
CUT_MARK: Final = 1  # ct_mark of a connection that was allowed once and is denied now

ZONE: Final = "NXM_NX_REG6[0..15]"
TRACKED: Final = ct_state(on=TRK)
NOT_TRACKED: Final = ct_state(off=TRK)
FIRST: Final = ct_state(on=TRK | NEW)
ORIGINAL_FLAGS: Final = REL | RPL


def rule_priority(tier: int, action: Verdict, *, stateless: bool) -> int:
    """Where a rule stands in 72 and 82: tier 0 highest; in a tier a deny, then a stateless allow, then an allow."""
    return RULES + 3 * (TIERS - 1 - tier) + (2 if action == "deny" else int(stateless))


def match(*terms: Term) -> Match:
    """Terms in the order that makes equal matches equal values."""
    return tuple(sorted(terms))


def port_term(ofport: int) -> Term:
    """The port whose rules are asked."""
    return exact("reg5", ofport)


def network_term(tag: int) -> Term:
    """The network, which is also the conntrack zone."""
    return exact("reg6", tag)


def track(table: int) -> Ct:
    """Look the packet up in its network's zone and go on in a table, as a new translation."""
    return Ct(zone=ZONE, table=table)


def go(table: int) -> tuple[Resubmit]:
    """Go on in a table."""
    return (Resubmit(table),)


def flow(table: int, priority: int, terms: Match, actions: tuple, cookie: int) -> Flow:  # type: ignore[type-arg]
    """A flow from terms in any order."""
    return Flow(table, priority, match(*terms), actions, cookie)
