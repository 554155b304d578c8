"""A bundle as the input of `ovs-ofctl --bundle add-flows`, and a refusal as a sentence with the flow in it.

The tool sends everything as one OpenFlow bundle, ordered and atomic: every lookup sees all of it or nothing, and an
error anywhere leaves the old tables (OpenFlow 1.4, 6.9). It parses all of its input before it sends.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from hitless.core.plan.flows import AddFlow, Bundle, FlowOp
from hitless.drivers.ovs.actions import show_actions
from hitless.drivers.ovs.codec import format_key
from hitless.drivers.ovs.tools import ToolFailedError, is_unreachable, run, unavailable, without_log
from hitless.ports import BundleRefusedError, SwitchError

VERSION: Final = "OpenFlow14"  # the first with bundles

# `Error OFPBAC_BAD_OUT_GROUP for: OFPT_FLOW_MOD (OF1.4) (xid=0x8): ADD table:2 priority=1 actions=group:7`
_FLOW_MOD: Final = re.compile(r"Error (OFP\w+) for: OFPT_FLOW_MOD[^:]*: (.*)")
_ANY_ERROR: Final = re.compile(r"Error (OFP\w+)")
_INPUT_LINE: Final = re.compile(r"-:(\d+): (.*)")  # `ovs-ofctl: -:3: unknown keyword bogus`, lines from 1
_NAMELESS: Final = "one that the switch does not name"
_NOT_SPOKEN: Final = "version negotiation failed"


def lines(bundle: Bundle) -> list[str]:
    """One line of input for each operation, in order."""
    return [_line(op) for op in bundle]


def send(target: str, bundle: Bundle, timeout_seconds: float) -> None:
    """Carry out a bundle on `target` (`unix:PATH`). Raises BundleRefusedError, SwitchUnavailableError, SwitchError."""
    if not bundle:
        return
    text = lines(bundle)
    argv = ["ovs-ofctl", "-O", VERSION, "--bundle", "add-flows", target, "-"]
    try:
        run(argv, timeout_seconds, "\n".join(text) + "\n")
    except ToolFailedError as error:
        raise explain(error.text, target, text) from error


def explain(complaint: str, target: str, text: Sequence[str] = ()) -> SwitchError:
    """What ovs-ofctl complained about, as the error to raise; `text` is its input."""
    bridge = target.rpartition("/")[2].removesuffix(".mgmt")
    if _NOT_SPOKEN in complaint:
        return SwitchError(
            "switch-protocol",
            f"bridge {bridge} does not speak {VERSION}, which atomic bundles need. Nothing was changed. Allow it with "
            f"`ovs-vsctl add bridge {bridge} protocols {VERSION}`",
        )
    if found := _FLOW_MOD.search(complaint):
        # Of a match that it cannot even decode (OFPBMC_BAD_PREREQ) the switch prints nothing.
        return _refused(bridge, found[1], _NAMELESS if found[2].startswith("***") else found[2])
    plain = " ".join(without_log(complaint))
    if found := _INPUT_LINE.search(plain):
        at = int(found[1]) - 1
        return _refused(bridge, found[2], text[at] if at < len(text) else f"line {at + 1}")
    if found := _ANY_ERROR.search(complaint):
        return _refused(bridge, found[1], _NAMELESS)
    if is_unreachable(complaint):
        return unavailable(f"bridge {bridge}", plain)
    return SwitchError("switch-tool-failed", f"ovs-ofctl on bridge {bridge} failed: {plain[:500]}. Nothing was changed")


def _refused(bridge: str, reason: str, flow: str) -> BundleRefusedError:
    return BundleRefusedError(
        "bundle-refused",
        f"bridge {bridge} refused the change ({reason[:200]}) because of the flow: {flow[:400]}. Nothing of it is in "
        "force, the flows from before are. Correct the rule or port that wants this flow; for a port number that "
        "the bridge does not have, add the port",
    )


def _line(op: FlowOp) -> str:
    flow = op.flow
    if isinstance(op, AddFlow):
        return f"add cookie={flow.cookie:#x},{format_key(flow)} actions={show_actions(flow.actions)}"
    return f"delete_strict cookie={flow.cookie:#x}/-1,{format_key(flow)}"
