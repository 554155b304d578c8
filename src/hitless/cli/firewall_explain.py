"""`hitless firewall explain`: which rule decides a packet, or what a flow's cookie stands for.

The first line is the answer: the deciding rule with its file and line, or the rule that came nearest and the fields on
which it failed. Asked are the documents as they stand now; no bridge is needed.
"""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

if TYPE_CHECKING:
    from hitless.core.explain.firewall import Explanation, Hop, Near
    from hitless.core.firewall.compile import Origin
    from hitless.core.firewall.decide import Packet
    from hitless.core.model.security import Ethertype, Intent, Port, Rule

_EPHEMERAL = 49152  # the first of the dynamic ports (RFC 6335): rules with source ports are rare
_ECHO = {"ipv4": 8, "ipv6": 128}  # what ping sends (RFC 792, RFC 4443)


class QuestionError(Exception):
    """A question that has no answer as it stands."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} [{code}]")
        self.code = code


def explain(
    protocol: str = typer.Argument("", help="Protocol by name or number: tcp, udp, icmp, 47 …"),
    port: int = typer.Argument(-1, help="Destination port; of icmp the type (default: echo request)."),
    config: Path = typer.Option(..., "--config", "-c", help="The bridge's configuration (TOML)."),
    source: str = typer.Option("", "--from", help="Port of the intent, or an address."),
    destination: str = typer.Option("", "--to", help="Port of the intent, or an address."),
    source_port: int = typer.Option(_EPHEMERAL, help="Source port."),
    flow: str = typer.Option("", "--flow", help="A flow's cookie, instead of a packet."),
    output: Literal["text", "json"] = typer.Option("text", "--output", "-o", help="Text, or JSON."),
) -> None:
    """Say why a packet passes or drops, or what a flow is for. Exit 0: it is allowed; 4: it is denied."""
    from hitless.agent.firewall.config import load
    from hitless.cli.firewall_files import intent_of

    if not flow and not (source and destination and protocol):
        raise typer.BadParameter("give --from, --to and a protocol, or --flow COOKIE")
    intent = intent_of(load(config))
    if flow:
        _explain_flow(intent, flow, output)
        return
    found = _ask(intent, (source, destination), protocol, (source_port, port))
    if output == "json":
        import msgspec

        shown = {"allowed": found.allowed, **msgspec.to_builtins(found)}
        typer.echo(msgspec.json.encode(shown).decode())
    else:
        for line in lines(found):
            typer.echo(line)
    if not found.allowed:
        raise typer.Exit(4)


# --- a packet ---------------------------------------------------------------------------------------------


def _ask(intent: Intent, ends: tuple[str, str], protocol: str, numbers: tuple[int, int]) -> Explanation:
    from hitless.core.explain.firewall import explain as ask

    here, there = intent.ports.get(ends[0]), intent.ports.get(ends[1])
    ethertype = _family(ends, here, there)
    source, destination = _address(ends[0], here, ethertype), _address(ends[1], there, ethertype)
    here = here or _owner(intent, source, there)
    there = there or _owner(intent, destination, here)
    return ask(intent, here, there, _packet(ethertype, protocol, (source, destination), numbers))


def _family(ends: tuple[str, str], here: Port | None, there: Port | None) -> Ethertype:
    """Of the end that is an address; of two ports, the one that both have, IPv4 first."""
    for text, port in zip(ends, (here, there), strict=True):
        if port is None:
            try:
                return "ipv6" if ip_address(text).version == 6 else "ipv4"
            except ValueError:
                raise QuestionError("port-unknown", f"{text!r} is no port of the intent and no address; name one of "
                                    "its ports, or write an address") from None  # fmt: skip
    both = [{":" in each for each in port.addresses} for port in (here, there) if port is not None]
    common = set.intersection(*both)
    if not common:
        raise QuestionError("no-common-family", "these two ports have no address of one IP version; they can only "
                            "speak through a router: ask with an address instead")  # fmt: skip
    return "ipv6" if common == {True} else "ipv4"


def _address(text: str, port: Port | None, ethertype: Ethertype) -> str:
    if port is None:
        return str(ip_address(text))
    found = [each for each in port.addresses if (":" in each) == (ethertype == "ipv6")]
    if not found:
        raise QuestionError("no-common-family", f"port {port.name} has no {ethertype} address; ask with another")
    return found[0]


def _owner(intent: Intent, address: str, other: Port | None) -> Port | None:
    """The port that has an address; where scopes repeat it, the one in the other end's scope."""
    found = [each for each in intent.ports.values() if address in each.addresses]
    if other is not None:
        scope = intent.networks[other.network].scope
        found = [each for each in found if intent.networks[each.network].scope == scope]
    if len(found) > 1:
        names = ", ".join(each.name for each in found)
        raise QuestionError("address-ambiguous", f"{address} is the address of several ports ({names}); name the port")
    return found[0] if found else None


def _packet(ethertype: Ethertype, protocol: str, ends: tuple[str, str], numbers: tuple[int, int]) -> Packet:
    from hitless.core.firewall import written
    from hitless.core.firewall.decide import Packet
    from hitless.core.model.security import ICMP, ICMPV6, WITH_PORTS

    number = written.protocol(protocol, ethertype)
    if number in {ICMP, ICMPV6}:
        kind = numbers[1] if numbers[1] >= 0 else _ECHO[ethertype]
        return Packet(ethertype, number, *ends, icmp_type=kind)
    if number not in WITH_PORTS:
        return Packet(ethertype, number, *ends)
    if not 0 <= numbers[1] <= 65535:
        raise typer.BadParameter(f"{protocol} has ports: give the destination port, 0 to 65535")
    return Packet(ethertype, number, *ends, numbers[0], numbers[1])


def lines(found: Explanation) -> list[str]:
    """The answer, then what every port says."""
    deciding = found.deciding
    if deciding is None:
        return ["allowed: neither end is a port of the intent, so no rule is asked"]
    rest = [_hop(each) for each in found.hops if each is not deciding]
    more = [f"  {_near(each)}" for each in deciding.near[1:]]
    return [_hop(deciding), *more, *rest]


def _hop(hop: Hop) -> str:
    verdict = "allowed" if hop.allowed else "denied"
    where = f"{hop.direction} of port {hop.port}"
    if hop.rule is not None:
        return f"{verdict} by {_rule(hop.group, hop.rule)} ({where})"
    if hop.near:
        return f"{verdict}: no rule allows it ({where}); nearest is {_near(hop.near[0])}"
    reasons = {
        "port-security-off": "the port is trusted, no rule is asked",
        "spoofed-source": "the port may not send from this address",
        "no-groups": "the port has no rules in this direction",
    }
    return f"{verdict}: {reasons.get(hop.reason, 'no rule allows it')} ({where}) [{hop.reason or 'no-rule'}]"


def _near(near: Near) -> str:
    return f"{_rule(near.group, near.rule)}, which fails on {', '.join(near.fields)}"


def _rule(group: str, rule: Rule) -> str:
    return f"{rule.place}: rule {group}/{rule.identity}"


# --- a cookie ---------------------------------------------------------------------------------------------


def _explain_flow(intent: Intent, text: str, output: str) -> None:
    from hitless.core.firewall.compile import Origin, origins
    from hitless.core.firewall.pipeline import COOKIE_PREFIX

    try:
        cookie = int(text, 16)
    except ValueError:
        raise QuestionError("cookie-invalid", f"{text!r} is no cookie; write it as in a dump: 0x6874…") from None
    if cookie >> 48 != COOKIE_PREFIX:
        raise QuestionError("cookie-foreign", f"{text} is not one of ours: those begin with {COOKIE_PREFIX:#x}")
    found = origins(intent).get(cookie) or _member(intent, cookie)
    if found is None:
        found = Origin("pipeline", "what all ports share, or a part of an intent that is no longer in the documents")
    if output == "json":
        import msgspec

        typer.echo(msgspec.json.encode(found).decode())
        return
    typer.echo(f"{found.kind} {found.name}")
    for place in found.places:
        typer.echo(f"  {place}")


def _member(intent: Intent, cookie: int) -> Origin | None:
    from hitless.core.firewall.compile import Origin, remote_members
    from hitless.core.firewall.rules import member_cookie

    for network in intent.networks.values():
        for remote, members in remote_members(intent, network.scope).items():
            for member in members:
                if member_cookie(network.name, member) == cookie:
                    return Origin("member", f"{member.prefix} of {remote} on network {network.name}")
    return None
