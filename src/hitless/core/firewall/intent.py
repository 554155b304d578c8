"""Documents to an `Intent`: checked as a whole, refused as a whole, with every fault that was found.

Everything is put into its normal form, and lists whose order means nothing are sorted, so that the same documents give
an equal intent in whatever order and files they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

import msgspec

from hitless.core.firewall import written
from hitless.core.firewall.documents import Document, meant, shown
from hitless.core.firewall.faults import Fault, IntentError
from hitless.core.firewall.schema import (
    KINDS,
    AddressGroupSpec,
    NetworkSpec,
    PortSpec,
    RuleSpec,
    SecurityGroupSpec,
)
from hitless.core.firewall.written import WrittenError
from hitless.core.model.security import (
    ICMP,
    ICMPV6,
    WITH_PORTS,
    AddressGroup,
    AddressPair,
    Ethertype,
    Intent,
    Network,
    Place,
    Port,
    Range,
    Remote,
    Rule,
    SecurityGroup,
)

_NOUNS: Final = {"Network": "network", "SecurityGroup": "security group", "AddressGroup": "address group"}
_T = TypeVar("_T")


def intent(documents: Iterable[Document]) -> Intent:
    """What the documents say together. Raises IntentError with all faults, those that documents bring included."""
    check = _Check(sorted(documents, key=lambda each: (each.place.file, each.place.document)))
    networks = {name: check.network(*each) for name, each in check.specs("Network")}
    address_groups = {name: check.address_group(*each) for name, each in check.specs("AddressGroup")}
    groups = {name: check.group(*each) for name, each in check.specs("SecurityGroup")}
    ports = {name: check.port(*each) for name, each in check.specs("Port")}
    check.unique_tags(networks)
    check.unique_addresses(networks, ports)
    if check.faults:
        raise IntentError(check.faults)
    return Intent(groups=groups, address_groups=address_groups, ports=ports, networks=networks)


class _Check:
    """All documents, by kind and name, and what is wrong with them."""

    def __init__(self, documents: list[Document]) -> None:
        self.faults: list[Fault] = [fault for each in documents for fault in each.faults]
        self.named: dict[str, dict[str, Document]] = {kind: {} for kind in KINDS}
        # What is missing may stand in what could not be read: one fault is enough then.
        self.all_read = all(each.kind and each.name for each in documents)
        for each in documents:
            if each.kind and each.name:
                first = self.named[each.kind].setdefault(each.name, each)
                if first is not each:
                    message = f"{shown(each.name)} is declared at {first.place} too; rename or remove one of them"
                    self.say(each, "metadata.name", "intent-name-twice", message)

    def say(self, document: Document, field: str, code: str, message: str) -> None:
        self.faults.append(document.fault(field, code, message))

    def specs(self, kind: str) -> Iterator[tuple[str, tuple[Document, Any]]]:
        """Those of a kind that can be read, in name order."""
        for name, document in sorted(self.named[kind].items()):
            if document.spec is not None:
                yield name, (document, document.spec)

    def read(self, document: Document, field: str, reading: Callable[..., _T], *text: str) -> _T | None:
        """What a reading makes of a text, None with a fault if it refuses it."""
        try:
            return reading(*text)
        except WrittenError as error:
            self.say(document, field, error.code, str(error))
            return None

    def known(self, document: Document, field: str, kind: str, name: str) -> None:
        if name not in self.named[kind] and self.all_read:
            hint = meant(name, self.named[kind]) or f"declare a document of kind {kind}"
            message = f"there is no {_NOUNS[kind]} {shown(name)}; {hint}"
            self.say(document, field, "intent-reference", message)

    # --- one document -------------------------------------------------------------------------------------

    def network(self, document: Document, spec: NetworkSpec) -> Network:
        return Network(document.name, spec.tag or 0, spec.scope, document.place)

    def address_group(self, document: Document, spec: AddressGroupSpec) -> AddressGroup:
        texts = enumerate(spec.prefixes)
        found = [self.read(document, f"spec.prefixes[{n}]", written.prefix, text) for n, text in texts]
        return AddressGroup(document.name, _ordered(found), document.place)

    def port(self, document: Document, spec: PortSpec) -> Port:
        mac = self.read(document, "spec.mac", written.mac, spec.mac) or ""
        texts = enumerate(spec.addresses)
        addresses = [self.read(document, f"spec.addresses[{n}]", written.address, text) for n, text in texts]
        self.known(document, "spec.network", "Network", spec.network)
        for n, name in enumerate(spec.groups):
            self.known(document, f"spec.groups[{n}]", "SecurityGroup", name)
        for field, there in (("groups", spec.groups), ("allowedAddressPairs", spec.allowed_address_pairs)):
            if there and not spec.port_security:
                message = "the port is not filtered, so this means nothing; remove it, or portSecurity: false"
                self.say(document, f"spec.{field}", "intent-trusted-port", message)
        return Port(
            document.name, spec.network, mac, _ordered(addresses), tuple(sorted(set(spec.groups))),
            self.pairs(document, spec, mac), spec.port_security, document.place,
        )  # fmt: skip

    def pairs(self, document: Document, spec: PortSpec, mac: str) -> tuple[AddressPair, ...]:
        found = set()
        for n, each in enumerate(spec.allowed_address_pairs):
            field = f"spec.allowedAddressPairs[{n}]"
            prefix = self.read(document, f"{field}.prefix", written.prefix, each.prefix)
            other = None if each.mac is None else self.read(document, f"{field}.mac", written.mac, each.mac)
            found.add(AddressPair(prefix or "", other if other and other != mac else ""))
        return tuple(sorted(found, key=lambda each: (each.prefix, each.mac)))

    def group(self, document: Document, spec: SecurityGroupSpec) -> SecurityGroup:
        rules: dict[str, Rule] = {}
        for n, each in enumerate(spec.rules):
            field = f"spec.rules[{n}]"
            before = len(self.faults)
            rule = self.rule(document, field, each, spec.stateless)
            if len(self.faults) > before:
                continue  # what has been left out of it would make it like others
            first = rules.setdefault(rule.identity, rule)
            if first is not rule and rule.name:
                message = f"{shown(rule.name)} is the rule in line {first.place.line} too; rename one of them"
                self.say(document, f"{field}.name", "intent-name-twice", message)
            elif first is not rule:
                message = f"the same as the rule in line {first.place.line}; remove one of them, or name both"
                self.say(document, field, "intent-rule-twice", message)
        ordered = tuple(rules[identity] for identity in sorted(rules))
        return SecurityGroup(document.name, ordered, spec.revoked, document.place)

    # --- one rule -----------------------------------------------------------------------------------------

    def rule(self, document: Document, field: str, spec: RuleSpec, stateless: bool) -> Rule:
        number = None
        if spec.protocol is not None:
            number = self.read(document, f"{field}.protocol", written.protocol, str(spec.protocol), spec.ethertype)
        if spec.protocol is None or number is not None:
            self.above_ip(document, field, spec, number)
        return Rule(
            direction=spec.direction,
            ethertype=spec.ethertype,
            protocol=number,
            ports=self.range(document, f"{field}.port", spec.port),
            source_ports=self.range(document, f"{field}.sourcePort", spec.source_port),
            icmp_type=spec.icmp_type,
            icmp_code=spec.icmp_code,
            remote=self.remote(document, f"{field}.remote", spec),
            action=spec.action,
            tier=spec.tier,
            stateless=stateless if spec.stateless is None else spec.stateless,
            name=spec.name or "",
            place=Place(document.place.file, document.place.document, document.line(field)),
        )

    def above_ip(self, document: Document, field: str, spec: RuleSpec, protocol: int | None) -> None:
        """Ports and ICMP types are of protocols that have them."""
        for name, port in (("port", spec.port), ("sourcePort", spec.source_port)):
            if port is not None and protocol not in WITH_PORTS:
                message = "only tcp, udp and sctp have ports here; write one of them as protocol, or remove this"
                self.say(document, f"{field}.{name}", "intent-port-protocol", message)
        for name, value in (("icmpType", spec.icmp_type), ("icmpCode", spec.icmp_code)):
            if value is not None and protocol not in {ICMP, ICMPV6}:
                message = "only icmp and icmpv6 have this; write one of them as protocol, or remove this"
                self.say(document, f"{field}.{name}", "intent-icmp", message)
        if spec.icmp_code is not None and spec.icmp_type is None:
            message = "a code means nothing without its type; write icmpType too"
            self.say(document, f"{field}.icmpCode", "intent-icmp", message)

    def range(self, document: Document, field: str, port: int | str | None) -> Range | None:
        return None if port is None else self.read(document, field, written.ports, str(port))

    def remote(self, document: Document, field: str, rule: RuleSpec) -> Remote:
        spec = rule.remote
        if spec is None:
            return Remote()
        if sum(each is not None for each in msgspec.structs.astuple(spec)) != 1:
            message = "write one of prefix, group and addressGroup; for anybody leave remote out"
            self.say(document, field, "intent-remote", message)
        elif spec.group is not None:
            self.known(document, f"{field}.group", "SecurityGroup", spec.group)
            return Remote("group", spec.group)
        elif spec.address_group is not None:
            self.known(document, f"{field}.addressGroup", "AddressGroup", spec.address_group)
            return Remote("address-group", spec.address_group)
        elif spec.prefix is not None:
            return self.remote_prefix(document, f"{field}.prefix", spec.prefix, rule.ethertype)
        return Remote()

    def remote_prefix(self, document: Document, field: str, text: str, ethertype: Ethertype) -> Remote:
        prefix = self.read(document, field, written.prefix, text)
        if prefix is None:
            return Remote()
        if written.family(prefix) != ethertype:
            message = f"{text} is {written.family(prefix)} and the rule {ethertype}; write two rules if both are meant"
            self.say(document, field, "intent-family", message)
        return Remote() if prefix.endswith("/0") else Remote("prefix", prefix)

    # --- between documents --------------------------------------------------------------------------------

    def unique_tags(self, networks: Mapping[str, Network]) -> None:
        """A VLAN tag is one network's."""
        tags: dict[int, Network] = {}
        for network in networks.values():
            if network.tag and (first := tags.setdefault(network.tag, network)) is not network:
                message = f"network {first.name} has tag {network.tag} too ({first.place}); give one of them another"
                self.say(self.named["Network"][network.name], "spec.tag", "intent-tag-twice", message)

    def unique_addresses(self, networks: Mapping[str, Network], ports: Mapping[str, Port]) -> None:
        """A MAC is one port's on its network, an address is one port's in its scope."""
        owners: dict[tuple[str, str], Port] = {}
        for port in ports.values():
            document, network = self.named["Port"][port.name], networks.get(port.network)
            if port.mac and (first := owners.setdefault((port.network, port.mac), port)) is not port:
                message = f"port {first.name} of this network has {port.mac} too ({first.place}); correct one of them"
                self.say(document, "spec.mac", "intent-mac-twice", message)
            for address in port.addresses if network else ():
                # A scope is no network: names have no spaces. Link-local addresses count on their own network only.
                place = port.network if written.link_local(address) or not network else f"scope {network.scope}"
                if (first := owners.setdefault((place, address), port)) is not port:
                    message = (f"port {first.name} has {address} too ({first.place}); share it as allowedAddressPairs "
                               "of both, or give their networks different scopes")  # fmt: skip
                    self.say(document, "spec.addresses", "intent-address-twice", message)


def _ordered(texts: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(sorted({text for text in texts if text is not None}))
