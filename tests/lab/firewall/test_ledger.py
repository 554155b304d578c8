"""One direction's ledger: what is lost, doubled, leaked and silent, and when it counts."""

from __future__ import annotations

import pytest

from hitless.lab.firewall.ledger import Direction
from hitless.lab.firewall.streams import Expected, Stream, check, unsolicited
from hitless.lab.kernel import LabError

SECOND = 1_000_000_000


def sent(expected: Expected, times: int) -> Direction:
    direction = Direction(expected)
    for i in range(1, times + 1):
        direction.send(i * SECOND)
    return direction


def test_a_message_that_did_not_arrive_is_lost_and_one_that_came_twice_is_doubled() -> None:
    direction = sent("pass", 4)
    for number in (0, 2, 2, 3):
        direction.arrive(number, 5 * SECOND)
    assert direction.lost(9 * SECOND) == [1]
    assert (direction.arrived, direction.duplicated, direction.leaked) == (3, 1, 0)


def test_a_message_that_may_still_arrive_is_not_lost() -> None:
    direction = sent("pass", 3)
    assert direction.lost(2 * SECOND) == [0, 1]


def test_an_outage_lasts_from_the_first_loss_to_the_first_message_that_passed_again() -> None:
    direction = sent("pass", 6)
    for number in (0, 2, 5):
        direction.arrive(number, 7 * SECOND)
    assert direction.outage_seconds(direction.lost(9 * SECOND)) == 4.0
    direction = sent("pass", 3)
    direction.arrive(0, 4 * SECOND)
    assert direction.outage_seconds(direction.lost(9 * SECOND)) is None
    assert direction.outage_seconds([]) == 0.0


def test_each_message_is_judged_by_what_was_expected_when_it_was_sent() -> None:
    direction = Direction("pass")
    numbers = []
    in_turn: tuple[Expected, ...] = ("pass", "any", "drop")
    for expected in in_turn:
        direction.expect(expected, SECOND)
        numbers += [direction.send(SECOND), direction.send(SECOND)]
    for number in numbers[1::2]:
        direction.arrive(number, 2 * SECOND)
    assert direction.lost(9 * SECOND) == numbers[:1]
    assert direction.leaked == 1


def test_what_tcp_repeats_is_judged_by_what_is_expected_when_it_arrives() -> None:
    direction = sent("pass", 2)
    direction.arrive(0, 2 * SECOND, late_is_leak=True)
    direction.expect("drop", 3 * SECOND)
    direction.arrive(1, 4 * SECOND, late_is_leak=True)
    assert direction.leaked == 1


def test_a_silence_that_lasts_until_now_counts_and_one_that_was_not_judged_does_not() -> None:
    direction = sent("pass", 1)
    direction.arrive(0, 2 * SECOND)
    assert direction.silence_seconds(5 * SECOND) == 3.0
    direction.expect("any", 6 * SECOND)
    direction.expect("pass", 60 * SECOND)
    assert direction.silence_seconds(61 * SECOND) == 4.0


def test_counting_anew_forgets_everything_and_what_is_on_its_way() -> None:
    direction = sent("drop", 2)
    direction.arrive(0, 2 * SECOND)
    direction.judge_from_here(3 * SECOND)
    direction.arrive(1, 3 * SECOND)
    assert (direction.sent, direction.arrived, direction.leaked, direction.lost(9 * SECOND)) == (0, 0, 0, [])


@pytest.mark.parametrize(
    "second",
    [
        Stream("one", "udp", "a", "b", 2),
        Stream("two", "udp", "a", "b", 1),
        Stream("two", "udp", "a", "a", 2),
        Stream("two", "udp", "a", "b", 2, pps=0.0),
    ],
)
def test_streams_that_cannot_be_told_apart_or_say_nothing_are_refused(second: Stream) -> None:
    with pytest.raises(LabError) as caught:
        check([Stream("one", "udp", "a", "b", 1), second])
    assert caught.value.code == "bad-stream"


def test_unsolicited_traffic_goes_the_other_way_and_must_drop() -> None:
    back = unsolicited(Stream("one", "tcp", "a", "b", 1, ipv6=True), 5)
    assert (back.source, back.destination, back.port, back.expected, back.ipv6) == ("b", "a", 5, "drop", True)
