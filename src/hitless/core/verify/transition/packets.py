"""Sets of packets, moments and orders as decision diagrams: the variables, and how a term becomes a diagram.

One assignment of the variables is a packet (the class of each field), what conntrack answers for it, the batch that is
being written (`step`, from 1) and, for each pass, what the pass sees of that batch. Fields come first that many flows
are split by, addresses last: `in_port`, conntrack, protocol, ports, MACs, time, addresses.

Registers are no variables: their values are constants from actions, and the evaluation carries them along.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from oxidd.bdd import BDDFunction, BDDManager

from hitless.core.model.flow import EST, INV, IPV4, NEW, REL, RPL, TRK, Match, Term, exact
from hitless.core.verify.transition.classes import Coding, Pattern, Ranked, coded

CONSTANT: Final = frozenset({"conj_id", "metadata", "ct_zone", "ct_label", *(f"reg{number}" for number in range(16))})
"""Fields of which every value comes from an action, or is zero."""

_BEFORE_TIME: Final = (
    "vlan_tci", "dl_dst", "in_port", "ct_state", "ct_mark", "eth_type", "nw_proto", "arp_op", "icmp_type", "icmp_code",
    "nw_frag", "tcp_flags", "tp_dst", "tp_src", "dl_src",
)  # fmt: skip
MIRRORED: Final = (("nw_src", "nw_dst"), ("ipv6_src", "ipv6_dst"), ("tp_src", "tp_dst"), ("dl_src", "dl_dst"))
"""Fields that a packet and its answer have exchanged."""
_LAST: Final = ("nw_dst", "nw_src", "ipv6_dst", "ipv6_src")
_LIKELY: Final = {"eth_type": (IPV4,), "nw_proto": (6,), "vlan_tci": (0,)}
_NAMED: Final = (*_LIKELY, "in_port", "dl_src", "nw_src", "ipv6_src", "dl_dst", "nw_dst", "ipv6_dst")
_FEW: Final = 32  # values of one field that are tried
_FLAGS: Final = NEW | EST | REL | RPL | INV | TRK


class Node(Protocol):
    """A set, as a diagram."""

    def __and__(self, other: Node, /) -> Node: ...
    def __or__(self, other: Node, /) -> Node: ...
    def __invert__(self, /) -> Node: ...


class Algebra(Protocol):
    """What is needed of a library of decision diagrams."""

    true: Node
    false: Node

    def var(self, number: int) -> Node:
        """The variable itself; lower numbers stand higher in the diagram."""
        ...

    def exists(self, node: Node, variables: Node) -> Node:
        """Without the variables of a conjunction of them, whatever their values."""
        ...

    def pick(self, node: Node) -> dict[int, bool] | None:
        """One assignment; variables that do not matter may be missing. None for the empty set."""
        ...


class Oxidd:
    """The algebra of OxiDD."""

    def __init__(self, variables: int, nodes: int) -> None:
        # Tables of the full size are allocated at once but touched only as they fill.
        self._manager = BDDManager(nodes, max(nodes >> 3, 1 << 16), 1)
        self._manager.add_vars(variables)
        self.true: BDDFunction = self._manager.true()
        self.false: BDDFunction = self._manager.false()

    def var(self, number: int) -> BDDFunction:
        return self._manager.var(number)

    def exists(self, node: BDDFunction, variables: BDDFunction) -> BDDFunction:
        return node.exists(variables)

    def pick(self, node: BDDFunction) -> dict[int, bool] | None:
        cube = node.pick_cube()
        return None if cube is None else {at: value for at, value in enumerate(cube) if value is not None}


MakeAlgebra = Callable[[int, int], Algebra]
"""Number of variables and limit of nodes to an algebra."""


def oxidd(variables: int, nodes: int) -> Algebra:
    """The algebra that ships."""
    return Oxidd(variables, nodes)  # type: ignore[return-value]  # its nodes only mix with their own kind


class Space:
    """All variables, and terms as sets.

    `patterns` are every value and mask that any flow or action has, by field; `steps` the number of batches; `orders`
    how many Booleans a pass needs to say what it sees of a batch.
    """

    def __init__(
        self, make: MakeAlgebra, patterns: Mapping[str, Collection[Pattern]], steps: int, orders: int,
        passes: int, nodes: int,
    ) -> None:  # fmt: skip
        self.codings: dict[str, Coding] = {}
        self._places: dict[str, tuple[int, int]] = {}
        known = {*_BEFORE_TIME, *_LAST}
        others = sorted(field for field in patterns if field not in known and field not in CONSTANT)
        used = 0
        for field in (*_BEFORE_TIME, *others):
            used = self._place(field, patterns, used)
        self.step_bits = max((steps - 1).bit_length(), 0)
        self._step_at, used = used, used + self.step_bits
        self._orders, self._orders_at, used = orders, used, used + orders * passes
        for field in _LAST:
            used = self._place(field, patterns, used)
        self._steps, self._passes = steps, passes
        self._likely = {field: _LIKELY.get(field) or _exact_values(patterns.get(field, ())) for field in _NAMED}
        self.algebra = make(used, nodes)
        self.true, self.false = self.algebra.true, self.algebra.false
        self._vars = [self.algebra.var(number) for number in range(used)]
        self._terms: dict[Term, Node] = {}
        self._matches: dict[Match, Node] = {(): self.true}
        self._others: dict[tuple[str, ...], Node] = {}
        self.time = self._all(range(self._step_at, self._orders_at + orders * passes))
        self._conntrack = self._all([n for f in ("ct_state", "ct_mark") for n in range(*self._reach(f))])
        self.domain = self._domain()

    def _place(self, field: str, patterns: Mapping[str, Collection[Pattern]], used: int) -> int:
        if field == "ct_state":
            found: Collection[Pattern] = {(0, _FLAGS)}
        elif field == "ct_mark":
            found = {(0, (1 << 32) - 1), *patterns.get(field, ())}
        elif field in patterns:
            found = patterns[field]
        else:
            return used
        coding = self.codings[field] = coded(field, found)
        self._places[field] = (used, coding.bits)
        return used + coding.bits

    def _reach(self, field: str) -> tuple[int, int]:
        at, bits = self._places[field]
        return at, at + bits

    def _all(self, numbers: Sequence[int]) -> Node:
        node = self.true
        for number in reversed(numbers):
            node = self._vars[number] & node
        return node

    def _domain(self) -> Node:
        """Codes that are classes, steps that are batches, and conntrack answers that there are (ovs-fields(7))."""
        node = self.true
        for field, coding in self.codings.items():
            if isinstance(coding, Ranked):
                node = node & self._between(self._places[field], 0, len(coding.starts) - 1)
        node = node & self._between((self._step_at, self.step_bits), 0, self._steps - 1)
        unmarked = self.term(("ct_mark", 0, (1 << 32) - 1))
        answers = self.false
        for state in (TRK | INV, TRK | NEW):
            answers = answers | self.term(("ct_state", state, _FLAGS)) & unmarked
        related = self.term(("ct_state", TRK | NEW | REL, _FLAGS))  # it inherits the mark
        live = self.term(("ct_state", TRK | EST, TRK | EST | NEW | INV))
        return node & (answers | related | live)

    def term(self, term: Term) -> Node:
        """Packets of which a field has a value."""
        node = self._terms.get(term)
        if node is None:
            field, value, mask = term
            place, coding = self._places[field], self.codings[field]
            if isinstance(coding, Ranked):
                node = self._between(place, *coding.interval(value, mask))
            else:
                node = self.true
                for at, wanted in reversed(coding.literals(value, mask)):
                    var = self._vars[place[0] + at]
                    node = (var if wanted else ~var) & node
            self._terms[term] = node
        return node

    def knows(self, term: Term) -> bool:
        """Whether the values of a term are told from all others."""
        coding = self.codings[term[0]]
        return not isinstance(coding, Ranked) or coding.is_exact(*term[1:])

    def match(self, terms: Match) -> Node:
        """Packets that all terms hold of."""
        node = self._matches.get(terms)
        if node is None:
            node = self._matches[terms] = self.term(terms[-1]) & self.match(terms[:-1])
        return node

    def _between(self, place: tuple[int, int], first: int, last: int) -> Node:
        """Numbers in `place` (first variable, how many) from first to last, both included."""
        at, bits = place
        if first == last:
            node = self.true
            for bit in range(bits):
                var = self._vars[at + bits - 1 - bit]
                node = (var if first >> bit & 1 else ~var) & node
            return node
        above, below = self.true, self.true
        for bit in range(bits):
            var = self._vars[at + bits - 1 - bit]
            above = var & above if first >> bit & 1 else var | above
            below = ~var | below if last >> bit & 1 else ~var & below
        return above & below

    def steps(self, first: int, last: int) -> Node:
        """Moments in which a batch from `first` to `last` is being written."""
        return self._between((self._step_at, self.step_bits), first - 1, last - 1)

    def order(self, at: int, bits: int, code: int, generation: int) -> Node:
        """The pass of this number (from 0) sees `code` in the Booleans from `at` on."""
        return self._between((self._orders_at + generation * self._orders + at, bits), code, code)

    def end(self, *, after: bool) -> Node:
        """The one moment in which all passes see the tables before the plan, or after it."""
        node = self.steps(self._steps, self._steps) if after else self.steps(1, 1)
        for number in range(self._orders_at, self._orders_at + self._orders * self._passes):
            node = node & (self._vars[number] if after else ~self._vars[number])
        return node

    def at(self, node: Node, moment: Node) -> Node:
        """Without time: what is so in one moment."""
        return self.algebra.exists(node & moment, self.time)

    def without(self, node: Node, keep: str) -> Node:
        """What is so for some packet with this value of one field, in this step, whatever its passes see."""
        place = self._places.get(keep, (0, 0))
        kept = {*range(place[0], sum(place)), *range(self._step_at, self._orders_at)}
        gone = [number for number in range(len(self._vars)) if number not in kept]
        return self.algebra.exists(node, self._all(gone))

    def like(self, packet: Mapping[str, int]) -> Node:
        """Packets that no term tells from this one in the fields that it has, whatever conntrack says, whenever."""
        node = self.true
        for field, (at, bits) in self._places.items():
            coding = self.codings[field]
            if field not in packet:
                continue
            if isinstance(coding, Ranked):
                code = coding.code(packet[field])
                node = node & self._between((at, bits), code, code)
            else:
                for place, wanted in coding.literals(packet[field], ~0):
                    var = self._vars[at + place]
                    node = node & (var if wanted else ~var)
        return node

    def answering(self, packet: Mapping[str, int], leave: Collection[str] = ()) -> Node:
        """Whatever may answer a packet that no term tells from this one: ends exchanged, except for fields to leave."""
        node = self.like({field: packet[field] for field in ("eth_type", "nw_proto") if field in packet})
        for one, other in (*MIRRORED, *((b, a) for a, b in MIRRORED)):
            coding, mirror = self.codings.get(one), self.codings.get(other)
            if one in packet and one not in leave and isinstance(coding, Ranked) and isinstance(mirror, Ranked):
                code = coding.code(packet[one])
                first, last, whole = coding.ends(code, code)
                if whole and mirror.ends(0, 0)[2]:
                    node = node & self._between(self._places[other], mirror.code(first), mirror.code(last))
        return node

    def likely(self, node: Node) -> Node:
        """Those of a set that are met most often, where it has some: IPv4, TCP, and ports and addresses of flows."""
        for field, values in self._likely.items():
            wanted = self.false
            for value in values if field in self.codings else ():
                wanted = wanted | self.term(exact(field, value))
            node = node & wanted if node & wanted != self.false else node
        return node

    def code(self, field: str, value: int) -> int:
        """The class of a value of a field."""
        coding = self.codings[field]
        if isinstance(coding, Ranked):
            return coding.code(value)
        return sum(1 << coding.bits - 1 - at for at, wanted in coding.literals(value, ~0) if wanted)

    def classes(self, field: str, codes: Iterable[int]) -> Node:
        """Packets with one of these classes of a field."""
        node = self.false
        for code in codes:
            node = node | self._between(self._places[field], code, code)
        return node

    def onto(self, node: Node, fields: Iterable[str]) -> Node:
        """Values of these fields that some of the packets have, whatever else they have and whenever."""
        wanted = tuple(fields)
        if wanted not in self._others:
            kept = {number for field in wanted for number in range(*self._reach(field))}
            self._others[wanted] = self._all([number for number in range(len(self._vars)) if number not in kept])
        return self.algebra.exists(node, self._others[wanted])

    def blocks(self, field: str, node: Node) -> Iterator[tuple[Pattern, Node]]:
        """A set of classes of one field as blocks of bits that are set, or not, or do not matter; no two overlap."""
        at, bits = self._places[field]
        while (picked := self.algebra.pick(node)) is not None:
            here, value, mask = self.true, 0, 0
            for number in reversed(range(at, at + bits)):
                if number in picked:
                    var, place = self._vars[number], 1 << at + bits - 1 - number
                    here = (var if picked[number] else ~var) & here
                    value, mask = value | place * picked[number], mask | place
            yield (value, mask), here
            node = node & ~here

    def codes(self, field: str, node: Node) -> list[int]:
        """The numbers of the classes of such a set, in order."""
        found, every = [], (1 << self._places[field][1]) - 1
        for (value, mask), _ in self.blocks(field, node):
            free = every & ~mask
            part = free
            while True:  # all numbers within the bits that do not matter
                found.append(value | part)
                if not part:
                    break
                part = part - 1 & free
        return sorted(found)

    def whenever(self, node: Node) -> Node:
        """Packets of which something is so in some moment."""
        return self.algebra.exists(node, self.time)

    def answered(self, node: Node, state: int, mark: int) -> Node:
        """Packets of which something is so when conntrack says this; whatever it says in truth."""
        says = self.term(("ct_state", state, _FLAGS)) & self.term(("ct_mark", mark, (1 << 32) - 1))
        return self.algebra.exists(node & says, self._conntrack)

    def decode(self, picked: Mapping[int, bool]) -> tuple[dict[str, int], int, list[int]]:
        """A packet's fields (ct_state and ct_mark among them), the step, and each pass's Booleans as a number."""
        fields = {field: coding.sample(_number(picked, *self._places[field])) for field, coding in self.codings.items()}
        step = _number(picked, self._step_at, self.step_bits) + 1
        orders = [_number(picked, self._orders_at + each * self._orders, self._orders) for each in range(self._passes)]
        return fields, step, orders


def _exact_values(patterns: Iterable[Pattern]) -> tuple[int, ...]:
    """The first values that are asked for bit by bit; no zero."""
    whole = max((mask for _, mask in patterns), default=0)
    return tuple(sorted(value for value, mask in patterns if value and mask == whole)[:_FEW])


def _number(picked: Mapping[int, bool], at: int, bits: int) -> int:
    number = 0
    for variable in range(at, at + bits):
        number = number << 1 | picked.get(variable, False)
    return number
