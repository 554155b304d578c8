"""`hitless explore` as a person meets it: verdicts and exit statuses, stories and pictures, and words for mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Final

import msgspec
import pytest

from hitless.core.verify.promela import Promela, to_promela
from hitless.core.verify.scopes import SHIPPED

LIMIT_SECONDS: Final = 120.0
MISTAKES: Final = {
    "--order advertise-first": "decryptable",
    "--cleanup timer": "decryptable",
    "--absent delete": "decryptable",
    "--select min-spi": "decryptable",
    "--rebirth same-key": "no key reuse",
}


def explored(place: Path, words: str, wanted: int) -> subprocess.CompletedProcess[str]:
    """Run `hitless explore` in a directory; its exit status is as wanted, and nobody sees a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "hitless", "explore", *words.split()],
        cwd=place,
        env={**os.environ, "COLUMNS": "120", "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert "Traceback" not in done.stderr + done.stdout
    assert done.returncode == wanted, (done.stdout, done.stderr)
    return done


def test_a_rotation_is_proved_and_what_was_covered_is_said(tmp_path: Path) -> None:
    said = explored(tmp_path, "--rotations 1", 0).stdout
    assert "2 nodes, 1 rotation, no fault" in said
    assert "proved in all 517 states: decryptable, no key reuse, sound, no wedge" in said
    assert "  an old key is deleted\n" in said


def test_faults_are_named_and_seen_to_happen(tmp_path: Path) -> None:
    found = json.loads(explored(tmp_path, "--rotations 0 --faults all -o json", 0).stdout)
    assert found["verdict"] == "proved"
    assert found["counterexample"] is None
    (scope,) = found["scopes"]
    faults = ("crash", "reboot", "vanish", "move", "wipe", "delete", "remove")
    assert {f"all is well after a {each}" for each in faults} <= set(scope["seen"])
    assert scope["transitions"] > scope["states"] > scope["depth"] > 0


def test_faults_may_come_together(tmp_path: Path) -> None:
    one, two = (
        json.loads(explored(tmp_path, f"--rotations 0 --faults reboot,crash --together {each} -o json", 0).stdout)
        for each in (1, 2)
    )
    assert one["scopes"][0]["states"] < two["scopes"][0]["states"]


@pytest.mark.parametrize(("mistake", "broken"), MISTAKES.items())
def test_every_historic_mistake_is_refuted_with_a_story(mistake: str, broken: str, tmp_path: Path) -> None:
    said = explored(tmp_path, mistake, 4).stdout
    assert f"refuted: '{broken}' does not hold" in said
    story = said.split("does not hold\n\n")[1].splitlines()
    assert story[0].split() == ["n1", "store", "n2"]
    numbers = [line.split(". ")[0].split()[-1] for line in story[1:-1]]
    assert numbers == [str(each + 1) for each in range(len(numbers))]
    assert story[-1].startswith(f"=> {broken}: ")


def test_a_counterexample_is_json_and_a_picture(tmp_path: Path) -> None:
    found = json.loads(explored(tmp_path, "--cleanup timer --svg broken.svg -o json", 4).stdout)
    assert found["verdict"] == "refuted"
    told = found["counterexample"]
    assert told["story"][-1] == f"=> decryptable: {told['drawn']['verdict'].split(': ', 1)[1]}"
    assert len(told["drawn"]["rows"]) == len(told["story"]) - 1
    words = {each.text for each in ET.parse(tmp_path / "broken.svg").iter() if each.tag.endswith("}text")}  # noqa: S314
    assert set(told["story"]) <= words


def test_what_holds_is_not_drawn(tmp_path: Path) -> None:
    assert "nothing to draw" in explored(tmp_path, "--join --svg none.svg", 0).stderr
    assert not (tmp_path / "none.svg").exists()


def test_too_many_states_are_no_verdict(tmp_path: Path) -> None:
    done = explored(tmp_path, "--nodes 3 --limit 100", 7)
    assert "unknown: 3 nodes, 1 rotation, no fault: states_limit=100; nothing wrong in" in done.stdout
    assert done.stderr.endswith("raise --limit [too-many-states]\n")
    assert json.loads(explored(tmp_path, "--nodes 3 --limit 100 -o json", 7).stdout)["verdict"] == "unknown"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--faults crash,crahs", "there is no fault 'crahs'"),
        ("--faults refusal --rotations 0", "nothing is installed that could be refused"),
        ("--nodes 4", "--nodes"),
        ("--order sooner", "advertise-first"),
        ("--together 0", "--together"),
        ("--rotations 0", "nothing happens in this scope"),
        ("--join --promela model --svg broken.svg", "with --promela nothing is explored"),
    ],
)
def test_a_wrong_option_is_said_to_be_wrong(words: str, says: str, tmp_path: Path) -> None:
    assert says in explored(tmp_path, words, 2).stderr


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for words, status in (("--cleanup timer --svg file/broken.svg", 4), ("--join --promela file/model", 1)):
        assert explored(tmp_path, words, status).stderr.endswith("name another place [file-not-written]\n")
    assert "refuted: 'decryptable'" in explored(tmp_path, "--cleanup timer --svg file/broken.svg", 4).stdout


def test_a_scope_is_written_down_for_spin(tmp_path: Path) -> None:
    said = explored(tmp_path, "--join --promela model", 0).stdout
    written = to_promela(msgspec.structs.replace(SHIPPED["join"], together=1))
    assert isinstance(written, Promela)
    assert f"{written.counted.states} states and {written.counted.edges} transitions" in said
    assert (tmp_path / "model/handover.pml").read_text(encoding="utf-8") == written.model
    assert (tmp_path / "model/handover.h").read_text(encoding="utf-8") == written.tables
    assert "unknown: states_limit=9;" in explored(tmp_path, "--join --limit 9 --promela model", 7).stdout
