"""Dependencies point one way, the core is pure, and the linter that says so bites."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 120


def lint(project: Path) -> subprocess.CompletedProcess[str]:
    """`lint-imports` on the tree in `project`, which hides the installed one."""
    program = Path(sys.executable).with_name("lint-imports")
    command = [str(program), "--config", "pyproject.toml", "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(project / "src"), "NO_COLOR": "1"}
    return subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_contracts_are_kept(copy: Path) -> None:
    found = lint(copy)
    assert found.returncode == 0, found.stdout
    contracts = tomllib.loads((copy / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert f"{len(contracts)} kept, 0 broken" in found.stdout


@pytest.mark.parametrize(
    ("module", "planted", "broken"),
    [
        ("core/plan/backoff.py", "import time", "the core is pure"),
        ("core/plan/backoff.py", "from hitless.agent import loop", "dependencies point one way"),
        ("core/model/secret.py", "from hitless.core.ipsec import derive", "inside the core"),
    ],
)
def test_a_planted_violation_is_reported(copy: Path, module: str, planted: str, broken: str) -> None:
    file = copy / "src" / "hitless" / module
    file.write_text(f"{file.read_text()}\n{planted}\n")
    found = lint(copy)
    assert found.returncode == 1
    assert f"{broken} BROKEN" in found.stdout
