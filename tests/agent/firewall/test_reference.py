"""The documents say what the firewall agent does: its fields, its log events, its configurations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hitless.agent.firewall.config import STEPS, Config, LabConfig, load
from hitless.core.model.condition import REGISTRY

ROOT = Path(__file__).parents[3]
SOURCES = sorted((ROOT / "src/hitless/agent/firewall").glob("*.py"))


def firewall_part(name: str) -> str:
    return (ROOT / "docs/reference" / name).read_text(encoding="utf-8").partition("\n## Firewall\n")[2]


def row(text: str, first_cell: str) -> str:
    rows = (line for line in text.splitlines() if line.startswith(f"| `{first_cell}` |"))
    return next(rows, "")


def fields() -> Iterator[tuple[str, Any]]:
    for field in msgspec.structs.fields(Config):
        if field.name not in {"lab", "store"}:
            yield field.name, field
    for field in msgspec.structs.fields(LabConfig):
        yield f"lab.{field.name}", field


@pytest.mark.parametrize(("name", "field"), list(fields()))
def test_every_field_is_in_the_reference_with_its_default(name: str, field: Any) -> None:
    default = row(firewall_part("config.md"), name).split("|")[3]
    if field.required:
        assert "required" in default
    elif field.default in ("", ()):
        assert "empty" in default or "none" in default
    else:
        assert f"`{field.default}`" in default


def test_every_step_is_in_the_reference() -> None:
    text = row(firewall_part("config.md"), "lab.crash_at")
    assert not [step for step in STEPS if f"`{step}`" not in text]


def test_every_log_event_is_in_the_reference() -> None:
    source = "".join(file.read_text(encoding="utf-8") for file in SOURCES)
    events = set(re.findall(r'log\.(?:info|warning|error)\(\s*"([a-z-]+)"', source))
    assert len(events) >= 12
    text = (ROOT / "docs/reference/log-events.md").read_text(encoding="utf-8")
    assert not sorted(each for each in events if not row(text, each))


def test_every_condition_that_the_agent_names_is_registered() -> None:
    source = "".join(file.read_text(encoding="utf-8") for file in SOURCES)
    named = set(re.findall(r'"((?:intent|switch|bundle|tag|uplink|orphan|conj|plan)-[a-z-]+)"', source))
    assert {"intent-incomplete", "bundle-refused", "orphan-conjunction"} <= named
    assert named - REGISTRY.keys() == {"intent-adopted", "switch-restarted"}


def test_the_guides_configurations_are_good(tmp_path: Path) -> None:
    guide = (ROOT / "docs/guide/firewall.md").read_text(encoding="utf-8")
    found = re.findall(r"^```\n(node = .*?)^```$", guide, re.MULTILINE | re.DOTALL)
    assert found
    for text in found:
        file = tmp_path / "firewall.toml"
        file.write_text(text, encoding="utf-8")
        assert load(file).node


def test_the_guides_documents_are_good() -> None:
    from hitless.core.firewall.documents import read
    from hitless.core.firewall.intent import intent

    guide = (ROOT / "docs/guide/firewall.md").read_text(encoding="utf-8")
    found = re.findall(r"^```yaml\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    assert [list(intent(read(text, "firewall.md")).ports) for text in found] == [["web-1"]]
