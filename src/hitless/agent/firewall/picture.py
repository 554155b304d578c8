"""The bridge as it was last seen, brought along by what this process has written since.

Between two looks no dump is needed: what an acknowledged bundle did to the tables is known exactly. Every write goes
through here, so that the picture and the count of flow-mods cannot miss one.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hitless.agent.firewall.facts import is_canary
from hitless.core.firewall.identity import KnownIds, read_ids
from hitless.core.model.flow import BridgeState, Flow, FlowKey
from hitless.core.plan.flows import AddFlow, Bundle, by_key
from hitless.ports import Switch


class Picture:
    """One bridge. Methods raise SwitchError; after one, `forget` what was seen: it may have happened or not."""

    def __init__(self, switch: Switch) -> None:
        self.switch = switch
        self.bridge: BridgeState | None = None
        self.ours: Mapping[FlowKey, Flow] = {}
        self.others: Mapping[FlowKey, Flow] = {}
        self.flow_mods = self.looks = self.bundles = 0
        self._resting: set[int] = set()

    def look(self) -> BridgeState:
        """Dump the bridge. Flows are kept apart from the state, by key."""
        seen = self.switch.observe()
        self.ours = by_key(each for each in seen.flows if self.switch.owns(each))
        self.others = by_key(each for each in seen.flows if each.key not in self.ours)
        self.bridge = msgspec.structs.replace(seen, flows=())
        self.looks += 1
        return self.bridge

    def forget(self) -> None:
        """The next round has to look."""
        self.bridge = None

    @property
    def has_canary(self) -> bool:
        return any(is_canary(each) for each in self.ours.values())

    def said(self, key: str) -> str:
        """A remembered value; "" where there is none."""
        return "" if self.bridge is None else dict(self.bridge.external_ids).get(key, "")

    def ids(self) -> KnownIds:
        """Ids on the bridge, and those freed by a bundle whose barrier has not passed."""
        found = read_ids((*self.ours.values(), *self.others.values()))
        return msgspec.structs.replace(found, resting=frozenset(self._resting))

    def remember(self, values: Mapping[str, str]) -> bool:
        """Write what differs; whether anything did. An empty value removes its key."""
        new = {key: value for key, value in values.items() if self.said(key) != value}
        if new and self.bridge is not None:
            self.switch.remember(new)
            kept = {**dict(self.bridge.external_ids), **new}
            ids = tuple(sorted((key, value) for key, value in kept.items() if value))
            self.bridge = msgspec.structs.replace(self.bridge, external_ids=ids)
        return bool(new)

    def tag(self, tags: Mapping[str, int]) -> None:
        """Make these interfaces access ports."""
        if tags and self.bridge is not None:
            self.switch.set_tags(tags)
            worn = tuple(
                msgspec.structs.replace(each, tag=tags.get(each.name, each.tag)) for each in self.bridge.interfaces
            )
            self.bridge = msgspec.structs.replace(self.bridge, interfaces=worn)

    def apply(self, bundle: Bundle) -> None:
        """Carry out one bundle and draw it in. Ids in what it replaces or deletes rest until `barrier`."""
        self.switch.apply(bundle)
        self.bundles += 1
        self.flow_mods += len(bundle)
        ours = dict(self.ours)
        before = [ours.pop(op.flow.key) for op in bundle if op.flow.key in ours]
        ours.update((op.flow.key, op.flow) for op in bundle if isinstance(op, AddFlow))
        self.ours = ours
        self._resting |= read_ids(before).in_use

    def barrier(self) -> None:
        """Wait until nothing uses verdicts of old tables: freed ids are free from then on."""
        self.switch.barrier()
        self._resting.clear()
