"""The historic way of writing, for the lab alone: port by port, in batches, with ids in order of appearance.

It is what a well-known agent does when it starts: every port in turn is written again, a hundred flows at a time, and
what is left of the old tables is deleted at the end. Shared member flows carry the ids of the ports written so far, so
the first port takes them from all the others; a connection that meets that moment is marked, and nothing un-marks it.
With ids `reused` from the start, an old flow can also complete a conjunction that now means somebody else's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal

from hitless.core.firewall import base, rules
from hitless.core.firewall.compile import Local, attach, remote_members
from hitless.core.firewall.identity import ConjunctionKey, KnownIds, cookie
from hitless.core.model.flow import Flow, FlowKey
from hitless.core.model.security import Intent
from hitless.core.plan.flows import AddFlow, Bundle, DelFlow

BATCH: Final = 100  # flows; the historic AGENT_RES_PROCESSING_STEP
_STEP: Final = 8  # ids that the historic allocation reserves for one remote
HEALS: Final = cookie("pipeline", "heal")  # flows that the historic pipeline does not have

Ids = Literal["hash", "fresh", "reused"]


def bundles(
    intent: Intent,
    local: Local,
    known: KnownIds,
    ours: Mapping[FlowKey, Flow],
    order: Sequence[str],
    ids: Mapping[ConjunctionKey, int] | Literal["fresh", "reused"],
) -> Iterator[Bundle]:
    """Everything again, port by port in `order`, then the deletion of what is stale in `ours`.

    `ids` "fresh" counts on from the highest id on the bridge, "reused" from the start; a mapping is taken as it is.
    """
    final: dict[FlowKey, Flow] = {}
    batch: list[AddFlow] = []
    for flow in _in_order(intent, local, order, _Numbers(ids, known)):
        final[flow.key] = flow
        batch.append(AddFlow(flow))
        if len(batch) == BATCH:
            yield tuple(batch)
            batch = []
    if batch:
        yield tuple(batch)
    stale = [DelFlow(flow) for key, flow in sorted(ours.items()) if key not in final]
    for first in range(0, len(stale), BATCH):
        yield tuple(stale[first : first + BATCH])


class _Numbers:
    """Ids in order of appearance."""

    def __init__(self, ids: Mapping[ConjunctionKey, int] | Literal["fresh", "reused"], known: KnownIds) -> None:
        given = ids if isinstance(ids, Mapping) else {}
        self.by_key: dict[ConjunctionKey, int] = dict(given)
        self._next = max(known.in_use, default=0) // _STEP * _STEP + _STEP if ids == "fresh" else _STEP

    def number(self, keys: Sequence[ConjunctionKey]) -> None:
        for key in keys:
            if key not in self.by_key:
                self.by_key[key] = self._next
                self._next += _STEP


def _in_order(intent: Intent, local: Local, order: Sequence[str], numbers: _Numbers) -> Iterator[Flow]:
    attached = {each.port.name: each for each in attach(intent, local)}
    wanted: dict[str, set[ConjunctionKey]] = {}
    written: dict[FlowKey, Flow] = {}
    for name in order:
        each = attached[name]
        ruled = {group: rules.prepare(intent.groups[group]) for group in each.port.groups}
        keys = [key for prepared in ruled.values() for key in sorted(prepared.keys)]
        numbers.number(keys)
        yield from (flow for flow in base.flows([each], local.uplinks) if flow.cookie != HEALS)
        yield from rules.flows([each], ruled, numbers.by_key)
        of_network = wanted.setdefault(each.port.network, set())
        of_network.update(keys)
        members = remote_members(intent, intent.networks[each.port.network].scope)
        shared = rules.member_flows(each.port.network, each.tag, sorted(of_network), members, numbers.by_key)
        for flow in shared:
            if written.get(flow.key) != flow:
                written[flow.key] = flow
                yield flow
