"""The firewall agent's configuration: what is good, and what is refused with file and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from hitless.agent.config import ConfigError
from hitless.agent.firewall.config import load

GOOD = 'node = "n1"\nbridge = "br-int"\nintent = "/etc/hitless/firewall"\n'
FROM_STORE = 'node = "n1"\nbridge = "br-int"\ncluster = "demo"\n[store]\npath = "x.db"\n'


def test_good_ones(tmp_path: Path) -> None:
    file = tmp_path / "firewall.toml"
    file.write_text(GOOD)
    assert load(file).intent == "/etc/hitless/firewall"
    file.write_text(FROM_STORE)
    assert load(file).cluster == "demo"


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (GOOD + "tyop = 1\n", "top level"),
        (GOOD.replace("n1", "-"), "node"),
        (GOOD.replace("br-int", ""), "bridge"),
        (GOOD.replace("/etc/hitless/firewall", ""), "cluster"),
        (GOOD + 'cluster = "demo"\n', "intent"),
        (GOOD + '[store]\npath = "x"\n', "intent"),
        (GOOD + 'state_dir = ""\n', "state_dir"),
        (GOOD + 'uplinks = ["a", "a"]\n', "uplinks"),
        (GOOD + "resync_seconds = 0\n", "resync_seconds"),
        (GOOD + "restore_seconds = 0.5\n", "restore_seconds"),
        (GOOD + '[lab]\nids = "fresh"\n', "lab.ids"),
        (GOOD + '[lab]\ncrash_at = "nowhere"\n', "lab.crash_at"),
        (GOOD + "[lab]\ncrash_after_batches = -1\n", "lab.crash_after_batches"),
        (GOOD + '[lab]\nwrite = "slowly"\n', "lab.write"),
        ("node = \n", "file"),
    ],
)
def test_bad_ones_name_the_field(tmp_path: Path, content: str, field: str) -> None:
    file = tmp_path / "firewall.toml"
    file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value).startswith(f"{file}: {field}: ")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "nothing.toml")
    assert caught.value.code == "config-unreadable"
