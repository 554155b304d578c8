"""Why an intent is refused: one registry of codes, and faults that carry one each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

FAULT_LIMIT = 50  # shown at once; who has more has one mistake made many times

CODES: Mapping[str, str] = {
    "intent-missing": "there is no such file or directory, or no `*.yaml`, `*.yml` or `*.json` in it",
    "intent-unreadable": "a file cannot be read",
    "intent-not-text": "a file is not UTF-8",
    "intent-too-long": "a file is over 16 MiB, or there are over 4,096 of them",
    "intent-not-yaml": "a text is not YAML; documents before the place are read, those behind it are not",
    "intent-too-deep": "lists and mappings stand over 16 deep in each other",
    "intent-tag": "a YAML tag such as `!!binary`; no field needs one",
    "intent-file-empty": "a file without a document; it may have been cut short",
    "intent-version": "an `apiVersion` other than `hitless/v1`",
    "intent-kind": "a `kind` that is none of these, or no `kind`",
    "intent-field-unknown": "a field that the kind does not have",
    "intent-field-missing": "a field that the kind cannot do without",
    "intent-field-twice": "the same field twice in one mapping",
    "intent-value": "a value of the wrong type, out of its range, or nothing at all",
    "intent-name": "a name with other characters than `A-Z a-z 0-9 . _ : -`, or not 1 to 63 of them",
    "intent-name-twice": "two documents of a kind, or two rules of a group, with one name",
    "intent-reference": "a network, group or address group that nobody has declared",
    "intent-address": "not an IP address that a port can have",
    "intent-address-twice": "two ports of one scope have the same address",
    "intent-prefix": "not an IP prefix",
    "intent-host-bits": "a prefix with bits set behind its length; the message says its normal form",
    "intent-family": "an IPv4 prefix or protocol in an IPv6 rule, or the reverse",
    "intent-mac": "not a MAC address, or one that no port can have (multicast, zero)",
    "intent-mac-twice": "two ports of one network have the same MAC",
    "intent-protocol": "not the name or number of an IP protocol",
    "intent-port": "not a port number or range of them",
    "intent-port-protocol": "ports with a protocol that has none here (only tcp, udp and sctp)",
    "intent-icmp": "an ICMP type or code with another protocol, or a code without a type",
    "intent-remote": "a remote that says nothing, or several things",
    "intent-rule-twice": "the same rule twice in a group, without names to tell them apart",
    "intent-tag-twice": "two networks ask for one VLAN tag",
    "intent-trusted-port": "groups or address pairs on a port without port security, where they would mean nothing",
    "import-shape": "not an output of OpenStack's client that is understood",
    "import-column": "a column that is missing, or is not known and may change the meaning",
    "import-value": "a value that is not of the form in which the client prints it",
}


class Fault(msgspec.Struct, frozen=True, order=True):
    """One reason why an intent is refused. `document` and `line` count from 1; 0: of the file as a whole."""

    file: str
    document: int
    line: int
    field: str
    code: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: document {self.document}: {self.field}: {self.message} [{self.code}]"


class IntentError(Exception):
    """An intent that is refused whole. `faults` are the first ones in reading order, `left_out` is how many more."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        ordered = sorted(set(faults))
        self.faults = tuple(ordered[:FAULT_LIMIT])
        self.left_out = len(ordered) - len(self.faults)
        more = [f"and {self.left_out} more"] if self.left_out else []
        super().__init__("\n".join([*map(str, self.faults), *more]))
