"""The lab's guest kernel: what goes in comes out, ESP and netem are there, and nothing stays behind.

One guest run serves all questions about what the kernel can do: a boot takes seconds. Endings are tested with User
Mode Linux and with the host's kernel in namespaces, which needs no ESP for that.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast

import pytest

from hitless.lab.kernel import TIMED_OUT, LabError, Preference, choose, missing
from hitless.lab.kernel.__main__ import main
from hitless.lab.kernel.exchange import Exchange, command_text
from hitless.lab.kernel.host import HostKernel
from hitless.lab.kernel.qemu import QemuKernel
from hitless.lab.kernel.uml import UmlKernel

_BOOT_SECONDS: Final = 120.0  # generous: the machine may be busy; nothing here asserts a time
_REPORTED: Final = 60.0

_QUESTIONS: Final = r"""
import json, os, pathlib, socket, sqlite3, subprocess, sys
import msgspec, pyroute2
answers = {}
def ask(name, argv, stdin=""):
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True)
    answers[name] = "ok" if done.returncode == 0 else done.stderr or f"exit {done.returncode}"
def sa(spi, algorithm, family="192.0.2"):
    ask(algorithm.split(" 0x")[0] + f" {spi}", ["ip", "-batch", "-"],
        f"xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi {spi} reqid 1 mode tunnel flag esn "
        f"replay-window 1024 {algorithm}\n")
sa(4097, "aead rfc4106(gcm(aes)) 0x" + "11" * 20 + " 128")
sa(4098, "aead rfc4106(gcm(aes)) 0x" + "11" * 36 + " 128")
sa(4099, "aead rfc7539esp(chacha20,poly1305) 0x" + "11" * 36 + " 128")
sa(4100, "auth-trunc hmac(sha256) 0x" + "11" * 32 + " 128 enc cbc(aes) 0x" + "22" * 32)
ask("veth", ["ip", "link", "add", "left", "type", "veth", "peer", "name", "right"])
ask("netem", ["tc", "qdisc", "add", "dev", "left", "root", "netem", "delay", "10ms"])
ask("netns", ["ip", "netns", "add", "one"])
ask("lo", ["sh", "-c", "ip -o link show dev lo | grep -q LOWER_UP"])
with pyroute2.IPRoute() as route:
    answers["links"] = sorted({link.get("ifname") for link in route.get_links()} & {"left", "right"})
connection = sqlite3.connect("/tmp/a.db")
answers["wal"] = connection.execute("pragma journal_mode=wal").fetchone()[0]
connection.execute("create table t (a)"); connection.commit()
import watchfiles, threading
stop = threading.Event()
threading.Timer(0.2, lambda: pathlib.Path("/tmp/seen").write_text("x")).start()
for changes in watchfiles.watch("/tmp", stop_event=stop, rust_timeout=20000, force_polling=False):
    if any(path == "/tmp/seen" for _, path in changes):
        answers["inotify"] = "ok"
        break
answers["uid"] = os.getuid()
answers["cwd"] = os.getcwd()
answers["hostname"] = socket.gethostname()
answers["env"] = os.environ["QUOTED"]
pathlib.Path(sys.argv[1]).write_text(json.dumps(answers))
os.write(1, b"one\r\n\x00\xff two"); os.write(2, b"trouble\n")
sys.exit(7)
"""


class Run:
    """What one run in the guest left behind."""

    def __init__(self, status: int, stdout: bytes, stderr: bytes, answers: dict[str, object], results: Path) -> None:
        self.status = status
        self.stdout = stdout
        self.stderr = stderr
        self.answers = answers
        self.results = results


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The questions above, asked in User Mode Linux through the command-line face."""
    results = tmp_path_factory.mktemp("it's a $result")
    done = subprocess.run(
        [sys.executable, "-m", "hitless.lab.kernel", "--kernel", "uml", "--timeout", str(_BOOT_SECONDS),
         "--results", str(results), "--env", "QUOTED=it's \"$HOME\"\n*", "--",
         sys.executable, "-c", _QUESTIONS, str(results / "answers.json")],
        cwd=results.parent,  # usually below /tmp, which the guest replaces by its own
        capture_output=True, check=False, timeout=_BOOT_SECONDS + _REPORTED,
    )  # fmt: skip
    answers = results / "answers.json"
    assert answers.exists(), done.stderr.decode(errors="replace")
    return Run(done.returncode, done.stdout, done.stderr, json.loads(answers.read_text()), results)


def test_exit_status_comes_back(run: Run) -> None:
    assert run.status == 7


def test_output_is_exact_and_separate(run: Run) -> None:
    assert run.stdout == b"one\r\n\x00\xff two"
    assert run.stderr == b"trouble\n"


def test_console_noise_goes_to_a_file(run: Run) -> None:
    assert "Power down" in (run.results / "console.log").read_text(errors="replace")


@pytest.mark.parametrize(
    "capability",
    [
        "aead rfc4106(gcm(aes)) 4097",
        "aead rfc4106(gcm(aes)) 4098",
        "aead rfc7539esp(chacha20,poly1305) 4099",
        "auth-trunc hmac(sha256) 4100",
        "veth", "netem", "netns", "lo", "inotify",
    ],
)  # fmt: skip
def test_the_kernel_has(run: Run, capability: str) -> None:
    assert run.answers[capability] == "ok"


def test_python_and_netlink_work_inside(run: Run) -> None:
    assert run.answers["links"] == ["left", "right"]
    assert run.answers["wal"] == "wal"


def test_the_command_finds_its_place(run: Run) -> None:
    assert run.answers["uid"] == 0
    assert run.answers["cwd"] == str(run.results.parent)
    assert run.answers["hostname"] == "hitless-uml"
    assert run.answers["env"] == "it's \"$HOME\"\n*"


# --- endings ------------------------------------------------------------------------------------------


def _descendants(pid: int) -> set[int]:
    """All processes below `pid`, in whatever namespace."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    found: set[int] = set()
    new = {pid}
    while new:
        found |= new
        new = {child for child, parent in parents.items() if parent in new} - found
    return found - {pid}


def _alive(pids: set[int]) -> set[int]:
    """Those that still exist and are not zombies waiting for somebody else's init."""
    alive = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state not in "ZX":
            alive.add(pid)
    return alive


def _wait_until_gone(pids: set[int]) -> None:
    """Until the kernel has carried out the death signals; they are sent at once, yet not in our process."""
    deadline = time.monotonic() + _REPORTED
    while left := _alive(pids):
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)


@pytest.fixture(params=["uml", "host"])
def sleeper(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program whose guest has said `ready` and now sleeps for ever, with a background child of its own."""
    kernel = {"uml": "hitless.lab.kernel.uml:UmlKernel", "host": "hitless.lab.kernel.host:HostKernel"}[request.param]
    module, _, name = kernel.partition(":")
    program = (
        # A job in the background of a shell without job control inherits SIGINT as ignored: CI may be one.
        f"import signal, sys, {module} as m, pathlib\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"sys.exit(m.{name}().run(['sh', '-c', 'sleep 1000 & echo ready; sleep 1000'], "
        f"results=pathlib.Path(sys.argv[1]), env={{}}, timeout_seconds={_BOOT_SECONDS}))"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        readable, _, _ = select.select([process.stdout], [], [], _BOOT_SECONDS)
        assert readable
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_survives_our_own_death(sleeper: subprocess.Popen[bytes], number: signal.Signals) -> None:
    below = _descendants(sleeper.pid)
    assert len(below) >= 2  # unshare and the namespace's first process at least
    sleeper.send_signal(number)
    sleeper.wait(_REPORTED)
    _wait_until_gone(below)


# A guest gets the time to boot; namespaces need none.
@pytest.mark.parametrize(("kernel", "limit"), [(UmlKernel(), 3.0), (HostKernel(), 0.3)], ids=["uml", "host"])
def test_time_limit(kernel: UmlKernel | HostKernel, limit: float, tmp_path: Path) -> None:
    before = _descendants(os.getpid())
    status = kernel.run(["sh", "-c", "sleep 1000 & sleep 1000"], results=tmp_path, env={}, timeout_seconds=limit)
    assert status == TIMED_OUT
    assert _descendants(os.getpid()) <= before  # at once: `run` returns after the namespace is empty


def test_the_limit_is_not_mistaken_for_the_commands_own_124(tmp_path: Path) -> None:
    assert HostKernel().run(["sh", "-c", "exit 123"], results=tmp_path, env={}, timeout_seconds=30) == 123


def test_host_network_and_mounts_are_private(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = "ip netns add hitless-test && ip -br link | wc -l && cat /sys/class/net/lo/flags && ls /run/netns"
    status = HostKernel().run(["sh", "-c", script], results=tmp_path, env={}, timeout_seconds=30)
    assert (status, capfd.readouterr().out.split()) == (0, ["1", "0x9", "hitless-test"])
    assert not Path("/run/netns/hitless-test").exists()


def test_a_guest_that_dies_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"hitless-guest: cannot load the overlay module") as caught:
        UmlKernel(modules=tmp_path / "nowhere").run(["true"], results=tmp_path, env={}, timeout_seconds=60)
    assert caught.value.code == "guest-died"


# --- choosing -----------------------------------------------------------------------------------------


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(LabError, match="choose one of auto, host, uml, qemu") as caught:
        choose(cast("Preference", "hurd"))
    assert caught.value.code == "kernel-unknown"


@pytest.mark.parametrize(
    ("works", "preference", "kind"),
    [(True, "auto", HostKernel), (False, "auto", UmlKernel), (True, "uml", UmlKernel), (True, "host", HostKernel)],
)
def test_the_first_kernel_with_esp_is_chosen(
    monkeypatch: pytest.MonkeyPatch, works: bool, preference: Preference, kind: type
) -> None:
    monkeypatch.setattr("hitless.lab.kernel.choice.esp_works", lambda: works)
    assert isinstance(choose(preference), kind)


def test_without_uml_comes_qemu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hitless.lab.kernel.choice.esp_works", lambda: False)
    monkeypatch.setattr("hitless.lab.kernel.uml.installed", lambda: False)
    monkeypatch.setattr("hitless.lab.kernel.qemu.missing_packages", lambda: ())
    assert isinstance(choose(), QemuKernel)


@pytest.mark.parametrize("preference", ["auto", "uml"])
def test_a_missing_kernel_names_the_package(monkeypatch: pytest.MonkeyPatch, preference: Preference) -> None:
    monkeypatch.setattr("hitless.lab.kernel.choice.esp_works", lambda: False)
    monkeypatch.setattr("hitless.lab.kernel.uml.installed", lambda: False)
    monkeypatch.setattr("hitless.lab.kernel.qemu.missing_packages", lambda: ("qemu-system-x86",))
    with pytest.raises(LabError, match=r"apt-get install user-mode-linux") as caught:
        choose(preference)
    assert caught.value.code == "kernel-missing"
    assert missing() == ("user-mode-linux",)


def test_a_host_without_esp_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hitless.lab.kernel.choice.esp_works", lambda: False)
    with pytest.raises(LabError) as caught:
        choose("host")
    assert caught.value.code == "kernel-without-esp"


# --- the exchange -------------------------------------------------------------------------------------


def test_two_runs_cannot_share_a_directory(tmp_path: Path) -> None:
    with Exchange(tmp_path), pytest.raises(LabError) as caught, Exchange(tmp_path):
        pass
    assert caught.value.code == "results-in-use"


def test_a_path_no_kernel_takes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError) as caught:
        Exchange(tmp_path / 'a"b')
    assert caught.value.code == "results-path-unusable"


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LabError, match="Choose one that you may write to") as caught:
        Exchange(tmp_path / "file" / "results")
    assert caught.value.code == "results-path-unusable"


def test_the_command_line_reports_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["--kernel", "uml", "--results", str(tmp_path / "file"), "--", "true"]) == 125
    error = capsys.readouterr().err
    assert error.endswith("[results-path-unusable]\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize("item", ["NAME", "=value"])
def test_a_malformed_environment_is_a_usage_error(item: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--env", item, "--", "true"])
    assert caught.value.code == 2


@pytest.mark.parametrize("argv", [[], ["a\0b"]])
def test_a_command_no_kernel_takes_is_refused(argv: list[str]) -> None:
    with pytest.raises(ValueError, match="NUL"):
        command_text(argv, {})


def test_words_survive_the_shell(tmp_path: Path) -> None:
    words = ["it's", "$(id)", "a\nb", "", "*", "\\", "\udcff"]
    script = tmp_path / "command.sh"
    text = command_text([sys.executable, "-c", "import sys; print(ascii(sys.argv[1:]))", *words], {})
    script.write_text(text, encoding="utf-8", errors="surrogateescape")
    shell = shutil.which("sh")
    assert shell is not None
    done = subprocess.run([shell, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout == ascii(words) + "\n"
