"""The documents say what the code does: every field, command, option, event and verb has its place in a page.

What is asked is that a name stands there at all. That what is said of it is right is for people to review.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

import msgspec
import pytest
import typer.main

from hitless.agent import config
from hitless.cli.main import app
from hitless.core.ipsec import keyfile
from hitless.core.model.node import KeyRecord, NodeRecord, Progress, Tombstone
from hitless.lab import grammar, scenarios
from hitless.lab.firewall import grammar as firewall_grammar
from hitless.lab.firewall import scenario as firewall_scenario
from hitless.lab.firewall.report import FirewallReport
from hitless.lab.report import Report
from hitless.lab.scenario import CRASH_POINTS
from hitless.lab.verbs import VERBS

ROOT: Final = Path(__file__).parents[2]
GUIDES: Final = tuple(sorted((ROOT / "docs/guide").glob("*.md")))
EXAMPLES: Final = tuple(sorted((ROOT / "examples").glob("*.toml")))
AGENT: Final = tuple(sorted((ROOT / "src/hitless/agent").glob("*.py")))


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def row(text: str, first_cell: str) -> str:
    """The table row whose first cell has this word in backquotes, "" where there is none."""
    rows = (line for line in text.splitlines() if line.startswith("|"))
    return next((line for line in rows if f"`{first_cell}`" in line.split("|")[1]), "")


# --- configuration ----------------------------------------------------------------------------------------


def fields(kind: type[msgspec.Struct], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in msgspec.structs.fields(kind):
        tables = [each for each in (get_args(field.type) or (field.type,)) if isinstance(each, type)]
        if tables and all(issubclass(each, msgspec.Struct) for each in tables):
            for each in tables:
                yield from fields(each, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field


def shown(value: Any) -> str:
    """A default as the page writes it."""
    match value:
        case bool():
            return str(value).lower()
        case "" | ():
            return ""
        case _:
            return str(value)


@pytest.mark.parametrize(("name", "field"), list(fields(config.Config)))
def test_every_configuration_field_is_in_the_reference_with_its_default(name: str, field: Any) -> None:
    found = row(page("reference/config.md"), name)
    assert found, f"docs/reference/config.md has no row for `{name}`"
    default = found.split("|")[3]
    if field.required:
        assert "required" in default
    elif name == "ipsec.reqid_base":
        assert f"{field.default:#x}" in default
    elif shown(field.default):
        assert f"`{shown(field.default)}`" in default
    else:
        assert "none" in default or "empty" in default


def test_every_error_code_of_a_configuration_is_in_the_reference() -> None:
    code = "".join((ROOT / "src/hitless" / each).read_text() for each in ("agent/config.py", "cli/agent.py"))
    codes = set(re.findall(r'"((?:config|replay)-[a-z-]+)"', code))
    assert len(codes) >= 4
    assert not [each for each in codes if not row(page("reference/config.md"), each)]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_configurations_in_the_guides_are_good(guide: Path, tmp_path: Path) -> None:
    for number, text in enumerate(blocks(guide.read_text(encoding="utf-8"), "toml")):
        file = tmp_path / f"{number}.toml"
        file.write_text(text, encoding="utf-8")
        config.load(file)


def test_the_guides_have_configurations_to_check() -> None:
    assert sum(len(blocks(guide.read_text(encoding="utf-8"), "toml")) for guide in GUIDES) >= 3


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_good(example: Path) -> None:
    assert config.load(example).node


def test_there_are_examples() -> None:
    assert EXAMPLES


# --- commands ---------------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its full name."""
    waiting: list[tuple[str, Any]] = [("hitless", typer.main.get_command(app))]
    while waiting:
        name, command = waiting.pop()
        below: dict[str, Any] = getattr(command, "commands", {})
        waiting.extend((f"{name} {each}", below[each]) for each in below)
        if not below:
            yield name, command


def section(name: str) -> str:
    """The page's section about a command, to the next heading."""
    found = re.search(rf"^## {re.escape(name)}$(.*?)(?=^## |\Z)", page("reference/cli.md"), re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_every_command_and_option_is_in_the_reference(name: str, command: Any) -> None:
    text = section(name)
    assert text, f"docs/reference/cli.md has no section `## {name}`"
    options = [option for parameter in command.params for option in parameter.opts if option.startswith("-")]
    assert not [option for option in options if option != "--help" and f"`{option}`" not in text]


def test_the_reference_has_no_command_that_is_gone() -> None:
    there = {name for name, _ in commands()}
    assert set(re.findall(r"^## (hitless .+)$", page("reference/cli.md"), re.MULTILINE)) == there


# --- what the agent says ----------------------------------------------------------------------------------


def events() -> set[str]:
    """Names of log events: literals handed to a logger, and those handed on under the name of their event."""
    source = "".join(file.read_text(encoding="utf-8") for file in AGENT)
    said = set(re.findall(r'\.(?:info|warning|error|critical)\(\s*"([a-z]+(?:-[a-z]+)*)"', source))
    return said | set(re.findall(r'_tell_old\("([a-z-]+)"', source)) | {"in-installed", "out-installed"}


def test_every_log_event_is_in_the_reference() -> None:
    assert len(events()) > 15
    missing = sorted(each for each in events() if not row(page("reference/log-events.md"), each))
    assert not missing, f"docs/reference/log-events.md has no row for {missing}"


def test_every_code_of_a_key_fault_is_in_the_reference() -> None:
    sources = (Path(keyfile.__file__), ROOT / "src/hitless/agent/keys.py", ROOT / "src/hitless/cli/key.py")
    source = "".join(file.read_text(encoding="utf-8") for file in sources)
    codes = set(re.findall(r'"(key-[a-z-]+)"', source))
    assert len(codes) > 10
    assert not [each for each in codes if not row(page("reference/keyfile.md"), each)]


def test_every_code_of_a_kernel_refusal_is_in_the_reference() -> None:
    folder = ROOT / "src/hitless/drivers"
    source = "".join(file.read_text(encoding="utf-8") for file in folder.rglob("*.py"))
    codes = set(re.findall(r'Outcome\([a-z_.\[\]]+, "([a-z-]+)"', source))
    assert {"foreign", "injected"} <= codes
    assert not [each for each in codes if not row(page("reference/log-events.md"), each)]


# --- values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "heading"),
    [(NodeRecord, "Node record"), (KeyRecord, "Key record"), (Progress, "Progress record"), (Tombstone, "Tombstone")],
)
def test_records_in_the_reference_are_records(kind: type[msgspec.Struct], heading: str) -> None:
    text = page("reference/store-layout.md").split(f"## {heading}\n")[1].split("\n## ")[0]
    example = blocks(text, "json")[0]
    assert msgspec.json.encode(msgspec.json.decode(example, type=kind)) == msgspec.json.encode(
        msgspec.json.decode(example)
    )


@pytest.mark.parametrize("report", [Report, FirewallReport])
def test_every_field_of_a_report_is_in_the_reference(report: type[msgspec.Struct]) -> None:
    text = page("reference/report.md")
    text = text.split("## Of the firewall")[report is FirewallReport]
    assert not [field.name for field in msgspec.structs.fields(report) if not row(text, field.name)]


# --- the lab ----------------------------------------------------------------------------------------------


def test_every_verb_header_and_step_of_the_scenario_language_is_in_the_guide() -> None:
    text = page("guide/lab.md").replace("\\|", "|")
    usages = [usage for verb in VERBS.values() for usage in verb.usage.split(" | ")]
    usages += [usage for usage, _ in grammar.HEADER.values()]
    assert not [usage for usage in (*usages, *CRASH_POINTS) if f"`{usage}`" not in text]


def test_every_word_of_the_firewalls_scenarios_is_in_the_reference() -> None:
    text = page("reference/firewall-scenarios.md").replace("\\|", "|")
    usages = [usage for verb in firewall_grammar.VERBS.values() for usage in verb.usage.split(" | ")]
    usages += [usage for usage, _ in firewall_grammar.HEADER.values()]
    assert not [usage for usage in (*usages, *firewall_scenario.STEPS) if f"`{usage}`" not in text]
    for name in (*firewall_scenario.NUMBERS, *firewall_scenario.COUNTED):
        assert f"`{name} " in text
    example = next(each for each in blocks(text, "") if "\n---\n" in each)
    assert firewall_grammar.parse(example, source="firewall-scenarios.md", name="reference").steps


def test_the_scenario_in_the_guide_can_be_read() -> None:
    texts = [text for text in blocks(page("guide/lab.md"), "") if "\n---\n" in text]
    assert texts
    for text in texts:
        assert grammar.parse(text, source="lab.md", name="guide").steps


def test_scenarios_that_documents_name_are_there() -> None:
    text = "".join(file.read_text(encoding="utf-8") for file in (*GUIDES, *(ROOT / "docs/design").glob("*.md")))
    named = set(re.findall(r"lab (?:run|show) ([a-z][a-z-]+)", text))
    assert named
    assert named <= {*scenarios.names(), *scenarios.firewall_names()}


# --- the whole --------------------------------------------------------------------------------------------


def test_every_decision_is_in_the_index() -> None:
    index = page("adr/README.md")
    files = [file.name for file in (ROOT / "docs/adr").glob("[0-9]*.md")]
    assert files
    assert not [name for name in files if f"({name})" not in index]


@pytest.mark.parametrize("link", sorted((ROOT / "docs").rglob("*.md")), ids=lambda path: path.name)
def test_links_to_headings_lead_to_one(link: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", link.read_text(encoding="utf-8")):
        there = (link.parent / target).read_text(encoding="utf-8") if target else link.read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.+)$", there, re.MULTILINE)
        slugs = {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
        assert anchor in slugs, (target, anchor)
