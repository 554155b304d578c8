"""Why the firewall lets a packet through, or which rule came nearest and on which field it failed.

A packet between two ports is asked about twice: by the sender's egress rules and by the receiver's ingress rules. An
end that is no port of the intent is outside, and is not asked.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import msgspec

from hitless.core.firewall.base import Attached
from hitless.core.firewall.decide import Field, Packet, Policy
from hitless.core.model.security import Direction, Intent, Port, Rule

NEAREST_LIMIT = 3  # more would be a listing of the policy, which the person has


class Near(msgspec.Struct, frozen=True):
    """A rule that did not match, and the fields it failed on."""

    group: str
    rule: Rule
    fields: tuple[Field, ...]


class Hop(msgspec.Struct, frozen=True):
    """What one port says. `rule` is None where none matched; `near` then has the nearest ones, nearest first.

    `reason` is empty, or a stable code where no rule was asked: `port-security-off`, `spoofed-source`, `no-groups`.
    """

    port: str
    direction: Direction
    allowed: bool
    group: str = ""
    rule: Rule | None = None
    near: tuple[Near, ...] = ()
    reason: str = ""


class Explanation(msgspec.Struct, frozen=True):
    """Every port that is asked, in the packet's order; denied where one of them denies."""

    packet: Packet
    hops: tuple[Hop, ...]

    @property
    def allowed(self) -> bool:
        return all(each.allowed for each in self.hops)

    @property
    def deciding(self) -> Hop | None:
        """The first port that denies, else the last that allows; None where no port is asked."""
        denied = [each for each in self.hops if not each.allowed]
        return denied[0] if denied else self.hops[-1] if self.hops else None


def explain(intent: Intent, source: Port | None, destination: Port | None, packet: Packet) -> Explanation:
    """Ask both ends about the first packet of a connection."""
    policy, hops = Policy(intent), []
    if source is not None:
        hops.append(_hop(policy, source, "egress", packet))
    if destination is not None:
        hops.append(_hop(policy, destination, "ingress", packet))
    return Explanation(packet, tuple(hops))


def _hop(policy: Policy, port: Port, direction: Direction, packet: Packet) -> Hop:
    if not port.port_security:
        return Hop(port.name, direction, True, reason="port-security-off")
    if direction == "egress" and not _may_send(port, packet.source):
        return Hop(port.name, direction, False, reason="spoofed-source")
    found = policy.decide(port, direction, packet)
    if found.rule is not None:
        return Hop(port.name, direction, found.allowed, found.group, found.rule)
    rules = policy.rules(port, direction)
    misses = [Near(group, rule, policy.misses(port, rule, packet)) for group, rule in rules if rule.action == "allow"]
    misses.sort(key=lambda each: (len(each.fields), "protocol" in each.fields, each.group, each.rule.identity))
    return Hop(port.name, direction, False, near=tuple(misses[:NEAREST_LIMIT]), reason="" if rules else "no-groups")


def _may_send(port: Port, address: str) -> bool:
    wanted = ip_address(address)
    allowed = [ip_network(each) for each in (*port.addresses, *(pair.prefix for pair in port.pairs))]
    sources = {source for _, source in Attached(port, 0, 0).sources}
    return address in sources or any(wanted.version == each.version and wanted in each for each in allowed)
