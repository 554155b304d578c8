"""The virtual machine behind the same face: boots, has ESP and two CPUs, hands everything back.

One boot answers all of it: under emulation it takes some fifteen seconds. The first run on a machine downloads the
kernel (70 MB) into the cache.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from hitless.lab.kernel.image import Image
from hitless.lab.kernel.initramfs import build

_BOOT_SECONDS: Final = 300.0

_SCRIPT: Final = """
uname -r >"$0/release"
nproc >"$0/cpus"
echo 'xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1000 reqid 1 mode tunnel flag esn replay-window 1024 \
aead rfc4106(gcm(aes)) 0x0000000000000000000000000000000000000000 128' | ip -batch - && ip xfrm state count >"$0/count"
ip link add left type veth peer name right && tc qdisc add dev left root netem delay 1ms && echo ok >"$0/netem"
printf 'one\\r\\n\\000two'
echo trouble >&2
exit 7
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one run in QEMU left, with its status and output."""
    directory = tmp_path_factory.mktemp("results")
    done = subprocess.run(
        [sys.executable, "-m", "hitless.lab.kernel", "--kernel", "qemu", "--timeout", str(_BOOT_SECONDS),
         "--results", str(directory), "--", "sh", "-c", _SCRIPT, str(directory)],
        capture_output=True, check=False, timeout=2 * _BOOT_SECONDS,
    )  # fmt: skip
    (directory / "said").write_bytes(b"%d|%s|%s" % (done.returncode, done.stdout, done.stderr))
    return directory


def test_status_and_output_come_back(results: Path) -> None:
    assert (results / "said").read_bytes() == b"7|one\r\n\0two|trouble\n"


def test_it_is_another_kernel_with_two_cpus(results: Path) -> None:
    assert "amd64" in (results / "release").read_text()
    assert (results / "cpus").read_text() == "2\n"


def test_esp_and_netem_work(results: Path) -> None:
    assert "count 1" in (results / "count").read_text()
    assert (results / "netem").read_text() == "ok\n"


def test_nothing_large_stays(results: Path) -> None:
    assert not (results / ".guest" / "initramfs").exists()


def test_the_archive_is_one_that_cpio_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"12345")
    monkeypatch.setattr("hitless.lab.kernel.initramfs._needed", lambda _image: ())
    archive = build(Image(root=tmp_path, release="1"), busybox)
    names, at = [], 0
    while at < len(archive):
        fields = struct.unpack("6s" + "8s" * 13, archive[at : at + 110])
        assert fields[0] == b"070701"
        size, length = int(fields[7], 16), int(fields[12], 16)
        names.append(archive[at + 110 : at + 110 + length - 1].decode())
        at += 110 + length
        at += -at % 4
        if names[-1] == "bin/busybox":
            assert archive[at : at + size] == b"12345"
        at += size
        at += -at % 4
    assert names[-1] == "TRAILER!!!"
    assert {"bin/busybox", "init", "root"} <= set(names)
