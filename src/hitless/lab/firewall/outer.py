"""A firewall scenario from the outside: found by name or path, and run where its datapath is to be had.

The userspace datapath runs on any machine, in namespaces that end with the run. The kernel's datapath needs a kernel
with the `openvswitch` module and one switch for itself, so it runs in a virtual machine.
"""

from __future__ import annotations

from pathlib import Path

from hitless.lab import outer, scenarios
from hitless.lab.firewall import grammar
from hitless.lab.firewall.report import FirewallReport, from_json
from hitless.lab.firewall.scenario import Scenario
from hitless.lab.kernel import Preference, choose
from hitless.lab.kernel.face import Kernel
from hitless.lab.kernel.host import HostKernel


def concerns(name_or_path: str) -> bool:
    """Whether this is a scenario of the firewall. False for what cannot be read: the other reader says why."""
    if not outer.is_path(name_or_path):
        return name_or_path in scenarios.firewall_names()
    try:
        return grammar.concerns(Path(name_or_path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError):
        return False


def read(name_or_path: str) -> tuple[Scenario, str]:
    """A scenario and its text, by name or from a file. Raises ScenarioError."""
    if outer.is_path(name_or_path):
        path = Path(name_or_path)
        text, source, name = path.read_text("utf-8"), path.name, path.stem
    else:
        text, source, name = scenarios.text(name_or_path), f"{name_or_path}.txt", name_or_path
    return grammar.parse(text, source=source, name=name), text


def run_scenario(
    name_or_path: str,
    *,
    kernel: Preference = "auto",
    results: Path | None = None,
    timeout_seconds: float = 900.0,
) -> tuple[int, FirewallReport | None]:
    """Run a scenario; exit status and report, as `hitless.lab.outer.run_scenario` has them. Needs root."""
    scenario, text = read(name_or_path)
    where = _kernel(scenario, kernel)
    module = "hitless.lab.firewall.run"
    return outer.play(scenario.name, text, where, results, timeout_seconds, module, from_json)


def _kernel(scenario: Scenario, preference: Preference) -> Kernel:
    if preference == "auto":
        preference = "host" if scenario.datapath == "netdev" else "qemu"
    # ESP, which `choose` asks of this machine's kernel, is nothing that the firewall needs.
    return HostKernel() if preference == "host" else choose(preference)
