"""What the program costs while nothing happens: an idle agent's memory, and the time to `hitless --help`.

Run as root (`unshare -n` keeps the agent's policies away from this machine's own): prints a table, or `-o json`.
Targets: resident memory of an idle agent at most 60 MB, `hitless --help` at most 150 ms (median).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HELP_RUNS = 11
SETTLE_SECONDS = 30.0
IDLE_SECONDS = 5.0


def help_milliseconds() -> list[float]:
    """Wall time of `hitless --help`, and of a bare interpreter, for comparison."""
    times = []
    for _ in range(HELP_RUNS):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "hitless", "--help"], check=True, capture_output=True)
        times.append((time.perf_counter() - began) * 1000)
    return times


def idle_agent() -> tuple[float, float]:
    """Resident memory in MB and CPU in percent of one settled agent."""
    with tempfile.TemporaryDirectory() as place:
        base = Path(place)
        (base / "keys").write_text(f"1 rfc4106(gcm(aes)) 0x{'5a' * 20} 128\n")
        (base / "node.toml").write_text(
            f'cluster = "bench"\nnode = "n1"\naddresses = ["192.0.2.1"]\nprefixes = ["10.1.1.0/24"]\n'
            f'keys = "{base}/keys"\nstate_dir = "{base}/state"\n[store]\npath = "{base}/store.db"\n'
        )
        command = ["unshare", "-n", sys.executable, "-m", "hitless", "agent", "--config", str(base / "node.toml")]
        with (base / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as agent:
            try:
                end = time.monotonic() + SETTLE_SECONDS
                while b'"settled"' not in (base / "log").read_bytes():
                    if time.monotonic() > end or agent.poll() is not None:
                        raise SystemExit((base / "log").read_text())
                    time.sleep(0.1)
                before = cpu_seconds(agent.pid)
                time.sleep(IDLE_SECONDS)
                cpu = (cpu_seconds(agent.pid) - before) / IDLE_SECONDS * 100
                status = Path(f"/proc/{agent.pid}/status").read_text()
                return int(status.split("VmRSS:")[1].split()[0]) / 1024, cpu
            finally:
                agent.terminate()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100  # USER_HZ, proc(5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    output = parser.parse_args().output
    helps = help_milliseconds()
    memory, cpu = idle_agent()
    found = {
        "help_ms_median": round(statistics.median(helps), 1),
        "help_ms_min": round(min(helps), 1),
        "agent_idle_rss_mb": round(memory, 1),
        "agent_idle_cpu_percent": round(cpu, 2),
    }
    if output == "json":
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:<24} {value:>8}")


if __name__ == "__main__":
    main()
