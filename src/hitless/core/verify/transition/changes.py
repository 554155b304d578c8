"""What a change of tables changes for packets: readable cubes of those that fare differently, with one of each.

Only the two ends count, so the tables of before and of after are each evaluated once, over the packets that can meet
a flow that changes. What differs is split by where packets went and go. A cube is grown from one packet, field by
field: every value for which all that is in the cube so far still goes from the one fate to the other. The fields of the
packet's source grow together, as those of its destination do; and other destinations join where the same packets fare
in the same way, each in its place. What is left over makes the next cube.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

from hitless.core.model.flow import WIDTH, Flow, exact
from hitless.core.plan.flows import by_key
from hitless.core.verify.classifier import NORMAL
from hitless.core.verify.transition.classes import Ranked
from hitless.core.verify.transition.cubes import Among, Box, Cube, Key, Live, Sent, Target, is_live
from hitless.core.verify.transition.ends import Ends
from hitless.core.verify.transition.packets import Node
from hitless.core.verify.transition.region import fields_of
from hitless.core.verify.transition.renumber import compared
from hitless.core.verify.transition.telling import told
from hitless.core.verify.transition.verdict import DisagreementError, LimitError, Limits, Witness

CUBES: Final = 64
_FEW_NODES: Final = 1 << 22
_BOXES: Final = 1024  # of one end of a cube; more go to the next
_BLOCKS: Final = 256  # of one field whose masks are no prefixes
_SOURCE: Final = ("in_port", "vlan_tci", "dl_src", "nw_src", "ipv6_src", "arp_spa", "arp_sha")
_TARGET: Final = ("dl_dst", "nw_dst", "ipv6_dst", "arp_tpa", "arp_tha")
_CONNTRACK: Final = ("ct_state", "ct_mark")


def changes(
    before: Iterable[Flow], after: Iterable[Flow], *, most: int = CUBES, ports: Collection[int] = (),
    limits: Limits = Limits(),  # noqa: B008 - it is frozen
) -> tuple[Cube, ...]:  # fmt: skip
    """Packets that go elsewhere after a change than before it, in `most` cubes or fewer, which may overlap.

    Behind them stand cubes of what cannot be told. `ports` are all that packets can come in by, where that is known.
    Raises LimitError, and DisagreementError where the concrete classifier says otherwise, which is a defect.
    """
    old, wanted = by_key(before), by_key(after)
    fields = fields_of([*old.values(), *(flow for key, flow in wanted.items() if old.get(key) != flow)])
    new, touched = compared(old, wanted, fields.read)
    for nodes in sorted({min(_FEW_NODES, limits.nodes), limits.nodes}) if touched else ():
        try:
            return _first(Ends(old, new, touched, fields, ports, limits, nodes), most)
        except MemoryError:
            continue
    if touched:
        raise LimitError(f"more than {limits.nodes} nodes of decision diagrams: split the change")
    return ()


def _first(ends: Ends, most: int) -> tuple[Cube, ...]:
    found = [*islice(_Changes(ends).cubes(), most)]
    return (*found, *(Cube(untold=f"packets that meet {why}") for why in sorted(ends.blurred)))


class _Region(NamedTuple):
    """Packets of one fate.

    `never` are those of other fates, but for those that come in by the port to which these go: they are dropped at both
    ends.
    """

    was: Sent
    becomes: Sent
    where: Node
    never: Node

    @property
    def live(self) -> Live:
        """What becomes of live connections."""
        return "freed" if not self.was else "moved" if self.becomes else "cut"


class _Told(NamedTuple):
    """A cube and the packets in it."""

    size: int
    where: Node
    cube: Cube


_Sets = tuple[dict[tuple[str, ...], Node], list[tuple[_Region, Node]]]
"""What a cube has of each group of fields, and of its destination by what becomes of it."""


class _Changes:
    def __init__(self, ends: Ends) -> None:
        self._ends, self._space = ends, ends.space
        self._no = ends.space.false
        codings = [*ends.space.codings]
        self._source = tuple(field for field in _SOURCE if field in codings)
        self._target = tuple(field for field in _TARGET if field in codings)
        known = {*self._source, *self._target, *_CONNTRACK}
        self._rest = [(field,) for field in codings if field not in known]
        self._conntrack = [(field,) for field in _CONNTRACK]
        self._valid = {field: ends.space.onto(ends.domain, [field]) for field in codings}
        self._values = {field: ends.space.codes(field, node) for field, node in self._valid.items()
                        if isinstance(ends.space.codings[field], Ranked)}  # fmt: skip
        self._regions = [*self._split()]

    def cubes(self) -> Iterator[Cube]:
        left = self._no
        for region in self._regions:
            left = left | region.where
        while left != self._no:
            witness = self._ends.pick(left)
            codes = self._codes(witness)
            point = self._ends.domain
            for field, code in codes.items():
                point = point & self._space.classes(field, [code])
            region = next(each for each in self._regions if each.where & point != self._no)
            self._replay(witness, region)
            orders = ([*self._rest, self._source, *self._conntrack], [self._source, *self._rest, *self._conntrack])
            one, other = (self._grown(codes, region, order) for order in orders)
            both = (one,) if one == other else (one, other)
            best = max((self._cube(witness, codes, *each) for each in both), key=lambda each: each.size)
            yield best.cube
            left = left & ~best.where

    def _replay(self, witness: Witness, region: _Region) -> None:
        """The concrete classifier has to say the same."""
        tag = witness.packet.get("vlan_tci", 0) & 0x0FFF
        said = self._ends.replayed(witness)
        for sent, real in zip((region.was, region.becomes), said, strict=True):
            meant = {(key[0], tag if key[1] < 0 else key[1]) for key in sent if not isinstance(key, str)}
            if meant != {*real}:
                raise DisagreementError(f"changes: {told(witness)}; {sorted(meant)}, then {sorted(real)}")

    # --- where packets went and go --------------------------------------------------------------------------

    def _split(self) -> Iterator[_Region]:
        """All packets that fare differently, by where they went and go."""
        was, becomes = self._ends.was, self._ends.becomes
        differs, blurred = self._no, self._no
        for node in self._ends.blurred.values():
            blurred = blurred | node
        for key in {**was, **becomes}:
            old, new = was.get(key, self._no), becomes.get(key, self._no)
            differs = differs | old & ~new | new & ~old
        differs = differs & self._ends.domain & ~blurred
        later = sorted(self._fates(becomes, differs).items(), key=lambda each: len(each[0]))
        for old_sent, old in self._fates(was, differs).items():
            left = old
            for new_sent, new in later:
                where = left & new
                if where != self._no:
                    never = self._ends.domain & ~(where | self._returning(old_sent, new_sent))
                    yield _Region(old_sent, new_sent, where, never)
                    left = left & ~where
                if left == self._no:
                    break

    def _fates(self, sent: Mapping[Key, Node], among: Node) -> dict[Sent, Node]:
        """Packets by all the places that they go to."""
        found: dict[Sent, Node] = {}
        left = among
        for key in sorted(sent, key=lambda each: (isinstance(each, str), each)):
            here = sent[key] & among
            if here == self._no:
                continue
            again = here & ~left
            for held, node in [*found.items()] if again != self._no else ():
                both = node & again
                if both != self._no:
                    found[held] = node & ~again
                    found[*held, key] = found.get((*held, key), self._no) | both
            found[key,] = found.get((key,), self._no) | here & left
            left = left & ~here
        found[()] = left
        return {held: node for held, node in found.items() if node != self._no}

    def _returning(self, was: Sent, becomes: Sent) -> Node:
        """Packets that would leave by the port they came in by, where that is the only place they go to."""
        ports = {key if isinstance(key, str) else key[0] for key in (*was, *becomes)}
        if len(ports) != 1 or "in_port" not in self._space.codings:
            return self._no
        port = ports.pop()
        if isinstance(port, str) or port == NORMAL or not self._space.knows(exact("in_port", port)):
            return self._no
        return self._space.term(exact("in_port", port)) & self._ends.domain

    # --- growing --------------------------------------------------------------------------------------------

    def _codes(self, witness: Witness) -> dict[str, int]:
        packet = {**witness.packet, "ct_state": witness.state, "ct_mark": witness.mark}
        return {field: self._space.code(field, packet[field]) for field in self._space.codings}

    def _grown(self, codes: Mapping[str, int], region: _Region, order: Sequence[tuple[str, ...]]) -> _Sets:
        sets = {group: self._at(group, codes) for group in (*order, self._target)}
        for group in order:
            sets[group] = self._every(group, self._fixed(sets, group), region.where, ~region.where)
        for (field,) in (*self._rest, *self._conntrack):  # what cannot be said in a few blocks is not taken
            sets[field,] = self._said(field, sets[field,], codes[field])[1]
        given = self._fixed(sets, self._target)
        targets, taken = list[tuple[_Region, Node]](), self._no
        for each in (region, *self._regions):
            if each.live == region.live and given & each.where != self._no:
                found = self._every(self._target, given, each.where, each.never) & ~taken
                if found != self._no:
                    targets.append((each, found))
                    taken = taken | found
        sure, never = self._no, self._no
        for each, found in targets:
            sure, never = sure | each.where & found, never | each.never & found
        fixed = self._fixed({**sets, self._target: taken}, self._source)
        sets[self._source] = self._every(self._source, fixed, sure, never)
        return sets, targets

    def _at(self, group: Iterable[str], codes: Mapping[str, int]) -> Node:
        found = self._space.true
        for field in group:
            found = found & self._space.classes(field, [codes[field]])
        return found

    def _fixed(self, sets: Mapping[tuple[str, ...], Node], besides: tuple[str, ...]) -> Node:
        found = self._space.true
        for group, node in sets.items():
            if group != besides:
                found = found & node
        return found & self._ends.domain

    def _every(self, group: Sequence[str], given: Node, sure: Node, never: Node) -> Node:
        """Values of these fields for which some of the given packets are in the first set and none in the second."""
        return self._space.onto(given & sure, group) & ~self._space.onto(given & never, group)

    # --- saying ---------------------------------------------------------------------------------------------

    def _cube(
        self, witness: Witness, codes: Mapping[str, int], sets: Mapping[tuple[str, ...], Node],
        targets: Iterable[tuple[_Region, Node]],
    ) -> _Told:  # fmt: skip
        shared, where, size = list[Among](), self._ends.domain, 1
        for (field,) in (*self._rest, *self._conntrack):
            among, node = self._said(field, sets[field,], codes[field])
            shared += [] if among is None else [among]
            where = where & node
            size *= _size(field, among)
        sources, node, count = self._boxes(sets[self._source], self._source, codes)
        where, size = where & node, size * count
        found, whole, lives, count = list[Target](), self._no, self._no, 0
        for region, node in targets:
            boxes, here, some = self._boxes(node, self._target, codes)
            found += [Target(box, region.was, region.becomes) for box in boxes]
            live, count = region.live, count + some
            whole = whole | where & here & region.where
            lives = lives | where & here & ~region.where
        states = self._space.codes("ct_state", sets["ct_state",])
        coding = self._space.codings["ct_state"]
        word = live if any(is_live(coding.sample(code)) for code in states) else ""
        cube = Cube(tuple(shared), tuple(sources), tuple(found), word, lives != self._no, witness)
        return _Told(size * count, whole, cube)

    def _said(self, field: str, node: Node, code: int) -> tuple[Among | None, Node]:
        """A set of values, None for all that there are; and which of them that says."""
        if node == self._valid[field]:
            return None, node
        coding = self._space.codings[field]
        if not isinstance(coding, Ranked):
            parts = [*islice(self._space.blocks(field, node), _BLOCKS + 1)]
            if len(parts) > _BLOCKS:
                node = self._space.classes(field, [code])
                parts = [*self._space.blocks(field, node)]
            return Among(field, tuple(coding.block(*block) for block, _ in parts)), node
        chosen, valid = self._space.codes(field, node), self._values[field]
        spans, others, among = _spans(chosen), list[tuple[int, int]](), {*chosen}
        # A set can be named by what it is not where every value is one of a packet that there is.
        outside = len(spans) > 1 and len(valid) == len(coding.starts)
        if outside:
            others = _spans(code for code in valid if code not in among)
            outside = len(others) < len(spans)
        blocks = [block for span in (others if outside else spans) for block in coding.blocks(*span)]
        return Among(field, tuple(blocks), outside), node

    def _boxes(self, node: Node, fields: Sequence[str], codes: Mapping[str, int]) -> tuple[list[Box], Node, int]:
        """Boxes that a set is made of, the one with these codes first, with all that is in them and how much it is."""
        found, where, size = list[Box](), self._no, 0
        for box, part in islice(self._parts(node, fields, codes), _BOXES):
            found.append(tuple(each for each in box if each is not None))
            where, some = where | part, 1
            for field, among in zip(fields, box, strict=True):
                some *= _size(field, among)
            size += some
        return found, where, size

    def _parts(
        self, left: Node, fields: Sequence[str], codes: Mapping[str, int]
    ) -> Iterator[tuple[tuple[Among | None, ...], Node]]:
        """By the values of the first field: those that leave the same to the others go together."""
        if not fields:
            yield (), self._space.true
            return
        field, *rest = fields
        while left != self._no:
            code = codes[field]
            if self._space.classes(field, [code]) & left == self._no:
                (code, _), _ = next(self._space.blocks(field, self._space.onto(left, [field])))
            inner = self._space.onto(left & self._space.classes(field, [code]), rest)
            odd = left & ~inner | self._valid[field] & inner & ~left
            same = self._valid[field] & ~self._space.onto(odd, [field])
            among, same = self._said(field, same, code)
            for box, part in self._parts(inner, rest, codes):
                yield (among, *box), same & part
            left = left & ~(same & inner)


def _size(field: str, among: Among | None) -> int:
    """How many values."""
    whole = WIDTH[field]
    if among is None:
        return 1 << whole
    held = sum(1 << whole - mask.bit_count() for _, mask in among.blocks)
    return (1 << whole) - held if among.outside else held


def _spans(codes: Iterable[int]) -> list[tuple[int, int]]:
    """Runs of neighbouring numbers, first and last."""
    found: list[tuple[int, int]] = []
    for code in codes:
        if found and found[-1][1] == code - 1:
            found[-1] = (found[-1][0], code)
        else:
            found.append((code, code))
    return found
