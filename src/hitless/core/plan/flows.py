"""From the tables that are wanted and those that are there to one ordered, atomic bundle of the difference.

Every lookup sees the old tables or the new ones, never a mix (OpenFlow bundles, `ordered atomic`). The order inside
does not show then; it is kept sound all the same - what decides comes first and goes last - so that a reader, or a
switch without atomic bundles, is not left with a conjunction whose accept flow is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from hitless.core.model.flow import Flow, FlowKey


class AddFlow(msgspec.Struct, frozen=True, tag="add-flow"):
    """Add, or replace actions and cookie of the flow with the same key (OFPFC_ADD)."""

    flow: Flow


class DelFlow(msgspec.Struct, frozen=True, tag="del-flow"):
    """Delete exactly this key, and only while it has this cookie (OFPFC_DELETE_STRICT with a full cookie mask)."""

    flow: Flow


FlowOp = AddFlow | DelFlow
Bundle = tuple[FlowOp, ...]


class KeyTakenError(Exception):
    """A flow that we do not own stands where one of ours has to go; it is not overwritten."""

    def __init__(self, flow: Flow) -> None:
        super().__init__(
            f"table {flow.table}, priority {flow.priority}: a flow of somebody else (cookie {flow.cookie:#x}) has the "
            "match that ours needs; it is not overwritten. Remove it, or keep that program off this bridge"
        )
        self.code = "flow-key-taken"
        self.flow = flow


def diff(desired: Mapping[FlowKey, Flow], ours: Mapping[FlowKey, Flow], others: Mapping[FlowKey, Flow]) -> Bundle:
    """What turns `ours` into `desired`; nothing for what is right already. Raises KeyTakenError."""
    adds = [flow for key, flow in desired.items() if ours.get(key) != flow]
    for flow in adds:
        if flow.key in others:
            raise KeyTakenError(others[flow.key])
    stale = [flow for key, flow in ours.items() if key not in desired]
    adds.sort(key=_rank)
    stale.sort(key=_rank, reverse=True)
    return (*map(AddFlow, adds), *map(DelFlow, stale))


def by_key(flows: Iterable[Flow]) -> dict[FlowKey, Flow]:
    """Flows by what makes them this flow."""
    return {flow.key: flow for flow in flows}


def _rank(flow: Flow) -> tuple[int, FlowKey]:
    if flow.is_soft:
        return 2, flow.key
    return (0 if any(term[0] == "conj_id" for term in flow.match) else 1), flow.key
