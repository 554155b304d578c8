"""Texts to documents: what a scalar means, that lines are right, and that no text can do harm."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hitless.agent import firewall_files
from hitless.core.firewall import nodes
from hitless.core.firewall.documents import TEXT_LIMIT, Document, read
from hitless.core.firewall.schema import PortSpec, SecurityGroupSpec

ROOT = Path(__file__).parents[3]
LIMIT_SECONDS = 60
EXAMPLES = ROOT / "examples/firewall"
GROUP = "apiVersion: hitless/v1\nkind: SecurityGroup\nmetadata: {name: web}\nspec:\n"
PORT = "apiVersion: hitless/v1\nkind: Port\nmetadata: {name: p}\nspec:\n  network: n\n"


def only(text: str) -> Document:
    (found,) = read(text, "f.yaml")
    return found


def faults(text: str) -> list[tuple[int, int, str, str]]:
    return [(f.document, f.line, f.field, f.code) for each in read(text, "f.yaml") for f in each.faults]


def port_of(text: str) -> PortSpec:
    spec = only(text).spec
    assert isinstance(spec, PortSpec), only(text).faults
    return spec


# --- what a scalar means ----------------------------------------------------------------------------------


def test_a_field_says_what_a_scalar_is_and_not_yaml() -> None:
    text = PORT + "  mac: 52:54:00:12:34:56\n  addresses: [10.0.0.1]\n  groups: [010, no, 1e3, 2024-01-01]\n"
    spec = port_of(text)
    assert spec.mac == "52:54:00:12:34:56"  # a base-60 number for YAML 1.1
    assert spec.groups == ("010", "no", "1e3", "2024-01-01")


def test_ports_are_numbers_or_texts() -> None:
    rule = "  - {direction: ingress, ethertype: ipv4, protocol: tcp, port: PORT}\n"
    rules = "".join(rule.replace("PORT", port) for port in ("80", "'80'", "80-90"))
    spec = only(f"{GROUP}  rules:\n{rules}").spec
    assert isinstance(spec, SecurityGroupSpec)
    assert [rule.port for rule in spec.rules] == [80, "80", "80-90"]


@pytest.mark.parametrize("written", ["no", "off", "'true'", "1", "True", "null"])
def test_truth_is_true_or_false_and_nothing_else(written: str) -> None:
    text = PORT + f"  mac: aa:bb:cc:dd:ee:ff\n  portSecurity: {written}\n"
    assert faults(text) == [(1, 7, "spec.portSecurity", "intent-value")]


@pytest.mark.parametrize("written", ["8", "-1", "0x4", "04", "'4'", "4.0", "four", "[4]", "{}", "99999999999999999999"])
def test_a_tier_is_a_number_from_0_to_7(written: str) -> None:
    text = GROUP + f"  rules:\n  - direction: ingress\n    ethertype: ipv4\n    tier: {written}\n"
    assert faults(text) == [(1, 8, "spec.rules[0].tier", "intent-value")]


def test_what_is_empty_is_refused_and_not_taken_for_anything() -> None:
    """A remote or port whose content went away would let everybody in."""
    text = GROUP + "  rules:\n  - direction: ingress\n    ethertype: ipv4\n    remote:\n    port: ~\n"
    assert faults(text) == [
        (1, 8, "spec.rules[0].remote", "intent-value"),
        (1, 9, "spec.rules[0].port", "intent-value"),
    ]


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 64, "ü", '"web\\n"'])
def test_names_that_are_none(name: str) -> None:
    text = GROUP.replace("name: web", f"name: {name}")
    assert {code for *_, code in faults(text)} <= {"intent-name", "intent-value"}
    assert faults(text)


def test_a_uuid_is_a_name() -> None:
    name = "6d3c4f0e-1111-4222-8333-0123456789ab"
    assert only(GROUP.replace("web", name) + "  rules: []\n").name == name


# --- fields, lines, documents -----------------------------------------------------------------------------


def test_every_fault_has_its_file_document_line_and_field() -> None:
    text = (
        "# front\napiVersion: hitless/v1\nkind: Network\nmetadata: {name: front}\n---\n"
        "apiVersion: hitless/v1\nkind: SecurityGroup\nmetadata:\n  nmae: web\nspec:\n  rules:\n"
        "  - direction: ingres\n    ethertype: ipv4\n"
        "  - ethertype: ipv4\n    remote: {grup: x}\n    tier: 3\n    tier: 4\n"
    )
    assert faults(text) == [
        (2, 9, "metadata.nmae", "intent-field-unknown"),
        (2, 9, "metadata.name", "intent-field-missing"),
        (2, 12, "spec.rules[0].direction", "intent-value"),
        (2, 17, "spec.rules[1].tier", "intent-field-twice"),
        (2, 15, "spec.rules[1].remote.grup", "intent-field-unknown"),
        (2, 14, "spec.rules[1].direction", "intent-field-missing"),
    ]
    said = [str(fault) for each in read(text, "f.yaml") for fault in each.faults]
    assert said[0] == (
        "f.yaml:9: document 2: metadata.nmae: there is no such field; did you mean name? [intent-field-unknown]"
    )
    assert "one of ingress, egress" in said[2]


def test_lines_of_fields_and_of_what_is_around_them() -> None:
    first, second = "  - direction: ingress\n    ethertype: ipv4\n", "  -\n    direction: egress\n    ethertype: ipv6\n"
    found = only(f"{GROUP}  rules:\n{first}{second}")
    lines = {"spec.rules[0]": 6, "spec.rules[1].ethertype": 10, "spec.rules[1].port": 9}
    assert {field: found.line(field) for field in lines} == lines
    assert (found.line("nowhere"), found.place.line) == (1, 1)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("apiVersion: hitless/v2\nkind: Thing\n", "intent-version"),
        ("apiVersion: hitless/v1\nkind: Prot\n", "intent-kind"),
        ("apiVersion: hitless/v1\n", "intent-kind"),
        ("kind: Network\nmetadata: {name: n}\n", "intent-field-missing"),
        ("kind: [Network]\n", "intent-kind"),
        ("- apiVersion: hitless/v1\n", "intent-value"),
        ("just words\n", "intent-value"),
        ("a: [\n", "intent-not-yaml"),
        ("a: b: c\n", "intent-not-yaml"),
        ("a: *nobody\n", "intent-not-yaml"),
        ("? [a]\n: b\n", "intent-not-yaml"),
        ("a: \x01\n", "intent-not-yaml"),
        ("a: \ud800\n", "intent-not-yaml"),
        ("a: !!binary aGk=\n", "intent-tag"),
        ("!!python/object/apply:os.system [id]\n", "intent-tag"),
        ("a: !mine b\n", "intent-tag"),
        ("[" * 100_000, "intent-too-deep"),
        ("- " * 100_000, "intent-too-deep"),
        ("", "intent-file-empty"),
        ("# nothing yet\n---\n---\n", "intent-file-empty"),
        ("#" * (TEXT_LIMIT + 1), "intent-too-long"),
    ],
)
@pytest.mark.parametrize("loader", [nodes._LOADER, yaml.SafeLoader], ids=["found", "python"])
def test_texts_that_are_refused(text: str, code: str, loader: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "_LOADER", loader)
    assert [found[-1] for found in faults(text)] == [code]


def test_documents_before_a_break_are_kept() -> None:
    good = "apiVersion: hitless/v1\nkind: Network\nmetadata: {name: front}\n"
    found = read(f"{good}---\n{good.replace('front', 'back')}---\na: [\n", "f.yaml")
    assert [(each.kind, each.name) for each in found] == [("Network", "front"), ("Network", "back"), ("", "")]
    assert found[-1].faults[0].document == 3


def test_a_faulty_document_keeps_kind_and_name() -> None:
    found = only(GROUP + "  rulez: []\n")
    assert (found.kind, found.name, found.spec) == ("SecurityGroup", "web", None)


# --- aliases ----------------------------------------------------------------------------------------------


def test_an_alias_is_what_it_stands_for() -> None:
    spec = port_of(PORT + "  mac: &m aa:bb:cc:dd:ee:ff\n  allowedAddressPairs:\n  - {prefix: 10.0.0.9, mac: *m}\n")
    assert spec.allowed_address_pairs[0].mac == "aa:bb:cc:dd:ee:ff"


def test_an_anchor_is_of_its_document() -> None:
    text = "apiVersion: hitless/v1\nkind: Network\nmetadata: {name: &n front}\n"
    assert faults(f"{text}---\nkind: *n\n") == [(2, 5, "file", "intent-not-yaml")]


def test_a_billion_laughs_are_a_wrong_type() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    text = "\n".join([*lines, "apiVersion: hitless/v1", "kind: Port", "metadata: {name: p}", "spec: {groups: *a11}"])
    assert {code for *_, code in faults(text)} == {"intent-field-unknown", "intent-value", "intent-field-missing"}


def test_an_alias_to_itself_is_a_wrong_type() -> None:
    assert {code for *_, code in faults(GROUP + "  rules: &r [*r, *r]\n")} == {"intent-value"}


@given(st.text(alphabet="ab:-[]{}&*!?|>'\"%@#, \n\t0.", max_size=60))
def test_no_text_raises(text: str) -> None:
    assert all(each.faults or each.spec is not None for each in read(text, "f.yaml"))


@given(st.dictionaries(st.sampled_from(["apiVersion", "kind", "metadata", "spec", "x"]), st.text(max_size=8)))
def test_no_json_raises(value: dict[str, str]) -> None:
    text = json.dumps(value)
    assert all(each.faults for each in read(text, "f.json"))


# --- files ------------------------------------------------------------------------------------------------


def test_a_directory_is_read_in_name_order_and_only_its_documents() -> None:
    found = firewall_files.read(EXAMPLES)
    files = [Path(each.place.file).stem for each in found]
    assert files == ["groups"] * 3 + ["networks"] * 2 + ["ports"] * 5
    assert not [each.faults for each in found if each.faults]


def test_what_else_lies_in_a_directory_is_left_alone(tmp_path: Path) -> None:
    good = "apiVersion: hitless/v1\nkind: Network\nmetadata: {name: NAME}\n"
    for file in ("b.yml", "a.yaml", ".hidden.yaml", "c.json", "notes.txt", "a.yaml~"):
        (tmp_path / file).write_text(good.replace("NAME", file))
    value = {"apiVersion": "hitless/v1", "kind": "Network", "metadata": {"name": "c.json"}}
    (tmp_path / "c.json").write_text(json.dumps(value, indent="\t"))
    (tmp_path / "d.yaml").mkdir()
    assert [each.name for each in firewall_files.read(tmp_path)] == ["a.yaml", "b.yml", "c.json"]


@pytest.mark.parametrize(
    ("prepare", "code"),
    [
        (lambda _: None, "intent-missing"),
        (lambda place: place.mkdir(), "intent-missing"),
        (lambda place: place.write_bytes(b"\xff\xfe"), "intent-not-text"),
        (lambda place: place.write_bytes(b" " * (TEXT_LIMIT + 1)), "intent-too-long"),
        (lambda place: place.write_text(""), "intent-file-empty"),
        (lambda place: place.symlink_to(place), "intent-unreadable"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, prepare: object, code: str) -> None:
    place = tmp_path / "intent.yaml"
    prepare(place)  # type: ignore[operator]
    (found,) = firewall_files.read(place)
    assert [fault.code for fault in found.faults] == [code]


def test_a_file_that_is_put_in_place_is_seen(tmp_path: Path) -> None:
    async def see() -> tuple[Document, ...]:
        changes = firewall_files.changes(tmp_path)
        await anext(changes)
        (tmp_path / ".new").write_text(GROUP + "  rules: []\n")
        (tmp_path / ".new").rename(tmp_path / "web.yaml")
        await asyncio.wait_for(anext(changes), LIMIT_SECONDS)
        await changes.aclose()  # type: ignore[attr-defined]
        return firewall_files.read(tmp_path)

    assert [each.name for each in asyncio.run(see())] == ["web"]
