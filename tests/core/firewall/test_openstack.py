"""OpenStack's listings to documents, and on to an intent: columns and forms as the client prints them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from hitless.core.firewall.documents import read
from hitless.core.firewall.faults import IntentError
from hitless.core.firewall.intent import intent
from hitless.core.firewall.openstack import Imported, Listing, documents
from hitless.core.model.security import AddressPair, Intent, Range, Remote

WEB, DB = "0a6e2f1c-6d5c-4a1e-9a56-3c8f0f6f1a01", "7b1de8b5-0d5f-4f0f-8b5e-2f6d7c1e9b02"
OFFICES = "c3a5f2d4-95e1-4be0-a3a2-0f6f3d5f4c03"
NETWORK = "f1d0c2aa-5a0e-4b61-9a0a-8d1f6a2b7e04"
PROJECT = "3f0c5c1d2b9a4e7f8a6d5c4b3a291807"


def rule_row(number: int, group: str, **more: Any) -> dict[str, Any]:
    """A row of `openstack security group rule list -f json`."""
    row = {
        "ID": f"11111111-2222-4333-8444-{number:012}", "IP Protocol": None, "Ethertype": "IPv4",
        "IP Range": "0.0.0.0/0", "Port Range": "", "Direction": "ingress", "Remote Security Group": None,
        "Remote Address Group": None, "Security Group": group,
    }  # fmt: skip
    return row | {key.replace("_", " "): value for key, value in more.items()}


GROUPS = [
    {"ID": WEB, "Name": "web", "Description": "web servers", "Project": PROJECT, "Tags": [], "Shared": False},
    {"ID": DB, "Name": "db", "Description": "", "Project": PROJECT, "Tags": ["prod"], "Shared": False},
]
RULES = [
    rule_row(1, WEB, IP_Protocol="tcp", Port_Range="443:443"),
    rule_row(2, WEB, IP_Protocol="tcp", Port_Range="8000:8010", IP_Range="10.0.0.7/8"),
    rule_row(3, WEB, IP_Protocol="icmp", Port_Range="type=3:code=4"),
    rule_row(4, WEB, IP_Protocol="icmp"),
    rule_row(5, WEB, IP_Protocol="ipv6-icmp", Ethertype="IPv6", IP_Range="::/0", Port_Range="type=128"),
    rule_row(6, WEB, Direction="egress"),
    rule_row(7, WEB, Direction="egress", Ethertype="IPv6", IP_Range="::/0"),
    rule_row(8, DB, IP_Protocol="tcp", Port_Range="5432:5432", Remote_Security_Group=WEB),
    rule_row(9, DB, IP_Protocol="tcp", Port_Range="22:22", Remote_Address_Group=OFFICES),
    rule_row(10, DB, IP_Protocol="112", IP_Range="192.0.2.0/24"),
    rule_row(11, WEB, IP_Protocol="icmp", Port_Range=":code=3"),
]
ADDRESSES = [
    {"ID": OFFICES, "Name": "offices", "Description": "", "Project": PROJECT,
     "Addresses": ["192.0.2.0/25", "2001:db8::/48"]},
]  # fmt: skip
NETWORKS = [{"ID": NETWORK, "Name": "private", "Subnets": ["5d1c7a05-8f6e-4a53-9f69-0d9f0a3c1d05"]}]
PORTS: list[dict[str, Any]] = [
    {
        "ID": "22222222-3333-4444-8555-000000000001", "Name": "", "MAC Address": "fa:16:3e:5a:0c:01",
        "Fixed IP Addresses": [{"subnet_id": "5d1c7a05-8f6e-4a53-9f69-0d9f0a3c1d05", "ip_address": "10.0.0.11"}],
        "Status": "ACTIVE", "Security Groups": [WEB], "Device Owner": "compute:nova", "Tags": [],
        "Trunk subports": None,
    },
    {
        "ID": "22222222-3333-4444-8555-000000000002", "Name": "dhcp", "MAC Address": "fa:16:3e:5a:0c:02",
        "Fixed IP Addresses": [{"subnet_id": "5d1c7a05-8f6e-4a53-9f69-0d9f0a3c1d05", "ip_address": "10.0.0.2"}],
        "Status": "ACTIVE", "Security Groups": [], "Device Owner": "network:dhcp", "Tags": [], "Trunk subports": None,
    },
]  # fmt: skip
SHOWN_PORT: dict[str, Any] = {
    "id": "22222222-3333-4444-8555-000000000003", "name": "vip-holder", "network_id": NETWORK, "status": "ACTIVE",
    "mac_address": "fa:16:3e:5a:0c:03", "device_owner": "", "port_security_enabled": True, "security_group_ids": [DB],
    "fixed_ips": [{"subnet_id": "5d1c7a05-8f6e-4a53-9f69-0d9f0a3c1d05", "ip_address": "10.0.0.13"}],
    "allowed_address_pairs": [{"ip_address": "10.0.0.100", "mac_address": "fa:16:3e:5a:0c:03"}],
}  # fmt: skip
SHOWN_GROUP: dict[str, Any] = {
    "id": WEB, "name": "web", "description": "web servers", "project_id": PROJECT, "stateful": False, "tags": [],
    "rules": [
        {"id": "11111111-2222-4333-8444-000000000004", "security_group_id": WEB, "direction": "ingress",
         "ethertype": "IPv4", "protocol": "icmp", "port_range_min": 0, "port_range_max": 0, "remote_ip_prefix": None,
         "remote_group_id": None, "remote_address_group_id": None, "revision_number": 0},
        {"id": "11111111-2222-4333-8444-000000000001", "security_group_id": WEB, "direction": "ingress",
         "ethertype": "IPv4", "protocol": "tcp", "port_range_min": 443, "port_range_max": 443,
         "remote_ip_prefix": "0.0.0.0/0", "remote_group_id": None, "remote_address_group_id": None},
    ],
}  # fmt: skip


def listings() -> list[Listing]:
    named = {"groups": GROUPS, "rules": RULES, "addresses": ADDRESSES, "networks": NETWORKS, "port": SHOWN_PORT}
    found = [Listing(f"{name}.json", copy.deepcopy(content)) for name, content in named.items()]
    return [*found, Listing("ports.json", copy.deepcopy(PORTS), NETWORK)]


def through_yaml(imported: Imported) -> Intent:
    return intent(read(yaml.safe_dump_all(imported.documents, sort_keys=False), "imported.yaml"))


def without(row: dict[str, Any], *columns: str) -> dict[str, Any]:
    return {column: value for column, value in row.items() if column not in columns}


def refused(content: object, network: str = "") -> list[tuple[int, str, str]]:
    with pytest.raises(IntentError) as caught:
        documents([Listing("x.json", content, network)])
    return [(fault.document, fault.field, fault.code) for fault in caught.value.faults]


def test_listings_become_an_intent() -> None:
    imported = documents(listings())
    found = through_yaml(imported)
    assert (set(found.groups), set(found.address_groups), set(found.networks)) == ({WEB, DB}, {OFFICES}, {NETWORK})
    titles = {each["metadata"]["name"]: each["metadata"].get("title") for each in imported.documents}
    assert (titles[WEB], titles[NETWORK]) == ("web", "private")
    rules = {int(rule.name[-12:]): rule for group in found.groups.values() for rule in group.rules}
    assert {number: (rule.protocol, rule.ports, rule.icmp_type, rule.icmp_code) for number, rule in rules.items()} == {
        1: (6, Range(443, 443), None, None),
        2: (6, Range(8000, 8010), None, None),
        3: (1, None, 3, 4),
        4: (1, None, None, None),
        5: (58, None, 128, None),
        6: (None, None, None, None),
        7: (None, None, None, None),
        8: (6, Range(5432, 5432), None, None),
        9: (6, Range(22, 22), None, None),
        10: (112, None, None, None),
        11: (1, None, 0, 3),
    }
    assert [rules[n].remote for n in (1, 2, 8, 9, 10)] == [
        Remote(), Remote("prefix", "10.0.0.0/8"), Remote("group", WEB), Remote("address-group", OFFICES),
        Remote("prefix", "192.0.2.0/24"),
    ]  # fmt: skip
    assert [(rules[n].direction, rules[n].ethertype) for n in (1, 7)] == [("ingress", "ipv4"), ("egress", "ipv6")]


def test_ports_become_ports() -> None:
    ports = {int(name[-12:]): port for name, port in through_yaml(documents(listings())).ports.items()}
    assert {number: (port.addresses, port.groups, port.port_security) for number, port in ports.items()} == {
        1: (("10.0.0.11",), (WEB,), True),
        2: (("10.0.0.2",), (), False),
        3: (("10.0.0.13",), (DB,), True),
    }
    assert ports[3].pairs == (AddressPair("10.0.0.100"),)
    assert {port.network for port in ports.values()} == {NETWORK}


def test_what_listings_do_not_say_comes_as_a_note() -> None:
    notes = "\n".join(documents(listings()).notes)
    for word in ("stateless", "ICMP type or code of 0", "allowed address pairs", "10.0.0.7/8 is written as 10.0.0.0/8"):
        assert word in notes
    unsure = next(line for line in notes.splitlines() if "ICMP" in line)
    assert [number for number in range(1, 12) if f"{number:012}" in unsure] == [4, 5, 11]


def test_a_group_that_is_shown_counts_more_than_its_listing_wherever_it_stands() -> None:
    shown = Listing("web.json", copy.deepcopy(SHOWN_GROUP))
    for order in ([shown, *listings()], [*listings(), shown]):
        imported = documents(order)
        web = through_yaml(imported).groups[WEB]
        assert [(rule.protocol, rule.icmp_type, rule.icmp_code, rule.stateless) for rule in web.rules] == [
            (6, None, None, True),
            (1, 0, 0, True),
        ]
        assert not [note for note in imported.notes if "ICMP" in note]


def test_the_order_of_listings_means_nothing() -> None:
    assert documents(listings()) == documents(listings()[::-1])


def test_a_port_that_may_be_unfiltered_is_pointed_out() -> None:
    port = PORTS[0] | {"Security Groups": []}
    notes = documents([Listing("p.json", [port], NETWORK)]).notes
    assert [note for note in notes if "has no security group" in note and str(port["ID"]) in note]
    off = SHOWN_PORT | {"port_security_enabled": False, "security_group_ids": []}
    (found,) = through_yaml(documents([Listing("p.json", off)])).ports.values()
    assert (found.port_security, found.pairs) == (False, ())


def test_a_group_of_another_project_is_asked_for() -> None:
    with pytest.raises(IntentError, match="intent-reference"):
        through_yaml(documents([Listing("r.json", [rule_row(1, WEB, Remote_Security_Group=DB)])]))


def test_an_empty_listing_says_nothing() -> None:
    assert documents([Listing("x.json", [])]) == Imported((), ())


@pytest.mark.parametrize(
    ("content", "field", "code"),
    [
        ("words", "entry", "import-shape"),
        ([1], "entry", "import-shape"),
        ([{"ID": "1", "Size": 3}], "entry", "import-shape"),
        ([rule_row(1, WEB, Action="deny")], "Action", "import-column"),
        ([without(rule_row(1, WEB), "Security Group")], "Security Group", "import-column"),
        ([rule_row(1, WEB, IP_Protocol="tcp", Port_Range="22-23")], "Port Range", "import-value"),
        ([rule_row(1, WEB, IP_Protocol="icmp", Port_Range="8:0")], "Port Range", "import-value"),
        ([rule_row(1, WEB, IP_Protocol=["tcp"], Port_Range=[22])], "Port Range", "import-value"),
        ([rule_row(1, WEB, IP_Range="everywhere")], "prefix", "import-value"),
        ([rule_row(1, WEB, Direction=None)], "direction", "import-value"),
        ([ADDRESSES[0] | {"Addresses": "192.0.2.0/25"}], "Addresses", "import-value"),
        (PORTS[:1], "network", "import-column"),
        (SHOWN_PORT | {"network_id": None}, "network_id", "import-value"),
        (SHOWN_GROUP | {"rules": "direction='ingress'"}, "rules", "import-value"),
    ],
)
def test_shapes_that_are_refused(content: object, field: str, code: str) -> None:
    assert refused(content) == [(1, field, code)]


def test_ports_without_their_long_columns_are_refused() -> None:
    short = without(PORTS[0], "Security Groups", "Device Owner")
    assert refused([PORTS[1], short], NETWORK) == [(2, "Security Groups", "import-column")]
    said = PORTS[0] | {"Fixed IP Addresses": "ip_address='10.0.0.11', subnet_id='5d1c7a05'"}
    assert refused([said], NETWORK) == [(1, "Fixed IP Addresses", "import-value")]
