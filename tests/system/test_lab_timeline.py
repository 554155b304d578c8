"""The picture: phases from events, nothing invented, nothing dropped, and well-formed SVG."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitless.lab.probe.capture import EspUse
from hitless.lab.probe.udp import LossMark, Mark
from hitless.lab.timeline import PHASES, Event, Span, bars, draw, pack, parse_log_line

ROTATION = (
    Event(10.0, "n1", "key-loaded", 2),
    Event(10.1, "n1", "in-installed", 2),
    Event(10.2, "n1", "out-installed", 2),
    Event(10.3, "n1", "published", 2),
    Event(10.5, "n1", "peer-switched", 2, "n2"),
    Event(10.9, "n1", "peer-switched", 2, "n3"),
    Event(10.0, "n1", "adopted", 1),
    Event(11.5, "n1", "drained", 1),
    Event(11.6, "n1", "retired", 1),
)


def test_a_rotation_becomes_two_bars() -> None:
    old, new = bars(ROTATION, end=12.0)
    assert new.spans == (
        Span("loaded", 10.0, 10.1),
        Span("installing", 10.1, 10.3),
        Span("waiting", 10.3, 10.9),
        Span("switched", 10.9, 12.0),
    )
    assert not new.retired
    # The old key drains from the moment the last peer was switched away from it.
    assert old.spans == (Span("switched", 10.0, 10.9), Span("draining", 10.9, 11.6))
    assert old.retired


def test_a_repeated_event_does_not_move_a_phase() -> None:
    again = (*ROTATION, Event(11.9, "n1", "published", 2), Event(11.9, "n1", "peer-switched", 2, "n2"))
    assert bars(again, end=12.0) == bars(ROTATION, end=12.0)


def test_the_order_of_the_log_does_not_matter() -> None:
    assert bars(ROTATION[::-1], end=12.0) == bars(ROTATION, end=12.0)


def test_a_generation_that_never_got_through_stays_waiting() -> None:
    (only,) = bars(ROTATION[:4], end=99.0)
    assert only.spans[-1] == Span("waiting", 10.3, 99.0)


def test_bars_that_overlap_lie_in_different_rows() -> None:
    rows = pack(bars(ROTATION, end=12.0))
    assert [[bar.generation for bar in row] for row in rows] == [[1], [2]]


@pytest.mark.parametrize("line", [b"", b"Traceback (most recent call last):", b'{"event": "started"}', b'{"node":'])
def test_other_lines_are_no_events(line: bytes) -> None:
    assert parse_log_line(line) is None


def test_a_log_line_with_more_fields_is_an_event() -> None:
    line = b'{"event":"published","node":"n1","monotonic":1.5,"generation":7,"count":3,"level":"info"}'
    assert parse_log_line(line) == Event(1.5, "n1", "published", 7)


def text_of(svg: str) -> tuple[ET.Element, str]:
    root = ET.fromstring(svg)  # noqa: S314 - our own text
    return root, " ".join(root.itertext())


def test_the_picture_shows_every_lane_and_counts_the_losses() -> None:
    loss = [LossMark(10.4 + i * 0.001, i, "c1>c2/4") for i in range(54)] + [LossMark(11.9, 99, "c3>c2/4")]
    esp = [EspUse("192.0.2.1", "192.0.2.2", 0x0230002A, 1234, 10.5, 12.0)]
    marks = [Mark(10.0, "key new")]
    root, text = text_of(draw("rotate <&> more", ROTATION, loss, esp, marks, "3 nodes", {"192.0.2.1": "n1"}))
    assert root.get("width") == "1200"
    assert root.get("role") == "img"
    wire = ("n1 \u2192 192.0.2.2", "0230002a")
    for part in ("rotate <&> more", "3 nodes", *wire, "key new", "c1>c2/4", "54", "c3>c2/4"):
        assert part in text
    # Not by colour alone: every phase of the legend is also written out, and the moving ones have a texture.
    classes = [element.get("class") for element in root.iter()]
    assert all(phase in classes for phase in PHASES)
    assert {p.get("id") for p in root.iter("{http://www.w3.org/2000/svg}pattern")} == {
        "p-installing", "p-waiting", "p-draining",
    }  # fmt: skip


def test_a_run_without_events_is_still_a_picture() -> None:
    root, text = text_of(draw("nothing happened", []))
    assert "nothing happened" in text
    assert float(str(root.get("height"))) > 0


EVENTS = st.builds(
    Event,
    st.floats(0, 1e5),
    st.sampled_from(["n1", "n2", "n10"]),
    st.sampled_from(("key-loaded", "in-installed", "published", "peer-switched", "retired", "started", "adopted", "&")),
    st.integers(0, 4),
    st.sampled_from(["", "n1", "n2"]),
)


@given(st.lists(EVENTS, max_size=30), st.lists(st.builds(Mark, st.floats(0, 1e5), st.text("a<&'\"\u2192", max_size=9))))
def test_any_events_make_a_well_formed_picture_inside_its_frame(events: list[Event], marks: list[Mark]) -> None:
    root, _ = text_of(draw("any", events, marks=marks))
    for rect in root.iter("{http://www.w3.org/2000/svg}rect"):
        assert float(rect.get("x", "0")) + float(rect.get("width", "0")) <= 1200
    for bar in bars(events, end=2e5):
        assert all(before.end <= after.begin for before, after in zip(bar.spans, bar.spans[1:], strict=False))
