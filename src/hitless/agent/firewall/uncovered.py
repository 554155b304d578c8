"""What a verdict on a change says nothing about, named where a flow that changes touches it.

The check follows what is forwarded, where to, and what is committed (docs/guide/limits.md). Each sentence here is about
something beside that; none is said of a change that cannot have to do with it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from hitless.core.model.flow import Action, Ct, Flow, FlowKey, Opaque, SetField
from hitless.core.plan.flows import AddFlow, FlowOp

_REGISTER: Final = re.compile(r"NXM_NX_(REG\d+)\[")
_REWRITTEN: Final = frozenset({"tun_id", "dl_src", "dl_dst"})
_REWRITES: Final = ("set_field:", "mod_", "set_tunnel", "dec_ttl", "load:", "move:")

_ZONES: Final = "live connections of one conntrack zone that are looked up in another: a zone changes"
_SENT: Final = "what is sent may carry another tunnel id, address or field in between: only where to is compared"
_TRACKED: Final = "packets that are tracked before they come to table 0, where a flow that changes looks at ct_ fields"
_UNTAGGED: Final = (
    "flows on untagged packets that were written over OpenFlow 1.0: dumps print them like those of later versions, and "
    "lines do not hit both"
)


def uncovered(before: Iterable[Flow], ops: Iterable[FlowOp]) -> tuple[str, ...]:
    """Sentences, each once."""
    olds = {flow.key: flow for flow in before}
    stood: dict[FlowKey, list[Flow]] = {}
    gone: set[FlowKey] = set()
    for op in ops:
        key = op.flow.key
        versions = stood.setdefault(key, [olds[key]] if key in olds else [])
        if isinstance(op, AddFlow):
            versions.append(op.flow)
        else:
            gone.add(key)
    changed = [each for key, each in stood.items() if key in gone or key not in olds or len(_distinct(each)) > 1]
    return tuple(_told(changed, _zone_fields([*olds.values(), *(flow for each in changed for flow in each)])))


def _told(changed: Collection[list[Flow]], zone_fields: frozenset[str]) -> Iterator[str]:
    """`changed`: for each key whatever flows stand there, one after the other."""
    if any(len({_zones(flow, zone_fields) for flow in each}) > 1 for each in changed):
        yield _ZONES
    if any(len({_sent(flow) for flow in each}) > 1 for each in changed):
        yield _SENT
    if any(_is_tracked(flow) for each in changed for flow in each):
        yield _TRACKED
    if any(_is_untagged(flow) for each in changed for flow in each):
        yield _UNTAGGED


def _distinct(flows: Iterable[Flow]) -> set[tuple[Action, ...]]:
    return {flow.actions for flow in flows}


def _zone_fields(flows: Iterable[Flow]) -> frozenset[str]:
    """Registers that some ct() takes its zone from."""
    texts = {str(action.zone) for flow in flows for action in flow.actions if isinstance(action, Ct)}
    return frozenset(found[1].lower() for text in texts if (found := _REGISTER.match(text)))


def _zones(flow: Flow, fields: frozenset[str]) -> tuple[object, ...]:
    direct = tuple(each.zone for each in flow.actions if isinstance(each, Ct))
    return direct, tuple(each for each in flow.actions if isinstance(each, SetField) and each.field in fields)


def _sent(flow: Flow) -> tuple[object, ...]:
    """Tunnel ids, addresses, and rewrites that are only known as text."""
    return tuple(
        each
        for each in flow.actions
        if (isinstance(each, SetField) and each.field in _REWRITTEN)
        or (isinstance(each, Opaque) and each.text.startswith(_REWRITES))
    )


def _is_tracked(flow: Flow) -> bool:
    return flow.table == 0 and any(field.startswith("ct_") for field, _, _ in flow.match)


def _is_untagged(flow: Flow) -> bool:
    return any(field == "vlan_tci" and mask & 0x1000 and not value & 0x1000 for field, value, mask in flow.match)
