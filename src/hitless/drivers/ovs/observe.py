"""Looking at a bridge: all flows from one dump, and its canary alone."""

from __future__ import annotations

from hitless.core.firewall.pipeline import CANARY
from hitless.core.model.flow import Flow
from hitless.drivers.ovs.apply import VERSION, explain
from hitless.drivers.ovs.codec import parse_dump
from hitless.drivers.ovs.tools import ToolFailedError, run


def flows(target: str, timeout_seconds: float, which: str = "") -> tuple[Flow, ...]:
    """Every flow of the bridge at `target` (`unix:PATH`), or those that `which` selects. Raises SwitchError."""
    argv = ["ovs-ofctl", "-O", VERSION, "--no-names", "--no-stats", "dump-flows", target]
    try:
        return parse_dump(run([*argv, which] if which else argv, timeout_seconds))
    except ToolFailedError as error:
        raise explain(error.text, target) from error


def canaries(target: str, timeout_seconds: float) -> tuple[Flow, ...]:
    """What stands in the canary's table."""
    return flows(target, timeout_seconds, f"table={CANARY}")
