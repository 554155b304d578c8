"""A real `ovs-vswitchd`, asked by `ofproto/trace` what it does with packets: one connection, thousands of questions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from hitless.core.model.flow import EST, INV, NEW, REL, RPL, TRK, Flow, Match, exact
from hitless.core.model.security import ICMPV6
from hitless.core.verify.classifier import NORMAL, Commit, Sent, Step, Tracked, Trail
from hitless.core.verify.packet import Fields
from hitless.drivers.ovs.codec import format_flow
from hitless.drivers.ovs.terms import show_match
from hitless.drivers.ovs.tools import UnixCtl
from hitless.lab.ovs import PrivateSwitch

PORTS: Final = 9  # dummy ports 1 to 9
_SECONDS: Final = 20
_FLAGS: Final = {"new": NEW, "est": EST, "rel": REL, "rpl": RPL, "inv": INV, "trk": TRK}
_STEP: Final = re.compile(r"^ *(\d+)\. (?:No match|(?:.*, )?priority \d+(?:, cookie (0x[0-9a-f]+))?)", re.MULTILINE)
_ACTIONS: Final = re.compile(r"^Datapath actions: (.*)$", re.MULTILINE)
_TAGS: Final = re.compile(r"dl_vlan\d?=(\d+)")
_PIECE: Final = re.compile(r"[^,(]+(?:\([^()]*(?:\([^()]*\)[^()]*)*\))?")


class Traced(msgspec.Struct, frozen=True):
    """What the switch says: table and cookie of each look-up (0 on a miss), by pass; what it sends and commits."""

    passes: tuple[tuple[tuple[int, int], ...], ...]
    sent: tuple[Sent, ...]
    commits: tuple[Commit, ...]
    text: str

    def is_what(self, trail: Trail) -> bool:
        """Whether a trail says the same. NORMAL floods here, so then ports are not compared; a trail knows no ports."""
        ways = [len(each.steps) for each in trail.passes] == [len(each) for each in self.passes]
        theirs = [step for each in self.passes for step in each]
        if not ways or not all(map(could_be, trail.steps, theirs)) or self.commits != trail.commits:
            return False
        return NORMAL in trail.ports or self.sent == tuple(each for each in trail.sent if 0 < each.port <= PORTS)


def could_be(step: Step, traced: tuple[int, int]) -> bool:
    """Whether the switch took the flow of a step, or one of its rivals."""
    return (step.table, traced[1]) in {(traced[0], each.cookie if each else 0) for each in (step.flow, *step.rivals)}


class TracedSwitch:
    """One bridge, `br0`, with dummy ports."""

    def __init__(self, private: PrivateSwitch, control: UnixCtl) -> None:
        self._private, self._control = private, control

    def load(self, flows: Iterable[Flow]) -> None:
        """Replace all flows, in one bundle and in this order."""
        lines = ("delete", *(f"add {format_flow(flow)}" for flow in flows))
        self._private.ofctl("--bundle", "add-flows", "br0", "-", stdin="\n".join(lines) + "\n")

    def trace(self, packet: Fields, answers: Sequence[Tracked] = ()) -> Traced:
        """What becomes of a packet; `answers` are what successive recirculations hear (their states; marks are 0)."""
        nexts = [word for each in answers for word in ("--ct-next", _state_text(each.state, ","))]
        text = self._control.call("ofproto/trace", "br0", packet_text(packet), *nexts)
        passes, sent, commits = [], [], []
        for translation in re.split(r"^recirc\(", text, flags=re.MULTILINE):
            passes.append(tuple((int(table), int(cookie or "0", 16)) for table, cookie in _STEP.findall(translation)))
            tags = [int(tag) for tag in _TAGS.findall(translation.partition("\nbridge")[0])]
            for piece in _PIECE.findall(_ACTIONS.findall(translation)[-1]):
                if piece.isdigit():
                    sent.append(Sent(int(piece), tags[0] if tags else 0))
                elif piece.startswith("push_vlan"):
                    tags.insert(0, int(re.findall(r"vid=(\d+)", piece)[0]))
                elif piece.startswith("pop_vlan"):
                    tags.pop(0)
                elif piece.startswith("ct(commit"):
                    zone, mark = re.search(r"zone=(\d+)", piece), re.search(r"mark=(0x[0-9a-f]+|\d+)/", piece)
                    commits.append(Commit(int(zone[1]) if zone else 0, int(mark[1], 0) if mark else None))
        return Traced(tuple(passes), tuple(sent), tuple(commits), text)


def packet_text(packet: Fields) -> str:
    """A packet as `ofproto/trace` reads it; what is 0 is left out where nothing depends on it."""
    terms: Match = tuple(
        exact(field, value)
        for field, value in sorted(packet.items())
        if field != "ct_state" and (value or field in {"eth_type", "nw_proto", "icmp_type", "icmp_code"})
    )
    state = f"ct_state={_state_text(packet['ct_state'], '|')}," if packet.get("ct_state") else ""
    # Where flows are exact, a field has one name for each protocol.
    transport = {6: "tcp", 17: "udp", 132: "sctp"}.get(packet.get("nw_proto", 0), "")
    text = show_match(terms).replace("tp_", f"{transport}_")
    return state + (text.replace("icmp_", "icmpv6_") if packet.get("nw_proto") == ICMPV6 else text)


def _state_text(state: int, between: str) -> str:
    return between.join(name for name, bit in _FLAGS.items() if state & bit)


@contextmanager
def traced_switch(directory: Path) -> Iterator[TracedSwitch]:
    """A switch while the context is open."""
    with PrivateSwitch(directory) as private:
        private.add_bridge("br0")
        for number in range(1, PORTS + 1):
            private.add_port("br0", f"p{number}", kind="dummy", ofport=number)
        with UnixCtl(private.run_dir, _SECONDS) as control:
            yield TracedSwitch(private, control)
