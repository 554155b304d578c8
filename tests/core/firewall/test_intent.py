"""Documents to an intent: what is taken, in which form, and each reason to refuse the whole."""

from __future__ import annotations

import random
import re
from ipaddress import ip_network
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hitless.agent import firewall_files
from hitless.core.firewall import faults, written
from hitless.core.firewall.documents import read
from hitless.core.firewall.faults import CODES, FAULT_LIMIT, IntentError
from hitless.core.firewall.intent import intent
from hitless.core.model.security import AddressPair, Intent, Place, Range, Remote, Rule

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples/firewall"
HEAD = "apiVersion: hitless/v1\n"
NETWORK = HEAD + "kind: Network\nmetadata: {name: n}\n"
PORT = "kind: Port\nmetadata: {{name: {}}}\nspec: {{network: n, mac: '{}', addresses: [{}]}}\n"


def refused(*texts: str) -> list[tuple[str, str]]:
    """(field, code) of every fault, the texts being documents of one file."""
    with pytest.raises(IntentError) as caught:
        intent(read("---\n".join(texts), "f.yaml"))
    return [(fault.field, fault.code) for fault in caught.value.faults]


def group(*rules: str, name: str = "g", more: str = "") -> str:
    lines = "".join(f"\n  - {{direction: ingress, {rule}}}" for rule in rules)
    return f"{HEAD}kind: SecurityGroup\nmetadata: {{name: {name}}}\nspec:\n{more}  rules:{lines or ' []'}\n"


def rules_of(*rules: str, more: str = "") -> tuple[Rule, ...]:
    return intent(read(group(*rules, more=more), "f.yaml")).groups["g"].rules


def rule_of(text: str) -> Rule:
    (found,) = rules_of(text)
    return found


def port(name: str, mac: str, *addresses: str) -> str:
    return HEAD + PORT.format(name, mac, ", ".join(f"'{each}'" for each in addresses))


# --- what is taken ----------------------------------------------------------------------------------------


def test_the_examples_say_what_they_seem_to() -> None:
    found = intent(firewall_files.read(EXAMPLES))
    assert set(found.groups) == {"web", "db"}
    assert {name: network.tag for name, network in found.networks.items()} == {"front": 101, "back": 0}
    rules = {rule.name: rule for rule in found.groups["web"].rules}
    assert rules["ssh"].remote == Remote("address-group", "offices")
    assert rules["not-from-there"].remote == Remote("prefix", "198.51.100.0/24")
    assert (rules["not-from-there"].action, rules["not-from-there"].tier, rules["http"].tier) == ("deny", 0, 4)
    assert (rules["ping"].protocol, rules["ping"].icmp_type) == (1, 8)
    assert (rules["dns"].stateless, rules["http"].stateless) == (True, False)
    assert found.groups["db"].revoked == "keep"
    assert found.ports["web-1"].pairs == (AddressPair("10.1.0.100"),)
    assert not found.ports["gateway"].port_security
    line = rules["ssh"].place.line
    assert (EXAMPLES / "groups.yaml").read_text().splitlines()[line - 1].strip() == "- name: ssh"


@pytest.mark.parametrize(
    ("text", "protocol"),
    [
        ("ethertype: ipv4", None),
        ("ethertype: ipv4, protocol: tcp", 6),
        ("ethertype: ipv4, protocol: TCP", 6),
        ("ethertype: ipv4, protocol: 47", 47),
        ("ethertype: ipv4, protocol: '132'", 132),
        ("ethertype: ipv4, protocol: icmp", 1),
        ("ethertype: ipv6, protocol: icmp", 58),
        ("ethertype: ipv6, protocol: ipv6-icmp", 58),
        ("ethertype: ipv6, protocol: 1", 58),
        ("ethertype: ipv4, protocol: vrrp", 112),
        ("ethertype: ipv4, protocol: 0", 0),
    ],
)
def test_protocols(text: str, protocol: int | None) -> None:
    assert rule_of(text).protocol == protocol


@pytest.mark.parametrize(
    ("text", "ports"),
    [("80", Range(80, 80)), ("'80-90'", Range(80, 90)), ("0-0", Range(0, 0)), ("0-65535", None), ("'9'", Range(9, 9))],
)
def test_ports(text: str, ports: Range | None) -> None:
    found = rule_of(f"ethertype: ipv4, protocol: udp, port: {text}, sourcePort: {text}")
    assert (found.ports, found.source_ports) == (ports, ports)


@pytest.mark.parametrize(
    ("text", "remote"),
    [
        ("ipv4", Remote()),
        ("ipv4, remote: {prefix: 0.0.0.0/0}", Remote()),
        ("ipv6, remote: {prefix: '::/0'}", Remote()),
        ("ipv4, remote: {prefix: 10.0.0.0/8}", Remote("prefix", "10.0.0.0/8")),
        ("ipv4, remote: {prefix: 10.0.0.1/32}", Remote("prefix", "10.0.0.1")),
        ("ipv6, remote: {prefix: '2001:DB8:0::/48'}", Remote("prefix", "2001:db8::/48")),
        ("ipv4, remote: {group: g}", Remote("group", "g")),
    ],
)
def test_remotes(text: str, remote: Remote) -> None:
    assert rule_of(f"ethertype: {text}").remote == remote


def test_a_rule_is_stateless_if_it_or_else_its_group_says_so() -> None:
    one, two = "ethertype: ipv4, name: a", "ethertype: ipv4, name: b, stateless: false"
    assert [rule.stateless for rule in rules_of(one, two, more="  stateless: true\n")] == [True, False]


def test_a_port_comes_in_its_normal_form() -> None:
    text = (
        f"{HEAD}kind: Port\nmetadata: {{name: p}}\nspec:\n  network: n\n  mac: FA-16-3E-00-00-0A\n"
        "  addresses: ['2001:DB8::0:1', 10.0.0.1]\n  groups: [g, f, g]\n  allowedAddressPairs:\n"
        "  - {prefix: 10.9.0.0/16, mac: 'fa:16:3e:00:00:0b'}\n  - {prefix: 10.0.0.9/32, mac: 'FA:16:3E:00:00:0A'}\n"
        "  - {prefix: 10.0.0.9}\n"
    )
    found = intent(read("---\n".join((NETWORK, group(), group(name="f"), text)), "f.yaml")).ports["p"]
    assert found.mac == "fa:16:3e:00:00:0a"
    assert found.addresses == ("10.0.0.1", "2001:db8::1")
    assert found.groups == ("f", "g")
    assert found.pairs == (AddressPair("10.0.0.9"), AddressPair("10.9.0.0/16", "fa:16:3e:00:00:0b"))


@given(st.ip_addresses(v=4), st.integers(0, 32))
def test_a_prefix_in_normal_form_is_its_own_normal_form(address: object, length: int) -> None:
    normal = written.prefix(str(ip_network(f"{address}/{length}", strict=False)))
    assert written.prefix(normal) == normal
    assert ("/" in normal) == (length < 32)


# --- each reason to refuse --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "field", "code"),
    [
        ("ethertype: ipv4, protocol: tpc", "protocol", "intent-protocol"),
        ("ethertype: ipv4, protocol: 256", "protocol", "intent-protocol"),
        ("ethertype: ipv4, protocol: -1", "protocol", "intent-protocol"),
        ("ethertype: ipv4, protocol: ²", "protocol", "intent-protocol"),
        ("ethertype: ipv4, protocol: icmpv6", "protocol", "intent-family"),
        ("ethertype: ipv4, protocol: 58", "protocol", "intent-family"),
        ("ethertype: ipv4, port: 80", "port", "intent-port-protocol"),
        ("ethertype: ipv4, protocol: gre, sourcePort: 80", "sourcePort", "intent-port-protocol"),
        ("ethertype: ipv4, protocol: tcp, port: 90-80", "port", "intent-port"),
        ("ethertype: ipv4, protocol: tcp, port: 65536", "port", "intent-port"),
        ("ethertype: ipv4, protocol: tcp, port: -1", "port", "intent-port"),
        ("ethertype: ipv4, protocol: tcp, port: '80:90'", "port", "intent-port"),
        ("ethertype: ipv4, protocol: tcp, port: http", "port", "intent-port"),
        ("ethertype: ipv4, protocol: tcp, icmpType: 8", "icmpType", "intent-icmp"),
        ("ethertype: ipv4, icmpType: 8", "icmpType", "intent-icmp"),
        ("ethertype: ipv4, protocol: icmp, icmpCode: 0", "icmpCode", "intent-icmp"),
        ("ethertype: ipv4, protocol: icmp, icmpType: 256", "icmpType", "intent-value"),
        ("ethertype: ipv4, protocol: icmp, icmpType: 3, icmpCode: -1", "icmpCode", "intent-value"),
        ("ethertype: ipv4, remote: {}", "remote", "intent-remote"),
        ("ethertype: ipv4, remote: {group: g, prefix: 10.0.0.0/8}", "remote", "intent-remote"),
        ("ethertype: ipv4, remote: {prefix: 10.0.0.1/8}", "remote.prefix", "intent-host-bits"),
        ("ethertype: ipv4, remote: {prefix: 10.0.0.0/33}", "remote.prefix", "intent-prefix"),
        ("ethertype: ipv4, remote: {prefix: 10.0.0.0/255.0.0.0}", "remote.prefix", "intent-prefix"),
        ("ethertype: ipv4, remote: {prefix: 10/8}", "remote.prefix", "intent-prefix"),
        ("ethertype: ipv4, remote: {prefix: 010.0.0.0/8}", "remote.prefix", "intent-prefix"),
        ("ethertype: ipv6, remote: {prefix: 'fe80::1%eth0'}", "remote.prefix", "intent-prefix"),
        ("ethertype: ipv6, remote: {prefix: 10.0.0.0/8}", "remote.prefix", "intent-family"),
        ("ethertype: ipv4, remote: {prefix: '::/0'}", "remote.prefix", "intent-family"),
        ("ethertype: ipv4, remote: {group: h}", "remote.group", "intent-reference"),
        ("ethertype: ipv4, remote: {addressGroup: g}", "remote.addressGroup", "intent-reference"),
    ],
)
def test_rules_that_are_refused(rule: str, field: str, code: str) -> None:
    assert refused(group(rule)) == [(f"spec.rules[0].{field}", code)]


@pytest.mark.parametrize(
    "mac", ["fa:16:3e:00:00", "01:00:5e:00:00:01", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "fa163e000001"]
)
def test_macs_that_are_refused(mac: str) -> None:
    assert refused(NETWORK, port("p", mac)) == [("spec.mac", "intent-mac")]


@pytest.mark.parametrize(
    "address", ["10.0.0.0/24", "10.0.0.256", "224.0.0.1", "::", "::1", "127.0.0.1", "fe80::1%e", "ff02::1",
                "255.255.255.255", "host"],
)  # fmt: skip
def test_addresses_that_are_refused(address: str) -> None:
    assert refused(NETWORK, port("p", "fa:16:3e:00:00:01", address)) == [("spec.addresses[0]", "intent-address")]


def test_names_are_unique_within_their_kind() -> None:
    assert refused(NETWORK, NETWORK) == [("metadata.name", "intent-name-twice")]
    assert intent(read(f"{NETWORK}---\n{group(name='n')}", "f.yaml")).networks


def test_rules_are_told_apart() -> None:
    one = "ethertype: ipv4, protocol: tcp, port: 80"
    assert refused(group(one, one)) == [("spec.rules[1]", "intent-rule-twice")]
    assert refused(group("ethertype: ipv4, name: a", "ethertype: ipv6, name: a")) == [
        ("spec.rules[1].name", "intent-name-twice")
    ]
    assert len(rules_of(one, f"{one}, name: again")) == 2


def test_tags_are_unique_and_vlan_tags() -> None:
    one, two = (NETWORK.replace("name: n", f"name: {name}") + "spec: {tag: 7}\n" for name in "ab")
    assert refused(one, two) == [("spec.tag", "intent-tag-twice")]
    for tag in (0, 4095, -1):
        assert refused(one.replace("tag: 7", f"tag: {tag}")) == [("spec.tag", "intent-value")]


def test_macs_are_unique_on_a_network_and_addresses_in_a_scope() -> None:
    other = NETWORK.replace("name: n", "name: m")
    one, two = port("a", "fa:16:3e:00:00:01", "10.0.0.1"), port("b", "fa:16:3e:00:00:01", "10.0.0.1")
    assert refused(NETWORK, one, two) == [("spec.addresses", "intent-address-twice"), ("spec.mac", "intent-mac-twice")]
    two = two.replace("network: n", "network: m")
    assert refused(NETWORK, other, one, two) == [("spec.addresses", "intent-address-twice")]
    apart = f"{other}spec: {{scope: elsewhere}}\n"
    assert len(intent(read("---\n".join((NETWORK, apart, one, two)), "f.yaml")).ports) == 2


def test_link_local_addresses_count_on_their_network_only() -> None:
    other = NETWORK.replace("name: n", "name: m")
    one, two = port("a", "fa:16:3e:00:00:01", "fe80::1"), port("b", "fa:16:3e:00:00:02", "fe80::1")
    assert refused(NETWORK, one, two) == [("spec.addresses", "intent-address-twice")]
    assert intent(read("---\n".join((NETWORK, other, one, two.replace("network: n", "network: m"))), "f.yaml")).ports


def test_an_address_may_be_shared_as_a_pair() -> None:
    pairs = ", allowedAddressPairs: [{prefix: 10.0.0.9}]}"
    ports = [port(n, f"fa:16:3e:00:00:0{n}", f"10.0.0.{n}").replace("]}", f"]{pairs}") for n in "12"]
    assert len(intent(read("---\n".join((NETWORK, *ports)), "f.yaml")).ports) == 2


def test_a_trusted_port_has_no_groups_and_no_pairs() -> None:
    more = "], groups: [g], allowedAddressPairs: [{prefix: 10.0.0.9}], portSecurity: false}"
    text = port("p", "fa:16:3e:00:00:01").replace("]}", more)
    assert refused(NETWORK, group(), text) == [
        ("spec.allowedAddressPairs", "intent-trusted-port"),
        ("spec.groups", "intent-trusted-port"),
    ]


def test_what_nobody_has_declared() -> None:
    text = port("p", "fa:16:3e:00:00:01").replace("]}", "], groups: [wbe]}")
    assert refused(group(name="web"), text) == [
        ("spec.groups[0]", "intent-reference"),
        ("spec.network", "intent-reference"),
    ]
    with pytest.raises(IntentError, match=r"no security group 'wbe'; did you mean web\?"):
        intent(read(f"{NETWORK}---\n{group(name='web')}---\n{text}", "f.yaml"))


def test_a_reference_to_what_could_not_be_read_is_no_second_fault() -> None:
    text = port("p", "fa:16:3e:00:00:01").replace("]}", "], groups: [web]}")
    assert refused(NETWORK, text, group("ethertype: ipv5", name="web")) == [("spec.rules[0].ethertype", "intent-value")]
    assert refused(NETWORK, text, "a: [\n") == [("file", "intent-not-yaml")]


def test_all_faults_are_told_and_the_first_ones_shown() -> None:
    rules = [f"ethertype: ipv4, protocol: tcp, port: 9-{n % 9}" for n in range(70)]
    with pytest.raises(IntentError) as caught:
        intent([*read(group(*rules), "b.yaml"), *read("kind: X\n", "a.yaml")])
    shown = caught.value.faults
    assert (len(shown), caught.value.left_out) == (FAULT_LIMIT, 21)
    assert [fault.file for fault in shown[:2]] == ["a.yaml", "b.yaml"]
    assert str(caught.value).endswith("and 21 more")


# --- order means nothing ----------------------------------------------------------------------------------


def without_places(found: Intent) -> Intent:
    def bare(each: object) -> object:
        if not isinstance(each, msgspec.Struct):
            return each
        rules = {"rules": tuple(map(bare, each.rules))} if hasattr(each, "rules") else {}
        return msgspec.structs.replace(each, place=Place(), **rules)

    fields = {
        field: {name: bare(each) for name, each in values.items()}
        for field, values in msgspec.structs.asdict(found).items()
    }
    return Intent(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(8))
def test_any_order_and_any_files_give_an_equal_intent(seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - not for secrets
    first = intent(firewall_files.read(EXAMPLES))
    values = [doc for file in sorted(EXAMPLES.glob("*.yaml")) for doc in yaml.safe_load_all(file.read_text())]
    for value in values:
        for each in value.get("spec", {}).values():
            if isinstance(each, list):
                dice.shuffle(each)
    dice.shuffle(values)
    cut = dice.randrange(1, len(values))
    texts = {"b.yaml": yaml.safe_dump_all(values[:cut]), "a.json": yaml.safe_dump_all(values[cut:])}
    second = intent([each for file, text in texts.items() for each in read(text, file)])
    assert without_places(second) == without_places(first)
    assert second != first


def test_faults_do_not_depend_on_the_order_either() -> None:
    ports = [port(name, "fa:16:3e:00:00:01", "10.0.0.1") for name in "abc"]
    found = [each for n, text in enumerate([NETWORK, *ports, NETWORK]) for each in read(text, f"{n}.yaml")]
    said = set()
    for order in (found, found[::-1]):
        with pytest.raises(IntentError) as caught:
            intent(order)
        said.add(str(caught.value))
    assert len(said) == 1


# --- codes ------------------------------------------------------------------------------------------------


def test_every_code_is_registered_and_every_registered_one_is_given() -> None:
    sources = [*(ROOT / "src/hitless/core/firewall").glob("*.py"), ROOT / "src/hitless/agent/firewall_files.py"]
    text = "".join(each.read_text() for each in sources if each != Path(faults.__file__))
    assert set(re.findall(r'"((?:intent|import)-[a-z-]+)"', text)) == set(CODES)
