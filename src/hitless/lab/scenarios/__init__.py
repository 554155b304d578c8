"""The scenarios that come with the program, as text files, and how one is found by name or path."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from hitless.lab import grammar
from hitless.lab.scenario import Scenario, ScenarioError

_HERE = resources.files(__name__)


def names() -> tuple[str, ...]:
    """Names of all scenarios of nodes that come with the program, sorted."""
    return _names(_HERE)


def firewall_names() -> tuple[str, ...]:
    """Names of all scenarios of the firewall that come with the program, sorted."""
    return _names(_HERE / "firewall")


def _names(place: Traversable) -> tuple[str, ...]:
    return tuple(sorted(file.name.removesuffix(".txt") for file in place.iterdir() if file.name.endswith(".txt")))


def text(name: str) -> str:
    """The text of a scenario that comes with the program. Raises ScenarioError `scenario-unknown`."""
    for place in (_HERE, _HERE / "firewall"):
        if name in _names(place):
            return place.joinpath(f"{name}.txt").read_text(encoding="utf-8")
    there = ", ".join((*names(), *firewall_names()))
    raise ScenarioError(
        "scenario-unknown", name, 0,
        f"no scenario of that name comes with the program, and no file is named; there are: {there}",
    )  # fmt: skip


def find(name_or_path: str) -> Scenario:
    """A scenario by its name, or from a file where the word has a slash or ends in `.txt`. Raises ScenarioError."""
    if "/" in name_or_path or name_or_path.endswith(".txt"):
        return grammar.load(Path(name_or_path))
    return grammar.parse(text(name_or_path), source=f"{name_or_path}.txt", name=name_or_path)
