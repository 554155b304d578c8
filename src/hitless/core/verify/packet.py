"""Packets as the fields that tables match on: what a frame looks like to Open vSwitch before its first look-up.

A field that is absent reads as 0, as in ovs-fields(7). Fields of different protocols that share storage there (ICMP's
type and the source port, ARP's addresses and IP's) stay apart here: a match on one spells out its prerequisites.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Literal

import msgspec

from hitless.core.firewall.decide import Packet
from hitless.core.firewall.terms import mac_number
from hitless.core.model.flow import ARP, IPV4, IPV6
from hitless.core.model.security import ICMP, ICMPV6, WITH_PORTS

Fields = Mapping[str, int]
VLAN_PRESENT = 0x1000  # the CFI bit of vlan_tci stands for "has a VLAN header" (ovs-fields(7))


class Link(msgspec.Struct, frozen=True):
    """What is around a packet: the OpenFlow port it comes in by, two MACs in text, a VLAN tag (0: no header)."""

    in_port: int
    source: str
    destination: str
    vlan: int = 0


def ip_fields(packet: Packet, link: Link) -> dict[str, int]:
    """An IP packet in a frame."""
    ipv4 = packet.ethertype == "ipv4"
    source, destination = ("nw_src", "nw_dst") if ipv4 else ("ipv6_src", "ipv6_dst")
    found = _frame(link, IPV4 if ipv4 else IPV6)
    found["nw_proto"] = packet.protocol
    found[source] = int(ip_address(packet.source))
    found[destination] = int(ip_address(packet.destination))
    if packet.protocol in WITH_PORTS:
        found |= {"tp_src": packet.source_port, "tp_dst": packet.destination_port}
    if packet.protocol == (ICMP if ipv4 else ICMPV6):
        found |= {"icmp_type": packet.icmp_type, "icmp_code": packet.icmp_code}
    return found


def nd_fields(packet: Packet, link: Link, target: str, link_layer: str = "") -> dict[str, int]:
    """A neighbour solicitation (type 135) or advertisement (136); `link_layer` is its option, empty for none."""
    option = "nd_sll" if packet.icmp_type == 135 else "nd_tll"
    number = mac_number(link_layer) if link_layer else 0
    return {**ip_fields(packet, link), "nd_target": int(ip_address(target)), option: number}


def arp_fields(link: Link, operation: Literal[1, 2], sender: str, target: str, sender_mac: str = "") -> dict[str, int]:
    """ARP for IPv4: operation 1 asks, 2 answers; `sender_mac` empty means the frame's own source."""
    addresses = {"arp_spa": int(ip_address(sender)), "arp_tpa": int(ip_address(target))}
    hardware = {"arp_sha": mac_number(sender_mac or link.source), "arp_tha": 0}
    return {**_frame(link, ARP), "arp_op": operation, **addresses, **hardware}


def _frame(link: Link, ethertype: int) -> dict[str, int]:
    macs = {"dl_src": mac_number(link.source), "dl_dst": mac_number(link.destination)}
    vlan = VLAN_PRESENT | link.vlan if link.vlan else 0
    return {"in_port": link.in_port, **macs, "vlan_tci": vlan, "eth_type": ethertype}
