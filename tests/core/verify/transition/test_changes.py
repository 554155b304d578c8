"""What a change does to packets, as cubes: exact ones, that hold all that fares differently, and can be read."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import pytest
from tests.core.firewall.draw import Draw
from tests.core.verify.transition import policies
from tests.core.verify.transition.brute import ANSWERS, PACKETS
from tests.core.verify.transition.small import Small

from hitless.core.firewall.compile import compile_flows
from hitless.core.firewall.identity import KnownIds, read_ids
from hitless.core.model.flow import (
    EST,
    IPV4,
    NEW,
    TRK,
    Ct,
    Flow,
    Match,
    Normal,
    Opaque,
    Output,
    PopVlan,
    PushVlan,
    Resubmit,
    exact,
)
from hitless.core.verify.transition.changes import changes
from hitless.core.verify.transition.cubes import Box, Cube, Sent
from hitless.core.verify.transition.region import fields_of
from hitless.core.verify.transition.verdict import LimitError, Limits, Witness
from hitless.core.verify.transition.witness import run

EMPTY = re.compile(r"=(,|\)|$)|is not (,|\)|$)")
Asked = tuple[Mapping[str, int], int, int]
"""Fields, state, mark."""


# --- exact, and complete ------------------------------------------------------------------------------------


def holds(box: Box, asked: Asked) -> bool:
    packet, state, mark = asked
    every = {**packet, "ct_state": state, "ct_mark": mark}
    return all(each.holds(every.get(each.field, 0)) for each in box)


def told(cubes: Sequence[Cube], asked: Asked) -> Iterator[tuple[Sent, Sent]]:
    """What cubes say of a packet."""
    for cube in cubes:
        if not cube.untold and holds(cube.shared, asked) and any(holds(each, asked) for each in cube.sources):
            for target in cube.targets:
                ports = {key[0] for key in (*target.was, *target.becomes)}
                if holds(target.box, asked) and not (cube.returns and ports == {asked[0]["in_port"]}):
                    yield target.was, target.becomes


def sent(flows: Sequence[Flow], asked: Asked) -> tuple[frozenset[int], bool]:
    """The ports that the concrete classifier sends a packet to, and whether equals could decide otherwise."""
    found = run([flows], Witness(*asked), fields_of(flows).read)
    return found.trail.ports, found.disputed


def assert_exact(cubes: Sequence[Cube], ends: Sequence[Sequence[Flow]], every: Sequence[Asked]) -> int:
    """How many of these packets fare differently."""
    count = 0
    blurred = any(each.untold for each in cubes)
    for asked in every:
        (was, one), (becomes, other) = (sent(flows, asked) for flows in ends)
        said = {tuple(frozenset(key[0] for key in each) for each in pair) for pair in told(cubes, asked)}
        if one or other:
            assert blurred
        elif was != becomes and not (blurred and not said):
            assert said == {(was, becomes)}, asked
            count += 1
        else:
            assert not said, asked
    return count


SMALL_PACKETS = [(packet, *answer) for packet in PACKETS for answer in ANSWERS]


@pytest.mark.parametrize("block", range(6))
def test_random_tables_are_told_packet_by_packet(block: int) -> None:
    differing = 0
    for seed in range(block * 25, block * 25 + 25):
        ends = (Small(seed).tables(), Small(seed + 5000).tables())
        cubes = changes(*ends, most=1000)
        differing += assert_exact(cubes, ends, SMALL_PACKETS)
    assert differing > 200


def near_misses(tables: Sequence[Flow], chance: random.Random, count: int) -> Iterator[Asked]:
    """Packets of values that flows name, and of some that none does."""
    values: dict[str, set[int]] = {}
    for flow in tables:
        for field, value, mask in flow.match:
            values.setdefault(field, {0}).update((value, value | chance.getrandbits(128) & (~mask & 0xFF)))
    for field in ("nw_src", "tp_dst", "in_port"):
        values.setdefault(field, {0}).add(1)
    packets = [{field: chance.choice(sorted(each)) for field, each in values.items()} for _ in range(count)]
    for drawn in packets:
        packet = {field: value for field, value in drawn.items() if not field.startswith(("reg", "ct_", "conj"))}
        packet |= {"eth_type": chance.choice((IPV4, IPV4, IPV4, 0x86DD)), "nw_proto": 6, "vlan_tci": 0}
        for state, mark in ((TRK | NEW, 0), (TRK | EST, chance.choice((0, 1)))):
            yield packet, state, mark


@pytest.mark.parametrize("seed", range(4))
def test_packets_from_random_cubes_of_a_policy_fare_as_told(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    old = policies.tables(policies.intent())
    moved = policies.port(3, "cache")
    policy = policies.without_rules(policies.intent(), "web", 1)
    policy = policies.with_port(policy, msgspec.structs.replace(moved, addresses=("10.0.0.77",)))
    new = policies.tables(policy)
    ends = [*old.values()], [*new.values()]
    cubes = changes(*ends)
    assert 1 < len(cubes) < 60
    drawn = [asked for cube in cubes for _ in range(12) if (asked := one_of(cube, chance))[0]]
    assert assert_exact(cubes, ends, drawn) > len(drawn) // 2
    assert_exact(cubes, ends, [*near_misses([*ends[0], *ends[1]], chance, 150)])


def one_of(cube: Cube, chance: random.Random) -> Asked:
    """A packet of a cube, at random."""
    box = (*cube.shared, *chance.choice(cube.sources), *chance.choice(cube.targets).box)
    packet = dict(cube.witness.packet)
    for each in box:
        if each.field in {"ct_state", "ct_mark"}:
            continue
        if each.outside:
            packet[each.field] = next(value for value in iter(lambda: chance.getrandbits(16), -1) if each.holds(value))
        else:
            value, mask = chance.choice(each.blocks)
            packet[each.field] = value | chance.getrandbits(128) & ~mask & (0xFFFF if each.field != "nw_src" else ~0)
            packet[each.field] &= (1 << 128) - 1
    states = next((each for each in cube.shared if each.field == "ct_state"), None)
    return packet, chance.choice(states.blocks)[0] if states else TRK | NEW, 0


# --- what is read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_port_that_comes_is_told_in_cubes_that_are_not_empty(seed: int) -> None:
    draw = Draw(seed)
    policy = draw.intent()
    local = draw.local(policy)
    fewer = dict(local.ofports)
    gone = fewer.pop(min(fewer))
    without = type(local)(fewer, local.tags, local.uplinks)
    old = compile_flows(policy, without, KnownIds()).flows
    new = compile_flows(policy, local, read_ids(old.values())).flows
    found = changes(old.values(), new.values())
    assert found
    assert not [each.packets for each in found if EMPTY.search(each.packets)]
    assert any(f"in_port={gone}" in each.packets for each in found)
    assert all(target.was != target.becomes for each in found for target in each.targets)


def said(old: Sequence[Flow], new: Sequence[Flow]) -> list[str]:
    return [f"{each.packets}: {each.was} → {each.becomes}" for each in changes(old, new)]


TO_2 = (Output(2),)


@pytest.mark.parametrize(
    ("match", "words"),
    [
        ((("tp_dst", 0x50, 0xFFF0),), "tp_dst=80-95"),
        ((("tp_dst", 0x50, 0xF0F0),), "tp_dst=80/0xf0f0"),
        ((exact("tp_dst", 443), exact("eth_type", IPV4), exact("nw_proto", 6)), "tcp, tp_dst=443"),
        ((("nw_src", 0x0A000000, 0xFFFFFF00), exact("eth_type", IPV4)), "ip, nw_src=10.0.0.0/24"),
        ((("nw_src", 0x0A000000, 0xFF0000FF),), "nw_src=10.0.0.0/255.0.0.255"),
        ((("ipv6_src", 0xFD << 120, 0xFF << 120), exact("eth_type", 0x86DD)), "ipv6, ipv6_src=fd00::/8"),
        ((("dl_dst", 0, 1 << 40),), "dl_dst=00:00:00:00:00:00/01:00:00:00:00:00"),
        ((("ct_state", TRK | EST, TRK | EST),), ""),
        ((exact("in_port", 4),), "in_port=web-4"),
        ((exact("vlan_tci", 0),), "untagged"),
        ((("vlan_tci", 0x1007, 0x1FFF),), "vlan 7"),
        ((("vlan_tci", 0x1000, 0x1000),), "tagged"),
    ],
)
def test_values_are_told_as_they_are_written(match: Match, words: str) -> None:
    found = changes([], [Flow(0, 5, tuple(sorted(match)), TO_2)])
    texts = {each.said({4: "web-4"}) for each in found}
    assert (
        words in {re.sub(r"in_port is not 2, |, in_port is not 2$", "", text) for text in texts} if words else not texts
    )


def test_what_is_left_of_a_field_is_told_by_what_it_is_not() -> None:
    every = Flow(0, 1, (), TO_2)
    some = [Flow(0, 5, (exact("in_port", port),), ()) for port in (3, 4, 5)]
    assert said([*some], [*some, every]) == ["in_port is not 2-5: dropped → port 2"]
    assert changes([*some], [*some, every], ports=(4, 9))[0].packets == "in_port=9"


def test_tags_and_what_is_not_understood_are_part_of_the_fate() -> None:
    old = Flow(0, 5, (("vlan_tci", 0x1007, 0x1FFF),), (PopVlan(), *TO_2))
    new = Flow(0, 5, (("vlan_tci", 0x1007, 0x1FFF),), (PushVlan(8), *TO_2, Opaque("mystery(7)")))
    fates = {(each.was, each.becomes) for each in changes([old], [new])}
    assert fates == {("port 2", "port 2 tag 8 and mystery(7)"), ("dropped", "mystery(7)")}
    ends = [[old, Flow(0, 4, (), (Opaque(f"mystery({number})"),))] for number in (7, 8)]
    assert {(each.was, each.becomes) for each in changes(*ends)} == {("mystery(7)", "mystery(8)")}


def test_what_cannot_be_told_is_said_and_no_cube_holds_it() -> None:
    strange = Flow(0, 9, (exact("tp_dst", 80),), (Opaque("learn(table=1)"), Resubmit(1)))
    rest = [strange, Flow(0, 1, (), (Resubmit(1),))]
    found = changes([*rest, Flow(1, 1, (), TO_2)], [*rest, Flow(1, 1, (), (Normal(),))])
    assert [each.packets for each in found if each.untold] == ["not told: packets that meet the action learn(table=1)"]
    assert all("tp_dst is not 80" in each.packets for each in found if not each.untold)


def test_what_changes_for_live_connections_is_told() -> None:
    stateful = [Flow(0, 9, (), (Ct(zone=7, table=1),))]
    live = Flow(1, 5, (("ct_state", TRK | EST, TRK | EST),), (Normal(),))
    fresh = Flow(1, 4, (("ct_state", TRK | NEW, TRK | NEW),), (Normal(),))
    for before, after, word in ([live], [], "cut"), ([], [live], "freed"), ([fresh], [], ""):
        assert {each.live for each in changes([*stateful, *before], [*stateful, *after])} == {word}
    elsewhere = msgspec.structs.replace(live, actions=TO_2)
    assert {each.live for each in changes([*stateful, live], [*stateful, elsewhere], ports=(1, 3))} == {"moved"}


def test_a_change_of_numbers_alone_changes_nothing_for_packets() -> None:
    policy = policies.intent()
    old = policies.tables(policy)
    known = read_ids(old.values())
    anew = msgspec.structs.replace(known, by_cookie={})
    new = policies.tables(policy, known=anew)
    assert len(set(old) ^ set(new)) > 10
    assert changes(old.values(), new.values()) == ()
    fewer = policies.without_rules(policy, "web", 1)
    texts = [said([*old.values()], [*policies.tables(fewer, known=each).values()]) for each in (known, anew)]
    assert texts[0]
    assert texts[0] == texts[1]


def test_packets_that_come_back_to_their_port_do_not_split_a_group() -> None:
    """A group that allows itself: all members but oneself, for every member, is one kind."""
    old = policies.tables(policies.intent())
    new = policies.tables(policies.without_rules(policies.intent(), "db", 2))
    found = [each for each in changes(old.values(), new.values()) if each.returns]
    assert found
    assert all(len(each.targets) > 1 for each in found)


def test_limits_are_said() -> None:
    old, new = policies.tables(policies.intent()), policies.tables(policies.without_rules(policies.intent(), "db", 2))
    with pytest.raises(LimitError, match="2000 nodes"):
        changes(old.values(), new.values(), limits=Limits(nodes=2000))
    assert len(changes(old.values(), new.values(), most=1)) == 1
