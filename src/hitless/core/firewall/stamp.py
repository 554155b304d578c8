"""Per-packet consistency for a change that one bundle alone does not give: a stamp on packets.

A bundle is atomic for each pass of a packet through the tables, but `ct()` ends one pass and begins another, which can
meet the tables of after where the first met those of before. When a port comes or changes its groups, the old
classification and the new rules together can let through what neither policy would.

The stamp ties a packet's passes together. The entry flow writes a number into `reg4`; the bundle that makes the change
writes another one, and puts a flow above all rules that sends whoever comes back from `ct()` with the old number to the
beginning again. So a packet is treated by the old tables alone or by the new ones alone. In the other direction
nothing is needed: registers are part of what a recirculated packet is known by, so a cached verdict of before is never
used for a packet with the new number. After the barrier nobody has the old number any more, and the flows that look
for it go.

A new stamp makes every cached verdict of the bridge stale, so it is only taken where the check asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable

from hitless.core.firewall import pipeline as p
from hitless.core.firewall.identity import cookie
from hitless.core.model.flow import CtClear, Flow, Resubmit, SetField, exact
from hitless.core.plan.flows import AddFlow, Bundle, DelFlow

_FIELD = "reg4"
_AGAIN = p.INVALID + 20  # above everything else in 72 and 82


def entry(stamp: int) -> Flow:
    """The flow that every packet meets first; stamp 0 is what a register holds by itself."""
    stamped = (SetField(_FIELD, stamp),) if stamp else ()
    return p.flow(p.ENTRY, 1, (), (*stamped, Resubmit(p.CLASSIFY)), cookie("pipeline", "entry"))


def read_stamp(flows: Iterable[Flow]) -> int:
    """The stamp in force, from the entry flow; 0 where there is none."""
    owner = cookie("pipeline", "entry")
    for flow in flows:
        if flow.table == p.ENTRY and flow.cookie == owner:
            return next((each.value for each in flow.actions if isinstance(each, SetField)), 0)
    return 0


def stamped(bundle: Bundle, stamp: int) -> tuple[Bundle, Bundle]:
    """The same change under another stamp, and what is to be taken away after the barrier that follows it.

    Two numbers in turn are enough: a barrier lies between one use and the next.
    """
    restart = [
        p.flow(table, _AGAIN, (exact(_FIELD, stamp),), (CtClear(), Resubmit(p.ENTRY)), cookie("pipeline", "again"))
        for table in (p.EGRESS_RULES, p.INGRESS_RULES)
    ]
    first = (AddFlow(entry(stamp % 2 + 1)), *map(AddFlow, restart), *bundle)
    return first, tuple(map(DelFlow, restart))
