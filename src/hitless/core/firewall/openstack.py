"""What OpenStack's client prints, as documents: the way in for who has security groups there already.

Understood are the JSON forms (`-f json`) of `security group list`, `security group rule list`, `address group list`,
`network list` and `port list --long`, and of `security group show` and `port show`, one object or a list of them.
IDs become names, names become titles. What a listing does not say is said in a note, never made up. The columns are
those of python-openstackclient (6.0 to 10.5: `network/v2/*.py`, and `network/utils.py` for port ranges).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import ip_interface
from typing import Any, Final

import msgspec

from hitless.core.firewall.documents import shown
from hitless.core.firewall.faults import Fault, IntentError
from hitless.core.firewall.schema import VERSION

_Row = Mapping[str, Any]
_RULE_COLUMNS: Final = frozenset({
    "ID", "IP Protocol", "Ethertype", "IP Range", "Port Range", "Direction", "Remote Security Group",
    "Remote Address Group", "Security Group",
})  # fmt: skip
_ICMP: Final = frozenset({"icmp", "icmpv6", "ipv6-icmp", "1", "58"})
_ICMP_RANGE: Final = re.compile(r"(?:type=(\d+))?(?::code=(\d+))?")
_PORT_RANGE: Final = re.compile(r"(?:(\d+):(\d+))?")
_TRUSTED_OWNER = "network:"  # DHCP servers, router interfaces: OpenStack never filters them


class Listing(msgspec.Struct, frozen=True):
    """One decoded output. `network` is the ID of the network that `port list --network ID` was asked for."""

    file: str
    content: Any
    network: str = ""


class Imported(msgspec.Struct, frozen=True):
    """Documents as plain values, for `yaml.safe_dump_all`, and in sentences what the listings could not say."""

    documents: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]


class _ShapeError(Exception):
    def __init__(self, field: str, code: str, message: str) -> None:
        super().__init__(message)
        self.field, self.code = field, code


def documents(listings: Iterable[Listing]) -> Imported:
    """All that the listings say together. Raises IntentError (`import-...`); a fault's document is the entry."""
    reader, faults = _Reader(), []
    for listing in listings:
        rows = listing.content if isinstance(listing.content, list) else [listing.content]
        for number, row in enumerate(rows, 1):
            try:
                reader.row(row, listing)
            except _ShapeError as error:
                faults.append(Fault(listing.file, number, 0, error.field, error.code, str(error)))
    if faults:
        raise IntentError(faults)
    return reader.result()


class _Reader:
    """Rows gathered by kind and ID."""

    def __init__(self) -> None:
        self.titles: dict[tuple[str, str], str] = {}
        self.specs: dict[str, dict[str, dict[str, Any]]] = {}
        self.rules: dict[str, tuple[str, dict[str, Any]]] = {}  # ID -> group, rule
        self.exact: set[str] = set()  # groups whose rules `security group show` has told
        self.unsure: set[str] = set()  # rules of ICMP that may be wider than they were
        self.notes: set[str] = set()

    def row(self, row: object, listing: Listing) -> None:
        if isinstance(row, dict):
            for column, read in _SHAPES:
                if column in row:
                    read(self, row, listing)
                    return
        message = ("not an entry of a listing that is understood; give the output, with -f json, of security group "
                   "list, security group rule list, address group list, network list, port list --long, "
                   "security group show or port show")  # fmt: skip
        raise _ShapeError("entry", "import-shape", message)

    def put(self, kind: str, row: _Row, spec: dict[str, Any], key: str = "ID", title: str = "Name") -> None:
        name = _text(row, key)
        self.specs.setdefault(kind, {})[name] = spec
        self.titles[kind, name] = row.get(title) or ""

    # --- listings -----------------------------------------------------------------------------------------

    def listed_rule(self, row: _Row, _: Listing) -> None:
        if unknown := sorted(set(row) - _RULE_COLUMNS):
            message = "this column is not known and may change what the rule means; tell the makers of hitless"
            raise _ShapeError(unknown[0], "import-column", message)
        if "Security Group" not in row:
            message = "the column is missing; list the rules of all groups, without the name of one"
            raise _ShapeError("Security Group", "import-column", message)
        first, last = _range(row)
        raw = {
            "direction": row.get("Direction"), "ethertype": row.get("Ethertype"), "protocol": row.get("IP Protocol"),
            "port_range_min": first, "port_range_max": last, "remote_ip_prefix": row.get("IP Range"),
            "remote_group_id": row.get("Remote Security Group"),
            "remote_address_group_id": row.get("Remote Address Group"),
        }  # fmt: skip
        group, rule = _text(row, "Security Group"), _text(row, "ID")
        if group not in self.exact:
            self.rules[rule] = (group, self.rule(rule, raw))
            if str(row.get("IP Protocol")) in _ICMP and not (first and last):
                self.unsure.add(rule)

    def listed_group(self, row: _Row, _: Listing) -> None:
        if _text(row, "ID") not in self.exact:
            self.put("SecurityGroup", row, {})
            self.notes.add("security group list does not say which groups are stateless; write stateless: true in "
                           "their spec, or import security group show of each")  # fmt: skip

    def listed_addresses(self, row: _Row, _: Listing) -> None:
        prefixes = [self.prefix(_text(row, "ID"), each) for each in _many(row, "Addresses", str)]
        self.put("AddressGroup", row, {"prefixes": prefixes})

    def listed_network(self, row: _Row, _: Listing) -> None:
        self.put("Network", row, {})

    def listed_port(self, row: _Row, listing: Listing) -> None:
        if not listing.network:
            message = "port list does not say the network; give the listing of --network ID together with that ID"
            raise _ShapeError("network", "import-column", message)
        for column in ("Security Groups", "Device Owner"):
            if column not in row:
                raise _ShapeError(column, "import-column", "the column is missing; list the ports with --long")
        groups = _many(row, "Security Groups", str)
        owner, name = row["Device Owner"] or "", _text(row, "ID")
        trusted = owner.startswith(_TRUSTED_OWNER)
        self.port(name, row.get("Name"), listing.network, trusted, {
            "mac": _text(row, "MAC Address"),
            "addresses": [_text(each, "ip_address") for each in _many(row, "Fixed IP Addresses", dict)],
            "groups": groups,
        })  # fmt: skip
        self.notes.add("port list does not say allowed address pairs and port security; import port show of each")
        if not groups and not trusted:
            self.notes.add(f"port {name} has no security group: unless its port security is off, everything is "
                           f"denied; compare it with: openstack port show {name}")  # fmt: skip

    # --- single objects -----------------------------------------------------------------------------------

    def shown_group(self, row: _Row, _: Listing) -> None:
        group = _text(row, "id")
        self.rules = {rule: each for rule, each in self.rules.items() if each[0] != group}
        self.unsure &= self.rules.keys()
        self.exact.add(group)
        self.put("SecurityGroup", row, {"stateless": True} if row.get("stateful") is False else {}, "id", "name")
        for each in _many(row, "rules", dict):
            self.rules[_text(each, "id")] = (group, self.rule(_text(each, "id"), each))

    def shown_port(self, row: _Row, _: Listing) -> None:
        name, owner = _text(row, "id"), row.get("device_owner") or ""
        trusted = row.get("port_security_enabled") is False or owner.startswith(_TRUSTED_OWNER)
        pairs = [
            {"prefix": self.prefix(name, _text(each, "ip_address")), "mac": _text(each, "mac_address")}
            for each in _many(row, "allowed_address_pairs", dict)
        ]
        self.port(name, row.get("name"), _text(row, "network_id"), trusted, {
            "mac": _text(row, "mac_address"),
            "addresses": [_text(each, "ip_address") for each in _many(row, "fixed_ips", dict)],
            "groups": _many(row, "security_group_ids", str),
            "allowedAddressPairs": pairs,
        })  # fmt: skip

    # --- values -------------------------------------------------------------------------------------------

    def port(self, name: str, title: str | None, network: str, trusted: bool, spec: dict[str, Any]) -> None:
        spec = {"network": network, **{field: value for field, value in spec.items() if value}}
        if trusted:
            for field in ("groups", "allowedAddressPairs"):
                spec.pop(field, None)
            spec["portSecurity"] = False
        self.specs.setdefault("Network", {}).setdefault(network, {})
        self.specs.setdefault("Port", {})[name] = spec
        self.titles["Port", name] = title or ""

    def rule(self, name: str, raw: _Row) -> dict[str, Any]:
        """A rule of the API, whose listing has been brought into the API's form."""
        protocol, first, last = str(raw.get("protocol") or "any"), raw.get("port_range_min"), raw.get("port_range_max")
        rule = {
            "name": name,
            "direction": _text(raw, "direction").lower(),
            "ethertype": _text(raw, "ether_type" if "ether_type" in raw else "ethertype").lower(),
        }
        found: dict[str, Any] = {"protocol": None if protocol == "any" else protocol}
        if protocol in _ICMP:
            found |= {"icmpType": first, "icmpCode": last}
        elif (only := first if last is None else last) is not None:
            found["port"] = only if first in {None, only} else f"{first}-{last}"
        remotes = {
            field: _text(raw, column) if raw.get(column) else None
            for field, column in (("prefix", "remote_ip_prefix"), ("group", "remote_group_id"),
                                  ("addressGroup", "remote_address_group_id"))
        }  # fmt: skip
        if remotes["group"] or remotes["addressGroup"]:
            del remotes["prefix"]  # the client prints 0.0.0.0/0 or ::/0 beside a group
        else:
            remotes["prefix"] = self.prefix(name, remotes["prefix"])
        found["remote"] = {field: value for field, value in remotes.items() if value}
        return rule | {field: value for field, value in found.items() if value is not None and value != {}}

    def prefix(self, owner: str, text: str | None) -> str | None:
        """OpenStack keeps bits behind a prefix's length and does not heed them."""
        if text is None:
            return None
        try:
            found = ip_interface(text)
        except ValueError:
            raise _ShapeError("prefix", "import-value", f"{shown(text)} is no IP prefix; list it anew") from None
        if found.ip != found.network.network_address:
            self.notes.add(f"{owner}: {text} is written as {found.network}, which is what OpenStack makes of it")
        return str(found.network)

    def result(self) -> Imported:
        groups = self.specs.setdefault("SecurityGroup", {})
        for _, (group, rule) in sorted(self.rules.items()):
            groups.setdefault(group, {}).setdefault("rules", []).append(rule)
        if self.unsure:
            rules = ", ".join(sorted(self.unsure))
            self.notes.add("security group rule list does not print an ICMP type or code of 0, so these rules may have "
                           f"become wider; import security group show of their groups: {rules}")  # fmt: skip
        made = []
        for kind, specs in sorted(self.specs.items()):
            for name, spec in sorted(specs.items()):
                title = self.titles.get((kind, name), "")
                metadata = {"name": name} | ({"title": title} if title else {})
                made.append({"apiVersion": VERSION, "kind": kind, "metadata": metadata, "spec": spec})
        return Imported(tuple(made), tuple(sorted(self.notes)))


# The first column that is there says which listing it is.
_SHAPES: Final[Sequence[tuple[str, Callable[[_Reader, _Row, Listing], None]]]] = (
    ("IP Protocol", _Reader.listed_rule),
    ("MAC Address", _Reader.listed_port),
    ("Addresses", _Reader.listed_addresses),
    ("Subnets", _Reader.listed_network),
    ("Description", _Reader.listed_group),
    ("mac_address", _Reader.shown_port),
    ("rules", _Reader.shown_group),
)


def _text(row: _Row, column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value:
        raise _ShapeError(column, "import-value", f"a text is expected and not {shown(repr(value))}; list it anew")
    return value


def _many(row: _Row, column: str, kind: type[Any]) -> list[Any]:
    value = [] if row.get(column) is None else row[column]
    if not isinstance(value, list) or not all(isinstance(each, kind) for each in value):
        message = "a list is expected here; give the output of a client of 6.0 or newer, with -f json"
        raise _ShapeError(column, "import-value", message)
    return value


def _range(row: _Row) -> tuple[int | None, int | None]:
    """First and last port, or type and code, of a `Port Range`."""
    text, is_icmp = row.get("Port Range") or "", str(row.get("IP Protocol")) in _ICMP
    found = (_ICMP_RANGE if is_icmp else _PORT_RANGE).fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise _ShapeError("Port Range", "import-value", f"{shown(str(text))} is not like 22:22 or type=3:code=1")
    first, last = (None if each is None else int(each) for each in found.groups())
    # A type of 0 is not printed, its code is (network/utils.py: format_network_port_range).
    return (0 if is_icmp and first is None and last is not None else first), last
