"""The published schema and reference are made from the structs, and say what the reader does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from hitless.core.firewall import schema
from hitless.core.firewall.documents import read
from hitless.core.firewall.faults import CODES
from hitless.core.firewall.intent import intent

ROOT = Path(__file__).parents[3]
SCHEMA = ROOT / "docs/reference/intent.schema.json"
PAGE = ROOT / "docs/reference/intent.md"
EXAMPLES = sorted((ROOT / "examples/firewall").glob("*.yaml"))
TABLES = (
    ("Every document", None), ("Metadata", schema.Metadata), ("SecurityGroup", schema.SecurityGroupSpec),
    ("A rule", schema.RuleSpec), ("The remote of a rule", schema.RemoteSpec), ("AddressGroup", schema.AddressGroupSpec),
    ("Network", schema.NetworkSpec), ("Port", schema.PortSpec), ("An allowed address pair", schema.PairSpec),
)  # fmt: skip


# --- the page ---------------------------------------------------------------------------------------------


def type_of(spec: dict[str, Any]) -> str:
    """What a property of the JSON Schema may be, in a word or two."""
    if "anyOf" in spec:
        return " or ".join(dict.fromkeys(each for each in map(type_of, spec["anyOf"]) if each != "null"))
    if "enum" in spec:
        return " or ".join(f"`{each}`" for each in spec["enum"] if each is not None)
    if "$ref" in spec:
        return "mapping"
    return f"list of {type_of(spec['items'])}s" if spec["type"] == "array" else str(spec["type"])


def default_of(spec: dict[str, Any], required: bool) -> str:
    if required:
        return "required"
    default = spec.get("default")
    return f"`{json.dumps(default)}`" if default or default is False else ""


def rows(made: dict[str, Any]) -> Iterator[str]:
    yield from ("| field | value | default | meaning |", "|---|---|---|---|")
    for name, spec in made["properties"].items():
        required = name in made.get("required", ())
        yield f"| `{name}` | {type_of(spec)} | {default_of(spec, required)} | {spec.get('description', '')} |"


def fields_of_the_page() -> str:
    definitions = schema.schema()["$defs"]
    lines: list[str] = []
    for title, kind in TABLES:
        lines += [f"### {title}", ""]
        if kind is None:
            lines += ["| field | value | default | meaning |", "|---|---|---|---|"]
            kinds = " or ".join(f"`{each}`" for each in schema.KINDS)
            lines += [f"| `apiVersion` | `{schema.VERSION}` | required | the form of the document |"]
            lines += [f"| `kind` | {kinds} | required | what is declared |"]
            lines += ["| `metadata` | mapping | required | what it is called |"]
            lines += ["| `spec` | mapping | required, not for a Network | what it is like, by kind |"]
        else:
            lines += [f"{kind.__doc__}", "", *rows(definitions[kind.__name__])]
        lines.append("")
    return "\n".join(lines)


def made_parts() -> dict[str, str]:
    protocols = ", ".join(f"`{name}` ({number})" for name, number in schema.PROTOCOLS.items())
    codes = ["| code | meaning |", "|---|---|", *(f"| `{code}` | {meaning} |" for code, meaning in CODES.items()), ""]
    return {"fields": fields_of_the_page(), "protocols": f"  {protocols}.\n", "codes": "\n".join(codes)}


def page_with(parts: dict[str, str], page: str) -> str:
    for name, text in parts.items():
        (old,) = re.findall(rf"<!-- {name}: [^\n]*-->\n(.*?)<!-- end -->", page, re.DOTALL)
        (mark,) = re.findall(rf"<!-- {name}: [^\n]*-->\n", page)
        page = page.replace(f"{mark}{old}", f"{mark}\n{text}\n")
    return page


def test_the_reference_is_what_the_structs_say(pytestconfig: pytest.Config) -> None:
    made = page_with(made_parts(), PAGE.read_text())
    if pytestconfig.getoption("--regenerate"):
        PAGE.write_text(made)
    assert PAGE.read_text() == made


def test_the_example_in_the_reference_is_good() -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert [each.faults for each in read(block, "intent.md")] == [()]


# --- the schema -------------------------------------------------------------------------------------------


def test_the_published_schema_is_what_the_structs_say(pytestconfig: pytest.Config) -> None:
    made = json.dumps(schema.schema(), indent=2) + "\n"
    if pytestconfig.getoption("--regenerate"):
        SCHEMA.write_text(made)
    assert SCHEMA.read_text() == made


def described() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, made in schema.schema()["$defs"].items():
        for field, spec in made["properties"].items():
            yield f"{name}.{field}", spec


def test_every_field_is_described_and_no_other_is_let_in() -> None:
    own = {"kind", "metadata", "spec"}  # they say what they are
    assert not [name for name, spec in described() if name.split(".")[1] not in own and "description" not in spec]
    assert all(made["additionalProperties"] is False for made in schema.schema()["$defs"].values())


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_what_the_schema_takes_the_reader_reads_alike(file: Path) -> None:
    """The structs are the schema: what msgspec makes of the plain values is what the reader makes of the text."""
    values = list(yaml.safe_load_all(file.read_text()))
    read_here = [each.spec for each in read(file.read_text(), file.name)]
    assert read_here == [msgspec.convert(value, schema.AnyDocument).spec for value in values]


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "Network"}, {"apiVersion": "v2"}, {"metadata": {}}, {"metadata": {"name": "a b"}}, {"spec": {}},
        {"more": 1}, {"spec": {"network": "n", "mac": "m", "portSecurity": "x"}}, {"spec": {"network": 1, "mac": []}},
        {"spec": {"network": "n", "mac": "m", "allowedAddressPairs": [{"mac": "m"}]}},
    ],
)  # fmt: skip
def test_what_the_schema_refuses_the_reader_refuses(change: dict[str, Any]) -> None:
    good = {"apiVersion": "hitless/v1", "kind": "Port", "metadata": {"name": "p"}, "spec": {"network": "n", "mac": "m"}}
    assert msgspec.convert(good, schema.AnyDocument)
    assert read(json.dumps(good, separators=(",", ":")), "f.json")[0].spec is not None
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(good | change, schema.AnyDocument)
    assert read(json.dumps(good | change), "f.json")[0].faults


def test_protocols_are_those_of_iana() -> None:
    """https://www.iana.org/assignments/protocol-numbers; a system's own table is the witness where it has the name."""
    witness = {"icmp": 1, "igmp": 2, "tcp": 6, "udp": 17, "dccp": 33, "gre": 47, "esp": 50, "ah": 51, "ipv6-icmp": 58,
               "ospf": 89, "pim": 103, "vrrp": 112, "sctp": 132, "udplite": 136}  # fmt: skip
    assert {name: schema.PROTOCOLS[name] for name in witness} == witness
    rules = "".join(f"  - {{name: {n}, direction: egress, ethertype: ipv6, protocol: {n}}}\n" for n in schema.PROTOCOLS)
    head = "apiVersion: hitless/v1\nkind: SecurityGroup\nmetadata: {name: g}\nspec:\n  rules:\n"
    found = intent(read(head + rules, "f.yaml")).groups["g"].rules
    assert {rule.name: rule.protocol for rule in found} == {**schema.PROTOCOLS, "icmp": 58}
