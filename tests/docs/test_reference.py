"""Reference pages that are made from the code are what the code says. `pytest --regenerate` writes them anew."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hitless.core.model.condition import REGISTRY

ROOT = Path(__file__).parents[2]
CONDITIONS = ROOT / "docs/reference/conditions.md"


def conditions_page() -> str:
    lines = [
        "# Conditions and codes",
        "",
        "One code, the same in logs, in `hitless status`, in JSON and here. Made from `core/model/condition.py`.",
        "",
    ]
    for each in REGISTRY.values():
        worth = f", worth attention after {each.hide_seconds:g} s" if each.hide_seconds else ""
        lines += [f"## {each.code}", "", f"*{each.title}* ({each.severity}{worth}).", "", each.text, ""]
    return "\n".join(lines)


def test_conditions_page_is_what_the_registry_says(pytestconfig: pytest.Config) -> None:
    page = conditions_page()
    if pytestconfig.getoption("--regenerate"):
        CONDITIONS.write_text(page)
    assert CONDITIONS.read_text() == page


def test_every_reason_that_the_protocol_gives_is_registered() -> None:
    source = "".join(
        (ROOT / "src/hitless" / name).read_text()
        for name in ("core/ipsec/watermarks.py", "core/ipsec/handover.py", "agent/node.py", "core/ipsec/keyring.py")
    )
    codes = set(re.findall(r'"([a-z]+(?:-[a-z]+)+)"', source)) - {"advertise-first"}
    assert codes >= {"peer-not-ready", "key-missing", "sa-vanished"}
    unknown = {code for code in codes if code not in REGISTRY}
    assert unknown <= {"registered", "register-failed"}, unknown


def test_relative_links_in_documents_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    links = [(page, target) for page in pages for target in re.findall(r"\]\(([^)#\s]+)", page.read_text())]
    assert not [
        f"{page.relative_to(ROOT)}: {target}"
        for page, target in links
        if "://" not in target and not (page.parent / target).exists()
    ]
