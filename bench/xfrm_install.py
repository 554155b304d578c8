"""How long installing, listing and deleting ESP SAs takes, against `ip` in the same kernel and the same run.

Run it as root where the kernel has ESP, best in the lab's guest:

    python -m hitless.lab.kernel --kernel uml -- python bench/xfrm_install.py

Each round does everything once with the driver and once with iproute2, in alternating order, so that whatever else the
machine does hits both. Times are medians over the rounds; the ratio is that of the medians. `add` and `delete` are the
messages alone, encoded and answered, as `ip -batch` sends them. `apply add` and `apply delete` are what the agent does:
with the look before and the read-back after. `refused` adds what exists already and counts the outcomes mapped to
their operations. `first dump` and `dump` are listing and parsing, against `ip xfrm state` printing to /dev/null: the
first one in a process also pays for fresh memory (dear in User Mode Linux), the later ones are what an agent does that
looks every few seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from hitless.core.model.sa import Aead, Sa
from hitless.core.model.secret import Secret
from hitless.core.plan.ops import AddSa, DelSa
from hitless.drivers.xfrm.driver import XfrmDriver
from hitless.drivers.xfrm.kernel import Order
from hitless.drivers.xfrm.netlink import NetlinkKernel
from hitless.drivers.xfrm.socket import XfrmSocket

DST = "192.0.2.1"
COMMAND_SECONDS = 120.0
LATER_DUMPS = 2
# The driver's row, and iproute2's row it is measured against.
PAIRS = {"add": "ip add", "apply add": "ip add", "first dump": "ip dump", "dump": "ip dump", "delete": "ip delete",
         "apply delete": "ip delete", "refused": ""}  # fmt: skip
Times = dict[str, list[float]]


def make_sas(count: int) -> list[Sa]:
    return [
        Sa(f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}", DST, 0x01000000 + i, 0x68000000 + i, "tunnel",
           Aead("rfc4106(gcm(aes))", Secret(os.urandom(36)), 128))
        for i in range(1, count + 1)
    ]  # fmt: skip


def timed(times: Times, row: str, work: Callable[[], object]) -> object:
    before = time.perf_counter()
    result = work()
    times.setdefault(row, []).append(time.perf_counter() - before)
    return result


def with_driver(times: Times, sas: list[Sa]) -> None:
    adds = tuple(AddSa(sa) for sa in sas)
    deletes = tuple(DelSa(sa.key) for sa in sas)
    orders, del_orders = [Order(op) for op in adds], [Order(op) for op in deletes]
    socket = XfrmSocket()
    kernel = NetlinkKernel(socket)
    with XfrmDriver() as driver:
        timed(times, "add", lambda: kernel.write(orders))
        seen = timed(times, "first dump", driver.observe)
        assert len(seen.sas) == len(sas), "not every SA arrived"  # type: ignore[attr-defined]
        for _ in range(LATER_DUMPS):
            seen = None  # an agent keeps one look, not two
            seen = timed(times, "dump", driver.observe)
        outcomes = timed(times, "refused", lambda: driver.apply(adds))
        assert [o.error for o in outcomes] == ["exists"] * len(sas), "an error was not mapped"  # type: ignore[attr-defined]
        timed(times, "delete", lambda: kernel.write(del_orders))
        outcomes = timed(times, "apply add", lambda: driver.apply(adds))
        assert all(o.ok for o in outcomes), "an SA was refused or differs"  # type: ignore[attr-defined]
        outcomes = timed(times, "apply delete", lambda: driver.apply(deletes))
        assert all(o.ok for o in outcomes), "an SA could not be deleted"  # type: ignore[attr-defined]
        assert not driver.observe().sas
    socket.close()


def with_ip(times: Times, sas: list[Sa], directory: Path) -> None:
    add, delete = directory / "add", directory / "delete"
    add.write_text("".join(
        f"xfrm state add src {sa.src} dst {sa.dst} proto esp spi {sa.spi} reqid {sa.reqid} mode tunnel "
        f"aead {sa.crypto.name} 0x{sa.crypto.key.reveal().hex()} 128 flag esn flag af-unspec replay-window 1024\n"
        for sa in sas if isinstance(sa.crypto, Aead)
    ))  # fmt: skip
    delete.write_text("".join(f"xfrm state delete src {sa.src} dst {sa.dst} proto esp spi {sa.spi}\n" for sa in sas))
    timed(times, "ip add", lambda: ip("-batch", str(add)))
    for _ in range(LATER_DUMPS):
        timed(times, "ip dump", lambda: ip("xfrm", "state"))
    timed(times, "ip delete", lambda: ip("-batch", str(delete)))


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, stdout=subprocess.DEVNULL, timeout=COMMAND_SECONDS)


def measure(count: int, rounds: int) -> Times:
    sas = make_sas(count)
    times: Times = {}
    with tempfile.TemporaryDirectory() as name:
        for number in range(rounds):
            sides: list[Callable[[], None]] = [
                lambda: with_driver(times, sas), lambda: with_ip(times, sas, Path(name))
            ]  # fmt: skip
            for side in sides if number % 2 == 0 else reversed(sides):
                side()
    return times


def summary(times: Times) -> dict[str, dict[str, float | None]]:
    """Median seconds of each of the driver's rows, of its counterpart, and their ratio."""
    rows: dict[str, dict[str, float | None]] = {}
    for row, against in PAIRS.items():
        ours = statistics.median(times[row])
        theirs = statistics.median(times[against]) if against else None
        rows[row] = {"seconds": ours, "ip_seconds": theirs, "ratio": ours / theirs if theirs else None}
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description="time the XFRM driver against iproute2")
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 3240, 20000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    options = parser.parse_args()
    results = {count: summary(measure(count, options.rounds)) for count in options.counts}
    if options.output == "json":
        print(json.dumps({"kernel": os.uname().release, "rounds": options.rounds, "results": results}, indent=2))
        return 0
    print(f"Linux {os.uname().release}, {options.rounds} rounds, medians")
    print(f"{'SAs':>6} {'what':<13} {'driver ms':>10} {'ip ms':>10} {'ratio':>7} {'µs/SA':>7}")
    for count, rows in results.items():
        for row, values in rows.items():
            ours, theirs, ratio = values["seconds"] or 0.0, values["ip_seconds"], values["ratio"]
            print(f"{count:>6} {row:<13} {ours * 1000:>10.1f} {'' if theirs is None else f'{theirs * 1000:.1f}':>10} "
                  f"{'' if ratio is None else f'{ratio:.2f}':>7} {ours / count * 1e6:>7.1f}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
