"""The policy of a scenario as documents that change: who is there, which groups, which rules.

Port `pI` has the addresses 10.20.0.I and fd20::I and is in one of the groups in turn. Every group admits TCP and UDP to
ports 5000 to 5099 from its own members, by group, and 5200 from the address group `near`, whose prefixes nest and
overlap the members; that is what shared member flows are made of. Everybody may send. Further rules make the tables as
large as a scenario wants.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from hitless.core.firewall.documents import read
from hitless.core.firewall.intent import intent
from hitless.core.model.security import Intent
from hitless.lab.firewall.ground import GroundPort
from hitless.lab.firewall.scenario import Scenario
from hitless.lab.firewall.streams import Stream, unsolicited

NETWORK: Final = "net"
NEAR: Final = "near"
SERVICE: Final = 5000  # first of the ports that a group's members may use among themselves
NOBODYS: Final = 5900  # a port that no rule names
_FAMILIES: Final = ("ipv4", "ipv6")
_SHUFFLED_FILES: Final = 5
# Messages a second over all streams, each way: what one process can number and check, here and in a virtual machine.
_LOAD_PPS: Final = {"netdev": 1200.0, "system": 80.0}
_PPS: Final = 100.0

Spec = dict[str, Any]
Documents = dict[tuple[str, str], Spec]


def ground_ports(scenario: Scenario) -> tuple[GroundPort, ...]:
    """The ports of the scenario's switch."""
    return tuple(
        GroundPort(name, _mac(number), (f"10.20.0.{number}", f"fd20::{number:x}"))
        for number, name in enumerate(scenario.port_names, 1)
    )


def _mac(number: int) -> str:
    return f"02:00:00:00:00:{number:02x}"


def documents(scenario: Scenario) -> Documents:
    """What the policy is at first, by kind and name."""
    found: Documents = {("Network", NETWORK): {}, ("AddressGroup", NEAR): {"prefixes": _prefixes(scenario)}}
    for number, name in enumerate(scenario.group_names):
        found["SecurityGroup", name] = {"rules": _rules(scenario, number, name)}
    for number, port in enumerate(ground_ports(scenario)):
        group = scenario.group_names[number % scenario.groups]
        found["Port", port.name] = {
            "network": NETWORK, "mac": port.mac, "addresses": list(port.addresses), "groups": [group],
        }  # fmt: skip
    return found


def _prefixes(scenario: Scenario) -> list[str]:
    """Some inside others, and members of the groups inside those."""
    return ["10.20.0.0/29", "10.20.0.0/28", *(f"10.21.{number}.0/24" for number in range(scenario.rules)), "fd21::/64"]


def _rules(scenario: Scenario, number: int, name: str) -> list[Spec]:
    """Named, so that one can be taken away."""
    rules: list[Spec] = []
    others = [each for each in scenario.group_names if each != name]
    for family in _FAMILIES:
        rules.append({"name": f"out-{family}", "direction": "egress", "ethertype": family})
        for protocol in ("tcp", "udp"):
            one = {"direction": "ingress", "ethertype": family, "protocol": protocol}
            ours = {"port": f"{SERVICE}-{SERVICE + 99}", "remote": {"group": name}}
            rules.append({"name": f"own-{protocol}-{family}", **one, **ours})
            rules.append({"name": f"near-{protocol}-{family}", **one, "port": 5200, "remote": {"addressGroup": NEAR}})
        for extra in range(scenario.rules):
            remote = {"group": others[extra % len(others)]}
            first = 20000 + 100 * extra + number
            one = {"direction": "ingress", "ethertype": family, "protocol": ("tcp", "udp")[extra % 2]}
            rules.append({"name": f"extra-{extra}-{family}", **one, "port": f"{first}-{first + 5}", "remote": remote})
    return rules


def streams(scenario: Scenario) -> tuple[Stream, ...]:
    """Connections between ports of one group, forbidden streams between ports of two, and those the header names.

    TCP and UDP, IPv4 and IPv6 in turn. Every fourth connection that is UDP has its other end send unasked as well.
    """
    used = scenario.ports - scenario.spare
    pps = min(_PPS, _LOAD_PPS[scenario.datapath] / max(1, scenario.connections + scenario.forbidden))
    found = []
    for number in range(scenario.connections):
        source, destination = _ring(number, used, scenario.groups)
        stream = _stream("c", number, source, destination, pps, used)
        found.append(stream)
        if number % 4 == 1:
            found.append(unsolicited(stream, NOBODYS))
    for number in range(scenario.forbidden):
        source, destination = number % used, (number + 1) % used
        if (source - destination) % scenario.groups == 0:  # round the corner it may be a member of the same group
            destination = (destination + 1) % used
        stream = _stream("x", number, source, destination, pps, used)
        found.append(msgspec.structs.replace(stream, expected="drop"))
    return (*found, *(msgspec.structs.replace(each.stream, pps=pps) for each in scenario.streams))


def _ring(number: int, used: int, groups: int) -> tuple[int, int]:
    """From every port to the next member of its group, the last one's to the first."""
    source = number % used
    destination = source + groups
    return source, destination if destination < used else source % groups


def _stream(letter: str, number: int, source: int, destination: int, pps: float, used: int) -> Stream:
    kind = ("tcp", "udp")[number % 2]
    return Stream(
        f"{letter}{number + 1}", "tcp" if kind == "tcp" else "udp", f"p{source + 1}", f"p{destination + 1}",
        SERVICE + number // used, ipv6=number // 2 % 2 == 1, pps=pps,
    )  # fmt: skip


def to_intent(found: Documents) -> Intent:
    """What the documents say."""
    return intent(read(_text(tuple(found.items())), "scenario"))


def write(found: Documents, directory: Path, seed: int = 0) -> None:
    """Make the directory hold the documents: one file, replaced at once, or several where they are shuffled."""
    directory.mkdir(parents=True, exist_ok=True)
    items = [(key, dict(spec)) for key, spec in found.items()]
    heaps = [items]
    if seed:
        chance = random.Random(seed)  # noqa: S311 - an order that can be repeated
        chance.shuffle(items)
        for _, spec in items:
            for each in spec.values():
                if isinstance(each, list):
                    chance.shuffle(each)
        heaps = [items[start::_SHUFFLED_FILES] for start in range(_SHUFFLED_FILES)]
    names = [f"{number:02}.yaml" for number in range(len(heaps))]
    for name, heap in zip(names, heaps, strict=True):
        draft = directory / f".{name}"
        draft.write_text(_text(heap), encoding="utf-8")
        draft.rename(directory / name)
    for stale in directory.glob("*.yaml"):
        if stale.name not in names:
            stale.unlink()


def _text(items: Sequence[tuple[tuple[str, str], Mapping[str, Any]]]) -> str:
    parts = []
    for (kind, name), spec in items:
        whole: Spec = {"apiVersion": "hitless/v1", "kind": kind, "metadata": {"name": name}}
        parts.append(msgspec.yaml.encode({**whole, "spec": spec} if spec else whole).decode())
    return "---\n".join(parts)
