"""The bridge from outside: what a scenario reads of it, and what strangers' hands do to it.

Everything is read with Open vSwitch's own tools, so an agent's claims are not what is judged. Flow-mods are counted
from the switch's announcements (`ovs-ofctl monitor watch:`, NXST_FLOW_MONITOR): one for each flow that is added,
changed or deleted, whoever did it; ours have our prefix in their cookie.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Final

from hitless.core.firewall.pipeline import COOKIE_PREFIX, INGRESS_RULES, RULES
from hitless.core.model.flow import Conjunction, Flow
from hitless.core.model.security import TIERS
from hitless.drivers.ovs.codec import format_key, parse_dump
from hitless.lab.firewall import marks
from hitless.lab.firewall.ground import FirewallGround
from hitless.lab.firewall.scenario import Tamper
from hitless.lab.kernel import LabError

FOREIGN: Final = 0xF0E1  # the cookie of another controller, and of a stranger's hand that does not use ours
_HAND: Final = (COOKIE_PREFIX << 48) | 0xBAD  # a stranger's hand that uses our prefix
_NOWHERE: Final = 65000  # an OpenFlow port that no port of a scenario has
_ID: Final = 0x7ABCDEF1
_ABOVE: Final = RULES + 3 * TIERS  # over every rule, and under what is decided before rules are asked
_START_SECONDS: Final = 10.0
_UNUSED_TABLE, _MARKER = 250, 0xF0E2  # of flows that only show that announcements have come so far

# Another controller on the same bridge: its own tables, and its own flows in ours and in the first one. They match
# what no station sends, so that what they would do does not matter, only whether they stay.
_FOREIGN_FLOWS: Final = (
    "table=0,priority=7,dl_type=0x88cc,actions=drop",
    f"table=0,priority=3,in_port={_NOWHERE},actions=resubmit(,40)",
    "table=40,priority=10,ip,nw_dst=198.51.100.0/24,actions=load:0x1->NXM_NX_REG0[],resubmit(,41)",
    "table=41,priority=10,reg0=1,actions=output:65000",
    "table=24,priority=2,arp,actions=drop",
    f"table=60,priority=150,in_port={_NOWHERE},actions=resubmit(,61)",
    f"table=71,priority=120,reg5={_NOWHERE},actions=drop",
    f"table={INGRESS_RULES},priority=70,reg5={_NOWHERE},tcp,tp_dst=22,ct_state=+trk,actions=resubmit(,92)",
    f"table=94,priority=20,reg5={_NOWHERE},actions=output:{_NOWHERE}",
)


class Announcements:
    """Counts what the switch announces about flows of ours, from construction to `close`, over its restarts."""

    def __init__(self, ground: FirewallGround, log: Path) -> None:
        self._ground, self._log = ground, log
        self._process: subprocess.Popen[bytes] | None = None
        self._offset = self._count = self._turns = 0
        self.listen()

    def listen(self) -> None:
        """Begin, or go on after a restart of the switch; on return changes are announced. LabError."""
        self.close()
        target = f"unix:{self._ground.switch.run_dir}/{self._ground.bridge}.mgmt"
        argv = ["ovs-ofctl", "-O", "OpenFlow10", "--no-names", "monitor", target, "watch:"]
        self._log.touch()
        self._offset = self._log.stat().st_size
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                             env=self._ground.switch.environment)  # fmt: skip
        # The first answer lists what is there already; its heading says that the switch listens.
        self._wait(b"NXST_FLOW_MONITOR reply")

    def count(self) -> int:
        """How many flows of ours were added, changed or deleted so far. LabError `no-announcements`."""
        # Announcements keep their order: when this one has come, all before it have.
        self._turns += 1
        table, cookie, last = f"table={_UNUSED_TABLE}", f"cookie={_MARKER:#x}", f"reg0={self._turns:#x}"
        self._ground.ofctl("add-flow", f"{cookie},{table},{last},actions=drop")
        self._ground.ofctl("del-flows", f"{cookie}/-1,{table},{last}")
        self._wait(f"event=DELETED reason=delete {table} {cookie} {last}\n".encode())
        return self._read()

    def _read(self) -> int:
        data = self._log.read_bytes()[self._offset :]
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        prefix = f"cookie={COOKIE_PREFIX:#x}".encode()
        events = (b"event=ADDED", b"event=MODIFIED", b"event=DELETED")
        self._count += sum(prefix in line and any(event in line for event in events) for line in whole.splitlines())
        return self._count

    def _wait(self, words: bytes) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while words not in self._log.read_bytes()[self._offset :]:
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                raise LabError("no-announcements", f"the switch does not announce its flows; see {self._log}")
            time.sleep(0.005)

    def close(self) -> None:
        """End the process. No error where none runs."""
        process, self._process = self._process, None
        if process is not None:
            self._read()
            process.kill()
            process.wait()


class Bridge:
    """What is on a ground's bridge, and hands that change it."""

    def __init__(self, ground: FirewallGround) -> None:
        self._ground = ground

    def ours(self) -> frozenset[Flow]:
        return frozenset(flow for flow in self._flows() if flow.cookie >> 48 == COOKIE_PREFIX)

    def foreign(self) -> frozenset[Flow]:
        return frozenset(flow for flow in self._flows() if flow.cookie == FOREIGN)

    def _flows(self) -> tuple[Flow, ...]:
        return parse_dump(self._ground.ofctl("dump-flows", "--no-names", "--no-stats"))

    def orphans(self) -> int:
        """How many conjunctions, whoever made them, have no accept flow in their table."""
        flows = self._flows()
        accepted = {(flow.table, value) for flow in flows for field, value, _ in flow.match if field == "conj_id"}
        wanted = {(flow.table, each.id) for flow in flows for each in flow.actions if isinstance(each, Conjunction)}
        return len(wanted - accepted)

    @property
    def zones(self) -> tuple[int, ...]:
        """Conntrack zones of the bridge's networks, which are the tags that the agent remembers there."""
        said = self._ground.switch.vsctl("--if-exists", "get", "Bridge", self._ground.bridge,
                                         "external_ids:hitless-tags").strip().strip('"')  # fmt: skip
        return tuple(int(each.rpartition(":")[2]) for each in said.split(",") if each)

    def marked(self) -> int:
        """How many connections carry a mark."""
        return len(marks.marked(self._ground, self.zones)) if self.zones else 0

    def place_foreign(self) -> None:
        """Flows of another controller."""
        self._add(*(f"cookie={FOREIGN:#x},{flow}" for flow in _FOREIGN_FLOWS))

    def tamper(self, deed: Tamper) -> None:
        """What somebody's hand does. LabError `nothing-to-delete`."""
        if deed.deed == "delete-accept":
            self._delete_accept()
            return
        cookie = f"cookie={_HAND if deed.whose == 'ours' else FOREIGN:#x}"
        head = f"{cookie},table={INGRESS_RULES},priority={_ABOVE}"
        met = f"ct_state=+trk,ip,reg5={self._ground.ofports()[deed.port]}"
        if deed.deed == "id-zero":
            self._add(f"{head},conj_id=0,{met},actions=resubmit(,92)")
            return
        self._add(
            f"{head},{met},actions=conjunction({_ID},1/2)",
            f"{head},ct_state=+trk,ip,nw_src=10.20.0.0/16,actions=conjunction({_ID},2/2)",
        )

    def undo(self) -> None:
        """Take out what has a foreign cookie."""
        self._ground.ofctl("del-flows", f"cookie={FOREIGN:#x}/-1")

    def _delete_accept(self) -> None:
        accepts = [flow for flow in self.ours() if any(field == "conj_id" for field, _, _ in flow.match)]
        if not accepts:
            raise LabError("nothing-to-delete", "our tables have no accept flow; the agent has not written them yet")
        self._add(*(f"delete_strict {format_key(flow)}" for flow in accepts))

    def _add(self, *flows: str) -> None:
        self._ground.ofctl("add-flows", "-", stdin="\n".join(flows) + "\n")
