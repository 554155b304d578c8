"""One look-up for all packets at once: what decides whom, with conjunctions, at every moment of the plan.

The same rules as in core/verify/lookup.py and lib/classifier.c, on sets of packets instead of one. A table's flows are
kept by the values that they want of registers, which are constants here: a look-up puts together what is there for
all packets, for the port and for the network, each encoded once. So shared member flows cost once and not once a port.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from hitless.core.model.flow import WIDTH, Action, Conjunction, Flow, Match, SetField
from hitless.core.verify.transition.packets import CONSTANT, Node, Space
from hitless.core.verify.transition.telling import place
from hitless.core.verify.transition.verdict import LimitError
from hitless.core.verify.transition.versions import Presence

Masks = tuple[tuple[str, int], ...]
Overrides = Mapping[str, int]
"""Fields that have one value for all packets of a state."""


class Rule(NamedTuple):
    """A flow, or a version of one. `conj` is the id that it accepts, `presence` None means always."""

    priority: int
    terms: Match
    effect: int
    soft: tuple[Conjunction, ...]
    conj: int | None
    presence: Presence | None
    flow: Flow
    fuzzy: bool = False
    """Whether it matches on something that is not understood."""


class Effects:
    """Lists of actions by number, without writes to registers that nothing reads."""

    def __init__(self, read: frozenset[str]) -> None:
        self._read = read
        self._numbers: dict[tuple[Action, ...], int] = {(): 0}
        self.lists: list[tuple[Action, ...]] = [()]
        self._known: dict[int, tuple[tuple[Action, ...], int]] = {}

    def number(self, actions: tuple[Action, ...]) -> int:
        """Equal numbers do the same."""
        held = self._known.get(id(actions))
        if held is not None:
            return held[1]
        kept = tuple(each for each in actions if not self._is_idle(each))
        number = self._numbers.setdefault(kept, len(self.lists))
        if number == len(self.lists):
            self.lists.append(kept)
        self._known[id(actions)] = actions, number  # the list is kept, so that its identity is not given to another
        return number

    def _is_idle(self, action: Action) -> bool:
        return isinstance(action, SetField) and action.field in CONSTANT and action.field not in self._read


class Level:
    """What stands at one priority of a group: hard flows by effect, and clauses by conjunction."""

    __slots__ = ("clauses", "fuzzy", "hard", "second", "zero")

    def __init__(self) -> None:
        self.hard: dict[int, Node] = {}
        self.zero: dict[int, Node] = {}  # flows that match conj_id=0: no second look-up finds them
        self.second: dict[int, Node] | None = None  # what second look-ups see of `hard`, where that is not all
        self.clauses: dict[int, dict[int, Node]] = {}
        self.fuzzy: dict[str, Node] = {}


class Group:
    """Flows of a table that want the same of registers, encoded."""

    def __init__(self) -> None:
        self.levels: dict[int, Level] = {}
        self.accepts: dict[int, list[tuple[int, int, Node]]] = {}
        """For an id, its accept flows: priority, effect, packets; highest priority first."""
        self.counts: dict[int, int] = {}
        """For an id, how many clauses it has."""
        self.moves = False


class Found(NamedTuple):
    """The outcome of a look-up: who does what (no two overlap; a miss is effect 0), and what is odd about it.

    `equals`: another effect is as good by the rules. `orphans`: a conjunction is complete, no accept flow decides.
    """

    parts: tuple[tuple[int, Node], ...]
    equals: Node
    orphans: Node
    unclear: tuple[tuple[str, Node], ...]
    moves: bool
    """Whether anything here is not the same at all times."""


class Table:
    """One table's rules by what they want of registers."""

    def __init__(self, number: int, space: Space, effects: Effects) -> None:
        self.number, self.effects = number, effects
        self.effects_used: set[int] = set()
        self._space = space
        self._rules: dict[Masks, dict[tuple[int, ...], list[Rule]]] = {}
        self._loose: set[str] = set()
        self._groups: dict[tuple[object, ...], Group] = {}
        self._found: dict[tuple[object, ...], Found] = {}
        self._presences: dict[tuple[Presence, int], Node] = {}

    def add(self, flow: Flow, presence: Presence | None) -> None:
        """A flow that is there always, or a version of one."""
        conj, masks, values, terms, fuzzy = None, [], [], [], False
        for term in flow.match:
            if term[0] == "conj_id":
                if term[2] != 0xFFFFFFFF or flow.is_soft:
                    raise LimitError(f"{place(flow)} matches part of conj_id, or is a clause that asks for one")
                conj = term[1]
            elif term[0] not in WIDTH:
                fuzzy = True
            elif term[0] in CONSTANT:
                masks.append((term[0], term[2]))
                values.append(term[1])
            else:
                terms.append(term)
        soft = tuple(each for each in flow.actions if isinstance(each, Conjunction)) if flow.is_soft else ()
        if len({each.id for each in soft}) < len(soft):
            raise LimitError(f"{place(flow)} is in two clauses of one conjunction")
        effect = 0 if soft else self.effects.number(flow.actions)
        rule = Rule(flow.priority, tuple(terms), effect, soft, conj, presence, flow, fuzzy)
        self._rules.setdefault(tuple(masks), {}).setdefault(tuple(values), []).append(rule)
        self._loose.update(term[0] for term in terms)
        self.effects_used.add(effect)

    def lookup(self, state: Overrides, generation: int) -> Found:
        """What decides packets with these constants in this pass."""
        loose = tuple((field, state[field]) for field in sorted(self._loose & state.keys()))
        wanted = []
        for masks, by_value in self._rules.items():
            values = tuple([state.get(field, 0) & mask for field, mask in masks])
            if values in by_value:
                wanted.append((masks, values))
        key = (tuple(wanted), loose, generation)
        found = self._found.get(key)
        if found is None:
            groups = [self._group(masks, values, loose, generation) for masks, values in wanted]
            found = self._found[key] = _Lookup(self._space, groups).run()
        return found

    def _group(
        self, masks: Masks, values: tuple[int, ...], loose: tuple[tuple[str, int], ...], generation: int
    ) -> Group:
        key = (masks, values, loose, generation)
        group = self._groups.get(key)
        if group is None:
            rules = self._rules[masks][values]
            group = self._groups[key] = self._encode(rules, dict(loose), generation)
        return group

    def _encode(self, rules: Sequence[Rule], known: Overrides, generation: int) -> Group:
        group = Group()
        shades = self._shades(rules, generation)
        for rule in rules:
            terms = rule.terms
            if known:
                if any((known[f] ^ value) & mask for f, value, mask in terms if f in known):
                    continue
                terms = tuple([term for term in terms if term[0] not in known])
            where = self._space.match(terms)
            if rule.presence is not None:
                where = where & self._presence(rule.presence, generation)
                group.moves = True
            if rule.conj and not rule.fuzzy:
                group.accepts.setdefault(rule.conj, []).append((rule.priority, rule.effect, where))
                continue
            level = group.levels.get(rule.priority)
            if level is None:
                level = group.levels[rule.priority] = Level()
            if rule.fuzzy:
                level.fuzzy[f"the match of {place(rule.flow)}"] = where
                continue
            if rule.soft:
                self._clauses(group, level, rule, where)
                continue
            into = level.hard if rule.conj is None else level.zero
            _put(into, rule.effect, where)
            if shades and rule.conj is None:
                shade = shades.get(rule.flow.match, {}).get(rule.priority)
                level.second = level.second or {}
                _put(level.second, rule.effect, where if shade is None else where & ~shade)
        for accepts in group.accepts.values():
            accepts.sort(key=lambda each: -each[0])
        return group

    def _clauses(self, group: Group, level: Level, rule: Rule, where: Node) -> None:
        for each in rule.soft:
            if group.counts.setdefault(each.id, each.clauses) != each.clauses:
                raise LimitError(f"conjunction {each.id} of table {self.number} has clauses of different numbers")
            _put(level.clauses.setdefault(each.id, {}), each.clause, where)

    def _shades(self, rules: Sequence[Rule], generation: int) -> dict[Match, dict[int, Node]]:
        """For a match that a clause flow and a hard flow below share: when the clause flow hides it from the second."""
        soft: dict[Match, list[Rule]] = {}
        for rule in rules:
            if rule.soft:
                soft.setdefault(rule.flow.match, []).append(rule)
        found: dict[Match, dict[int, Node]] = {}
        for rule in rules if soft else ():
            if rule.soft or rule.flow.match not in soft:
                continue
            above = [each for each in soft[rule.flow.match] if each.priority > rule.priority]
            shade = self._space.false
            for each in above:
                there = self._space.true if each.presence is None else self._presence(each.presence, generation)
                shade = shade | there
            found.setdefault(rule.flow.match, {})[rule.priority] = shade
        return found

    def _presence(self, presence: Presence, generation: int) -> Node:
        """The moments and orders in which a version is there."""
        node = self._presences.get((presence, generation))
        if node is None:
            node, space = self._space.false, self._space
            for first, last in presence[0]:
                node = node | space.steps(first, last)
            for (step, at, bits), codes in presence[1]:
                seen = space.false
                for code in codes:
                    seen = seen | space.order(at, bits, code, generation)
                node = node | space.steps(step, step) & seen
            self._presences[presence, generation] = node
        return node


class _Lookup:
    """From the highest priority down: what is left undecided meets the hard flows, then the conjunctions."""

    def __init__(self, space: Space, groups: Sequence[Group]) -> None:
        self._no, self._groups = space.false, groups
        self._left = space.true
        self._parts: dict[int, Node] = {}
        self._equals, self._orphans = self._no, self._no
        self._unclear: list[tuple[str, Node]] = []
        self._pending: dict[int, Node] = {}
        """Decided, but lower ones could decide as well: another conjunction of the level found nothing."""
        self._priorities = sorted({each for group in groups for each in group.levels}, reverse=True)
        self._counts: dict[int, int] = {}
        for group in groups:
            self._counts.update(group.counts)

    def run(self) -> Found:
        for priority in self._priorities:
            levels = [group.levels[priority] for group in self._groups if priority in group.levels]
            for level in levels:
                self._unclear += [(what, where & self._left) for what, where in level.fuzzy.items()]
            self._decide(_united([*(each.hard for each in levels), *(each.zero for each in levels)]), self._left)
            if any(each.clauses for each in levels):
                self._conjunctions(priority, levels)
            if self._left == self._no and not self._pending:
                break
        self._settle_pending(0, ~self._no)
        if self._left != self._no:
            _put(self._parts, 0, self._left)
        return Found(tuple(self._parts.items()), self._equals, self._orphans, tuple(self._unclear),
                     any(group.moves for group in self._groups))  # fmt: skip

    def _decide(self, by_effect: Mapping[int, Node], among: Node) -> Node:
        """Effects take what is theirs; returns all that they took."""
        taken = self._no
        for effect, where in by_effect.items():
            if self._pending:
                self._settle_pending(effect, where)
            mine = where & among
            if mine == self._no:
                continue
            self._equals = self._equals | mine & taken
            mine = mine & ~taken
            _put(self._parts, effect, mine)
            taken = taken | mine
        self._left = self._left & ~taken
        return taken

    def _settle_pending(self, effect: int, where: Node) -> None:
        for other, pending in [*self._pending.items()]:
            if other != effect:
                self._equals = self._equals | pending & where
            rest = pending & ~where
            self._pending[other] = rest
            if rest == self._no:
                del self._pending[other]

    def _conjunctions(self, priority: int, levels: Sequence[Level]) -> None:
        found: dict[int, Node] = {}
        missed, among = self._no, self._left
        for pending in self._pending.values():
            among = among | pending
        for number in self._candidates(levels):
            complete = among
            for clause in range(1, self._counts[number] + 1):
                here = self._no
                for level in levels:
                    part = level.clauses.get(number, {}).get(clause)
                    here = here if part is None else here | part
                complete = complete & here
                if complete == self._no:
                    break
            else:
                missed = missed | self._second(number, priority, complete, found)
        if not found:
            return
        taken = self._decide(found, self._left)
        both = taken & missed
        if both != self._no:
            for effect, where in found.items():
                _put(self._pending, effect, where & both)

    def _candidates(self, levels: Sequence[Level]) -> Iterator[int]:
        """Conjunctions that may be complete: not those of which one level alone has a part, and not all clauses."""
        largest = max(levels, key=lambda level: len(level.clauses))
        elsewhere = {number for level in levels if level is not largest for number in level.clauses}
        yield from elsewhere
        for number, clauses in largest.clauses.items():
            if number not in elsewhere and len(clauses) == self._counts[number]:
                yield number

    def _second(self, number: int, priority: int, complete: Node, found: dict[int, Node]) -> Node:
        """Asks again with `conj_id` set, among hard flows of all priorities; returns where nothing is found."""
        left, accepted = complete, self._no
        for level in self._second_levels(number, priority):
            taken = self._no
            for effect, where, accepts in level:
                mine = where & left
                if mine == self._no:
                    continue
                _put(found, effect, mine)  # equals are told apart when all that was found is put together
                taken = taken | mine
                accepted = accepted | mine if accepts else accepted
            left = left & ~taken
            if left == self._no:
                break
        self._orphans = self._orphans | complete & self._left & ~accepted
        return left

    def _second_levels(self, number: int, priority: int) -> Iterator[list[tuple[int, Node, bool]]]:
        """By priority: accept flows of the id anywhere; hard flows below, for those above would have decided before."""
        accepts = [each for group in self._groups for each in group.accepts.get(number, ())]
        priorities = {each[0] for each in accepts} | {each for each in self._priorities if each < priority}
        for at in sorted(priorities, reverse=True):
            here = [(effect, where, True) for each, effect, where in accepts if each == at]
            for group in self._groups if at < priority else ():
                level = group.levels.get(at)
                if level is not None:
                    seen = level.hard if level.second is None else level.second
                    here += [(effect, where, False) for effect, where in seen.items()]
            yield here


def _put(into: dict[int, Node], key: int, where: Node) -> None:
    held = into.get(key)
    into[key] = where if held is None else held | where


def _united(parts: Sequence[Mapping[int, Node]]) -> dict[int, Node]:
    if len(parts) == 2 and not parts[1]:
        return dict(parts[0])
    found: dict[int, Node] = {}
    for part in parts:
        for effect, where in part.items():
            _put(found, effect, where)
    return found
