"""What a change of tables changes for packets: readable cubes of those that fare differently, with one of each.

A cube is grown from one packet, field by field: every value of the field for which all that is in the cube so far
still goes from the one fate to the other. What is left over makes the next cube.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address

from hitless.core.model.flow import Flow
from hitless.core.plan.flows import by_key, diff
from hitless.core.verify.classifier import NORMAL
from hitless.core.verify.transition.classes import Ranked
from hitless.core.verify.transition.evaluation import Evaluation
from hitless.core.verify.transition.packets import Node, oxidd
from hitless.core.verify.transition.telling import mac_text, state_text
from hitless.core.verify.transition.verdict import Batch, Cube, Limits, Witness
from hitless.core.verify.transition.versions import Timeline

CUBES_LIMIT = 64
"""More are not told: a person reads some, and the last one says that there are others."""


def changes(before: Iterable[Flow], after: Iterable[Flow], *, limits: Limits = Limits()) -> tuple[Cube, ...]:  # noqa: B008 - it is frozen
    """Packets that go elsewhere after a change than before it. Raises LimitError."""
    old, new = by_key(before), by_key(after)
    timeline = Timeline(old.values(), [Batch(diff(new, old, {}))], limits)
    return tuple(_Changes(Evaluation(timeline, limits, oxidd, limits.nodes)).cubes()) if timeline.turns else ()


class _Changes:
    def __init__(self, of: Evaluation) -> None:
        self._of, self._space = of, of.space
        ends = [of.space.end(after=after) for after in (False, True)]
        fates = [{key: of.space.at(node, end) for key, node in of.outcome.sent.items()} for end in ends]
        self._was, self._becomes = ({key: node & of.space.domain for key, node in each.items()} for each in fates)

    def cubes(self) -> Iterator[Cube]:
        left = self._space.false
        for key in self._was:
            old, new = self._was[key], self._becomes[key]
            left = left | old & ~new | new & ~old
        for _ in range(CUBES_LIMIT):
            if left == self._space.false:
                return
            witness = self._of.pick(left)
            replay = self._of.replay(witness)
            codes = self._codes(witness)
            point, here = self._point(codes), left
            for node in (*self._was.values(), *self._becomes.values()):
                here = here & (node if node & point != self._space.false else ~node)
            cube, text = self._grown(witness, codes, here)
            yield Cube(text, _ports(replay.before.sent), _ports(replay.after.sent), witness)
            left = left & ~cube

    def _codes(self, witness: Witness) -> dict[str, int]:
        packet = {**witness.packet, "ct_state": witness.state, "ct_mark": witness.mark}
        return {field: self._space.code(field, packet[field]) for field in self._space.codings}

    def _point(self, codes: Mapping[str, int]) -> Node:
        """All packets that nothing tells from the witness."""
        found = self._space.domain
        for field, code in codes.items():
            found = found & self._space.classes(field, [code])
        return found

    def _grown(self, witness: Witness, codes: Mapping[str, int], inside: Node) -> tuple[Node, str]:
        space = self._space
        allowed = {field: [code] for field, code in codes.items()}
        outside = space.domain & ~inside
        for field in codes:
            fixed = space.true
            for other, chosen in allowed.items():
                if other != field:
                    fixed = fixed & space.classes(other, chosen)
            allowed[field] = space.codes_without(field, outside & fixed, inside & fixed)
        cube, words = space.true, []
        for field, chosen in allowed.items():
            cube = cube & space.classes(field, chosen)
            words += self._words(field, chosen, witness)
        return cube, ", ".join(words) or "every packet"

    def _words(self, field: str, chosen: list[int], witness: Witness) -> list[str]:
        if field == "ct_state":
            return [state_text(witness.state)] if len(chosen) == 1 else []
        coding = self._space.codings[field]
        count = len(coding.starts) if isinstance(coding, Ranked) else 1 << coding.bits
        if len(chosen) == count:
            return []
        if not isinstance(coding, Ranked):
            # Told apart by masks that are no prefixes: such values have no order, so the witness's stands for all.
            return [f"{field} like {_value(field, witness.packet.get(field, 0))}"]
        rest = sorted(set(range(count)).difference(chosen))
        is_, isnt = _spans(chosen), _spans(rest)
        shorter, sign = (isnt, " is not ") if len(isnt) < len(is_) else (is_, "=")
        ends = [coding.ends(first, last) for first, last in shorter]
        return [f"{field}{sign}{' or '.join(_span(field, first, last, whole) for first, last, whole in ends)}"]


def _spans(codes: Iterable[int]) -> list[tuple[int, int]]:
    """Runs of neighbouring numbers, first and last."""
    found: list[tuple[int, int]] = []
    for code in codes:
        if found and found[-1][1] == code - 1:
            found[-1] = (found[-1][0], code)
        else:
            found.append((code, code))
    return found


def _span(field: str, first: int, last: int, whole: bool) -> str:
    texts = [_value(field, each) for each in (first, last)]
    return texts[0] if first == last or not whole else " to ".join(texts)


def _value(field: str, value: int) -> str:
    if field in {"nw_src", "nw_dst", "arp_spa", "arp_tpa"}:
        return str(IPv4Address(value))
    if field in {"ipv6_src", "ipv6_dst", "nd_target"}:
        return str(IPv6Address(value))
    if field in {"dl_src", "dl_dst", "arp_sha", "arp_tha", "nd_sll", "nd_tll"}:
        return mac_text(value)
    if field == "vlan_tci":
        return f"tag {value & 0x0FFF}" if value else "none"
    return str(value) if value < 1 << 16 and field != "eth_type" else f"{value:#x}"


def _ports(sent: Iterable[tuple[int, int]]) -> str:
    names = {port: "NORMAL" if port == NORMAL else f"port {port}" for port, _ in sent}
    return ", ".join(names[port] + (f" tag {tag}" if tag else "") for port, tag in sorted(sent)) or "dropped"
