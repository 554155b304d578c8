"""How long the transition check takes, and how much memory, on tables of security groups.

    python bench/verify.py [--flows 6000 20000 100000] [--slow] [--plan]

For each size a policy of about so many flows is compiled and written as text, then: the dump is parsed; all conjunction
ids are changed in one bundle; one member comes, and goes; one port comes. `--slow` adds the same member and the
renumbering as writes without any order, which take the evaluation over decision diagrams. `--plan` tells instead which
packets fare differently, as `hitless plan` does: in this process, and as a whole process against a private Open
vSwitch with some 6,000 and 17,000 flows; medians of five. Prints one JSON line a case.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

import msgspec
from firewall import MIDDLE, SMALL, Agent, bridge, documents, write  # type: ignore[import-not-found]  # beside this
from firewall import _port as port_document

from hitless.core.firewall.compile import Local, compile_flows
from hitless.core.firewall.identity import KnownIds, read_ids
from hitless.core.model.flow import Flow, FlowKey
from hitless.core.model.security import Intent, Network, Port, Range, Remote, Rule, SecurityGroup
from hitless.core.plan.flows import diff
from hitless.core.verify.transition.changes import changes
from hitless.core.verify.transition.check import check
from hitless.core.verify.transition.verdict import Batch, Verdict
from hitless.drivers.ovs.codec import format_flow, parse_dump

GROUPS, UPLINK, TAG = 5, 60_001, 7
ROUNDS, REPLACED, CUBES = 5, 50, 20
FLOWS_OF_A_PORT = 43
"""About; members elsewhere add to it."""
Tables = Mapping[FlowKey, Flow]


def intent(ports: int, elsewhere: int) -> Intent:
    """Ports of one node and of others, in groups that allow each other and themselves."""
    names = [f"group-{number}" for number in range(GROUPS)]
    groups = {}
    for number, name in enumerate(names):
        remotes = [Remote("group", names[(number + other) % GROUPS]) for other in range(3)]
        rules = [Rule("egress", "ipv4"), Rule("egress", "ipv6")]
        rules += [Rule("ingress", "ipv4", 6, Range(1000 * at + 1000, 1000 * at + 1010), remote=remote)
                  for at, remote in enumerate(remotes)]  # fmt: skip
        rules += [Rule("ingress", "ipv4", 6, Range(22, 22), remote=Remote("prefix", "192.0.2.0/24"))]
        groups[name] = SecurityGroup(name, tuple(rules))
    made = [_port(number, names[number % GROUPS]) for number in range(ports + elsewhere)]
    return Intent(groups=groups, ports={each.name: each for each in made}, networks={"net": Network("net", tag=TAG)})


def _port(number: int, group: str) -> Port:
    mac = f"02:00:00:{number >> 16:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"
    return Port(f"port-{number}", "net", mac, (f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}",), (group,))


def timed(name: str, work: Callable[[], object], **more: object) -> None:
    gc.collect()
    began = time.perf_counter()
    found = work()
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    verdict = type(found).__name__ if isinstance(found, Verdict) else ""
    row = {"case": name, "milliseconds": round(seconds * 1000, 1), "verdict": verdict, "peak_mebibytes": peak, **more}
    print(json.dumps(row), flush=True)


def measure(wanted: int, *, slow: bool) -> None:
    ports = wanted // FLOWS_OF_A_PORT
    policy = intent(ports, ports)
    local = Local({f"port-{number}": number + 1 for number in range(ports)}, {"net": TAG}, (UPLINK,))
    old = compile_flows(policy, local, KnownIds())
    new = compile_flows(policy, local, KnownIds(in_use=frozenset(old.ids.values())))
    member = _port(ports * 2, "group-0")
    larger = msgspec.structs.replace(policy, ports={**policy.ports, member.name: member})
    more = compile_flows(larger, local, KnownIds())
    there = Local({**local.ofports, member.name: ports + 1}, local.tags, local.uplinks)
    attached = compile_flows(larger, there, KnownIds())
    text = "\n".join(map(format_flow, old.flows.values()))
    flows = len(old.flows)
    timed("parse", lambda: parse_dump(text), flows=flows)

    def asked(name: str, before: Tables, after: Tables, *, atomic: bool = True) -> None:
        ops = diff(after, before, {})
        batch = Batch(ops, atomic)
        timed(name, lambda: check(before.values(), [batch]), flows=len(before), changed=len(ops))

    asked("renumbered", old.flows, new.flows)
    asked("member added", old.flows, more.flows)
    asked("member removed", more.flows, old.flows)
    if slow:
        asked("port added", more.flows, attached.flows)
        asked("member added, no order", old.flows, more.flows, atomic=False)
        asked("renumbered, no order", old.flows, new.flows, atomic=False)


def told(wanted: int) -> None:
    """Which packets fare differently, told in this process."""
    ports = wanted // FLOWS_OF_A_PORT
    local = Local({f"port-{number}": number + 1 for number in range(ports)}, {"net": TAG}, (UPLINK,))
    start = intent(ports, ports)

    def compiled(policy: Intent, known: KnownIds) -> Tables:
        return compile_flows(policy, local, known).flows

    def joined(numbers: range) -> Intent:
        more = {each.name: each for each in (_port(number, "group-0") for number in numbers)}
        return msgspec.structs.replace(start, ports={**start.ports, **more})

    group = start.groups["group-1"]
    fewer = msgspec.structs.replace(group, rules=group.rules[:-2])
    old = compiled(start, KnownIds())
    known = read_ids(old.values())
    fifty = compiled(joined(range(ports * 2, ports * 2 + REPLACED)), known)
    others = compiled(joined(range(ports * 3, ports * 3 + REPLACED)), known)
    cases = {
        "told: member added": (old, compiled(joined(range(ports * 2, ports * 2 + 1)), known)),
        "told: two rules removed": (
            old, compiled(msgspec.structs.replace(start, groups={**start.groups, group.name: fewer}), known)
        ),
        f"told: {REPLACED} members replaced": (fifty, others),
        "told: renumbered": (old, compiled(start, KnownIds(in_use=frozenset(known.in_use)))),
    }  # fmt: skip
    for name, (before, after) in cases.items():
        took = [_seconds(before, after) for _ in range(ROUNDS)]
        print(json.dumps({"case": name, "milliseconds": round(statistics.median(took) * 1000), "flows": len(before)}))


def _seconds(before: Tables, after: Tables) -> float:
    gc.collect()
    began = time.perf_counter()
    changes(before.values(), after.values(), most=CUBES)
    return time.perf_counter() - began


def whole(shape: tuple[int, int, int]) -> None:
    """`hitless plan`, from its start to its end."""
    wanted = documents(shape)
    fifty = [*wanted, *(port_document(60_000 + each, "g0") for each in range(REPLACED))]
    others = [*wanted, *(port_document(61_000 + each, "g0") for each in range(REPLACED))]
    rules = json.loads(json.dumps(wanted))
    rules[1]["spec"]["rules"].pop()
    cases = {
        "plan: nothing to change": (wanted, wanted, 0), "plan: member added": (wanted, [*wanted, fifty[-1]], 3),
        "plan: rule removed": (wanted, rules, 3), f"plan: {REPLACED} members replaced": (fifty, others, 3),
    }  # fmt: skip
    with bridge(shape[0]) as (_, config):
        argv = [sys.executable, "-m", "hitless", "plan", "-c", str(config)]
        for name, (before, after, status) in cases.items():
            write(config, before)
            agent = Agent(config)
            flows = agent.until("firewall-settled")["flows"]
            agent.end()
            write(config, after)
            took = []
            for _ in range(ROUNDS):
                began = time.perf_counter()
                done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
                took.append(time.perf_counter() - began)
                if done.returncode != status:
                    raise SystemExit(f"{name}: exit status {done.returncode}: {done.stdout}{done.stderr}")
            print(json.dumps({"case": name, "milliseconds": round(statistics.median(took) * 1000), "flows": flows}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flows", type=int, nargs="+", default=[6_000, 20_000, 100_000])
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--plan", action="store_true")
    args = parser.parse_args()
    for wanted in args.flows:
        if args.plan:
            told(wanted)
        else:
            measure(wanted, slow=args.slow)
    for shape in (SMALL, MIDDLE) if args.plan else ():
        whole(shape)


if __name__ == "__main__":
    main()
