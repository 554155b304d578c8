"""An executable Open vSwitch bridge in memory, with the real one's rules.

Flows pass through the text codec on their way in, so they come back normalised as the real switch prints them.
Rules worth knowing, each of them in the conformance suite:

* an add with an equal table, priority and match replaces actions and cookie;
* a strict delete touches nothing whose cookie differs, and is no error where there is nothing;
* a refusal anywhere leaves everything as it was;
* changing the fail mode of a bridge without controllers forgets all flows, and so does a restart; in the mode
  `secure` not even the implicit NORMAL flow comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import msgspec

from hitless.core.firewall.pipeline import CANARY
from hitless.core.model.flow import (
    IPV4,
    IPV6,
    BridgeState,
    Conjunction,
    Connection,
    Ct,
    Flow,
    FlowKey,
    Interface,
    Normal,
    Opaque,
    exact,
)
from hitless.core.plan.flows import AddFlow, Bundle, FlowOp
from hitless.drivers.ovs.codec import format_flow, parse
from hitless.drivers.ovs.own import owns
from hitless.ports import BundleRefusedError, SwitchError, SwitchUnavailableError

_IMPLICIT = Flow(0, 0, (), (Normal(),))
_MAX_CLAUSES = 64


def real_refusal(op: FlowOp) -> str:
    """The error with which Open vSwitch itself refuses such an operation; empty where it does not."""
    if not isinstance(op, AddFlow):
        return ""
    for action in op.flow.actions:
        if isinstance(action, Opaque) and action.text.startswith("group:"):
            return "OFPBAC_BAD_OUT_GROUP"  # there are no groups here
        if isinstance(action, Conjunction) and action.clauses > _MAX_CLAUSES:
            return "conjunction must have at most 64 clauses"
        if isinstance(action, Ct) and not {exact("eth_type", IPV4), exact("eth_type", IPV6)} & set(op.flow.match):
            return "OFPBAC_MATCH_INCONSISTENT"
    return ""


class FakeSwitch:
    """Implements `Switch` in memory. Public attributes are someone else's hand on the same bridge.

    `refuses` names a reason for operations to be refused, besides the real switch's own; `at` is called with the name
    of each point where a process may die (`before-apply`, `after-apply`, `before-remember`, ...) and may raise. While
    `up` is false every method raises SwitchUnavailableError. `writes` counts flow operations that are in force, `calls`
    names the methods called.
    """

    def __init__(
        self,
        *,
        tables: frozenset[int],
        interfaces: Iterable[Interface] = (),
        refuses: Callable[[FlowOp], str] = lambda _: "",
        at: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.flows: dict[FlowKey, Flow] = {_IMPLICIT.key: _IMPLICIT}
        self.interfaces: dict[str, Interface] = {each.name: each for each in interfaces}
        self.external_ids: dict[str, str] = {}
        self.tracked: list[Connection] = []
        self.fail_mode = ""
        self.restore_wait = False
        self.up = True
        self.refuses = refuses
        self.at = at
        self.writes = 0
        self.calls: list[str] = []
        self._tables = tables

    def restart(self) -> None:
        """ovs-vswitchd is killed and comes back: flows are gone, the database is as it was."""
        self.up = True
        self.flows = {} if self.fail_mode == "secure" else {_IMPLICIT.key: _IMPLICIT}
        self.tracked.clear()

    def observe(self) -> BridgeState:
        self._enter("observe")
        interfaces = tuple(sorted(self.interfaces.values(), key=lambda each: each.name))
        external_ids = tuple(sorted(self.external_ids.items()))
        return BridgeState(tuple(self.flows.values()), interfaces, external_ids, self.fail_mode, self.restore_wait)

    def apply(self, bundle: Bundle) -> None:
        self._enter("apply")
        after = dict(self.flows)
        for op in bundle:
            if reason := self.refuses(op) or real_refusal(op):
                raise BundleRefusedError(
                    "bundle-refused", f"the change was refused ({reason}) because of the flow: {format_flow(op.flow)}"
                )
            flow = parse(format_flow(op.flow))
            if isinstance(op, AddFlow):
                after[flow.key] = flow
            elif flow.key in after and after[flow.key].cookie == flow.cookie:
                del after[flow.key]
        self.at("before-apply")
        self.flows = after
        self.writes += len(bundle)
        self.at("after-apply")

    def owns(self, flow: Flow) -> bool:
        return owns(flow, self._tables)

    def canary(self) -> bool:
        self._enter("canary")
        return any(flow.table == CANARY and self.owns(flow) for flow in self.flows.values())

    def barrier(self) -> None:
        self._enter("barrier")
        self.at("after-barrier")

    def remember(self, values: Mapping[str, str]) -> None:
        self._enter("remember")
        self.at("before-remember")
        merged = self.external_ids | dict(values)
        self.external_ids = {key: value for key, value in merged.items() if value}
        self.at("after-remember")

    def set_tags(self, tags: Mapping[str, int]) -> None:
        self._enter("set_tags")
        if missing := sorted(set(tags) - set(self.interfaces)):
            raise SwitchError("interface-unknown", f"no interface {', '.join(missing)}; its tag was not set")
        self.at("before-tags")
        for name, tag in tags.items():
            self.interfaces[name] = msgspec.structs.replace(self.interfaces[name], tag=tag)
        self.at("after-tags")

    def set_fail_secure(self) -> None:
        self._enter("set_fail_secure")
        if self.fail_mode != "secure":
            self.fail_mode = "secure"
            self.flows = {}
        self.at("after-fail-secure")

    def set_restore_wait(self, wait: bool) -> None:
        self._enter("set_restore_wait")
        self.restore_wait = wait
        self.at("after-restore-wait")

    def connections(self, zones: Collection[int]) -> tuple[Connection, ...]:
        self._enter("connections")
        return tuple(each for each in self.tracked if each.zone in zones)

    def cut(self, connections: Sequence[Connection]) -> None:
        self._enter("cut")
        self.at("before-cut")
        doomed = {msgspec.structs.replace(each, mark=0) for each in connections}
        self.tracked = [each for each in self.tracked if msgspec.structs.replace(each, mark=0) not in doomed]
        self.at("after-cut")

    def _enter(self, name: str) -> None:
        self.calls.append(name)
        if not self.up:
            raise SwitchUnavailableError("switch-unavailable", "the fake switch is down; start it again")
