"""The picture of a run: which node was in which phase of which key when, what was on the wire, and what was lost.

A pure function from events to SVG text. One lane per node: each key generation is a bar, cut into the phases of the
handover; two bars lie below each other while a node holds two generations. Below, one lane per direction shows the
ESP packets by SPI, and one lane per pair that lost something shows when. Phases differ in colour *and* texture.
Times are CLOCK_MONOTONIC of one kernel, so every lane has the same clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final

import msgspec

from hitless.lab.probe.capture import EspUse
from hitless.lab.probe.udp import LossMark, Mark

WIDTH: Final = 1200
_LEFT, _RIGHT, _TOP = 92, 28, 118
_ROW, _ROW_GAP, _LANE_GAP = 20, 3, 14
_PLOT: Final = WIDTH - _LEFT - _RIGHT

PHASES: Final = ("loaded", "installing", "waiting", "switched", "draining")
_TEXTS: Final = {
    "loaded": "loaded",
    "installing": "installing",
    "waiting": "published, waiting for peers",
    "switched": "all peers switched",
    "draining": "draining",
}
_BEGINS: Final = {"key-loaded": "loaded", "in-installed": "installing", "out-installed": "installing",
                  "published": "waiting"}  # fmt: skip
# What stands beside the bars: it happens to a node, not to a generation's phase.
_INCIDENTS: Final = frozenset(
    ("started", "adopted", "crash-point", "key-refused", "install-failed", "stopped", "killed", "node-joined")
)


class Event(msgspec.Struct, frozen=True):
    """One line of an agent's log. `monotonic` is seconds; lines without a node or a time are no events."""

    monotonic: float
    node: str
    event: str
    generation: int = 0
    peer: str = ""


class Span(msgspec.Struct, frozen=True):
    """A stretch of one generation's bar, in seconds."""

    phase: str
    begin: float
    end: float


class Bar(msgspec.Struct, frozen=True):
    """One generation at one node: its phases in order, and whether it was retired at the end of the last."""

    node: str
    generation: int
    spans: tuple[Span, ...]
    retired: bool

    @property
    def begin(self) -> float:
        return self.spans[0].begin

    @property
    def end(self) -> float:
        return self.spans[-1].end


def parse_log_line(line: bytes | str) -> Event | None:
    """An agent's JSON line as an event; None for anything else (a warning of the interpreter, a torn last line)."""
    try:
        return msgspec.json.decode(line, type=Event)
    except msgspec.DecodeError:
        return None


# --- from events to bars ----------------------------------------------------------------------------------


def bars(events: Sequence[Event], end: float) -> tuple[Bar, ...]:
    """Every generation of every node as a bar, in the order of nodes and generations. `end` closes what still lasts."""
    found: dict[tuple[str, int], list[Event]] = {}
    for event in sorted(events, key=lambda e: e.monotonic):
        if event.generation:
            found.setdefault((event.node, event.generation), []).append(event)
    switched = {key: _all_switched(own) for key, own in found.items()}
    rows = []
    for (node, generation), own in sorted(found.items()):
        later = [at for (n, g), at in switched.items() if n == node and g > generation and at is not None]
        bar = _bar(node, generation, own, switched[node, generation], min(later, default=None), end)
        if bar is not None:
            rows.append(bar)
    return tuple(rows)


def _all_switched(own: Sequence[Event]) -> float | None:
    """When the last of the peers that ever switched did so first."""
    first: dict[str, float] = {}
    for event in own:
        if event.event == "peer-switched":
            first.setdefault(event.peer, event.monotonic)
    return max(first.values(), default=None)


def _bar(
    node: str, generation: int, own: Sequence[Event], switched: float | None, superseded: float | None, end: float
) -> Bar | None:
    begins: dict[str, float] = {}
    for event in own:
        if phase := _BEGINS.get(event.event):
            begins.setdefault(phase, event.monotonic)
    # An adopted generation has no beginning of its own: it was in use before the agent started.
    adopted = next((e.monotonic for e in own if e.event == "adopted"), None)
    if switched is None and adopted is not None and not begins:
        switched = adopted
    if switched is not None:
        begins["switched"] = switched
    if superseded is not None:
        begins["draining"] = superseded
    # The last one counts: a generation stays in use with a late peer long after the others have retired it.
    retired = max((e.monotonic for e in own if e.event == "retired"), default=None)
    stop = end if retired is None else retired
    order = [(begins[phase], phase) for phase in PHASES if phase in begins]
    spans = []
    for position, (begin, phase) in enumerate(order):
        until = min([at for at, _ in order[position + 1 :]] + [stop])
        if until >= begin:
            spans.append(Span(phase, begin, until))
    return Bar(node, generation, tuple(spans), retired is not None) if spans else None


def pack(own: Sequence[Bar]) -> list[list[Bar]]:
    """Bars into as few rows as keep them from overlapping, in the order of their beginnings."""
    rows: list[list[Bar]] = []
    for bar in sorted(own, key=lambda b: (b.begin, b.generation)):
        for row in rows:
            if row[-1].end <= bar.begin:
                row.append(bar)
                break
        else:
            rows.append([bar])
    return rows


# --- the picture ------------------------------------------------------------------------------------------


class _Canvas:
    """SVG elements in drawing order, and the scale of time."""

    def __init__(self, begin: float, end: float) -> None:
        self.begin = begin
        self.seconds = max(end - begin, 1e-3)
        self.y = float(_TOP)
        self.out: list[str] = []

    def x(self, at: float) -> float:
        share = (at - self.begin) / self.seconds
        return _LEFT + _PLOT * min(max(share, 0.0), 1.0)

    def add(self, element: str) -> None:
        self.out.append(element)

    def text(self, x: float, y: float, content: str, style: str = "", extra: str = "") -> None:
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" {extra}>{escape(content)}</text>')

    def rect(self, begin: float, end: float, y: float, style: str, hint: str, height: float = _ROW) -> float:
        """A stretch of time, at least one pixel wide so that nothing disappears; its width."""
        x = self.x(begin)
        width = max(self.x(end) - x, 1.0)
        self.add(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.0f}" class="{style}">'
            f"<title>{escape(hint)}</title></rect>"
        )
        return width


_STYLE: Final = """
text{font:12px 'DejaVu Sans','Segoe UI',Helvetica,Arial,sans-serif;fill:#1f2933}
.title{font-size:19px;font-weight:600}.sub{fill:#52606d;font-size:13px}.lane{font-weight:600;text-anchor:end}
.small{font-size:10.5px;fill:#52606d}.axis{font-size:11px;fill:#52606d;text-anchor:middle}
.section{font-size:11px;fill:#52606d;letter-spacing:.06em}.in{font-size:11px;text-anchor:middle;font-weight:600}
.grid{stroke:#e4e7eb;stroke-width:1}.rule{stroke:#cbd2d9}.band{fill:#f7f9fb}
.loaded{fill:#cfd8e3}.installing{fill:url(#p-installing)}.waiting{fill:url(#p-waiting)}
.switched{fill:#8fd0b5}.draining{fill:url(#p-draining)}.edge{fill:none;stroke:#3e4c59;stroke-width:1}
.retired{stroke:#1f2933;stroke-width:3}.esp0{fill:#b9d3ee}.esp1{fill:#f3d9a4}.esp2{fill:#d5c7e8}
.lost{stroke:#c81e1e;stroke-width:2}.lostn{fill:#c81e1e;font-weight:600;font-size:11px}
.mark{stroke:#7b8794;stroke-dasharray:4 3}.marked{font-size:10.5px;fill:#3e4c59}.incident{fill:#1f2933}
.halo{paint-order:stroke;stroke:#fff;stroke-width:3px;stroke-linejoin:round}
"""
_PATTERNS: Final = """<defs>
<pattern id="p-installing" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
<rect width="7" height="7" fill="#8dbdea"/><rect width="2.5" height="7" fill="#3f7fbf"/></pattern>
<pattern id="p-waiting" width="7" height="7" patternUnits="userSpaceOnUse">
<rect width="7" height="7" fill="#fbe3a6"/><circle cx="3.5" cy="3.5" r="1.5" fill="#b7791f"/></pattern>
<pattern id="p-draining" width="6" height="6" patternUnits="userSpaceOnUse">
<rect width="6" height="6" fill="#e3d7f0"/><rect y="2" width="6" height="1.6" fill="#8a63b5"/></pattern>
</defs>"""


def draw(
    title: str,
    events: Sequence[Event],
    loss: Sequence[LossMark] = (),
    esp: Sequence[EspUse] = (),
    marks: Sequence[Mark] = (),
    subtitle: str = "",
    names: Mapping[str, str] | None = None,
) -> str:
    """The run as an SVG document, 1200 wide and as high as its lanes need.

    `names` maps underlay addresses to node names, for the lanes of what was on the wire.
    """
    times = [e.monotonic for e in events] + [m.monotonic for m in loss] + [m.monotonic for m in marks]
    times += [use.first for use in esp] + [use.last for use in esp]
    canvas = _Canvas(min(times, default=0.0), max(times, default=1.0))
    _node_lanes(canvas, events, max(times, default=1.0))
    _wire_lanes(canvas, esp, names or {})
    _loss_lanes(canvas, loss)
    bottom = canvas.y
    frame = _Canvas(canvas.begin, canvas.begin + canvas.seconds)
    _axis(frame, bottom)
    _mark_lines(frame, marks, bottom)
    lost = len(loss)
    told = f"{title}. {subtitle} Lanes: {', '.join(sorted({e.node for e in events}))}. {lost} lost packets are marked."
    height = bottom + 34
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" role="img" aria-labelledby="t d"><title id="t">{escape(title)}</title>'
        f'<desc id="d">{escape(told)}</desc><style>{_STYLE}</style>{_PATTERNS}'
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="#fff"/>'
    )
    top = _Canvas(0, 1)
    top.text(20, 32, title, "title")
    top.text(20, 53, subtitle, "sub")
    _legend(top, bool(loss))
    return "\n".join((head, *top.out, *frame.out, *canvas.out, "</svg>")) + "\n"


def _legend(canvas: _Canvas, with_loss: bool) -> None:
    x, y = 20.0, 66.0
    for phase in PHASES:
        canvas.add(f'<rect x="{x}" y="{y}" width="24" height="13" class="{phase}"/>')
        canvas.add(f'<rect x="{x}" y="{y}" width="24" height="13" class="edge"/>')
        canvas.text(x + 30, y + 11, _TEXTS[phase])
        x += 48 + 6.9 * len(_TEXTS[phase])
    canvas.add(f'<line x1="{x + 4}" x2="{x + 4}" y1="{y - 1}" y2="{y + 14}" class="retired"/>')
    canvas.text(x + 12, y + 11, "retired")
    x += 76
    canvas.add(f'<path d="M{x} {y + 2}h10l-5 9z" class="incident"/>')
    canvas.text(x + 16, y + 11, "incident")
    x += 84
    if with_loss:
        canvas.add(f'<line x1="{x + 4}" x2="{x + 4}" y1="{y - 1}" y2="{y + 14}" class="lost"/>')
        canvas.text(x + 12, y + 11, "lost packets")


def _section(canvas: _Canvas, text: str) -> None:
    canvas.text(20, canvas.y + 9, text.upper(), "section halo")
    canvas.y += 18


def _node_lanes(canvas: _Canvas, events: Sequence[Event], end: float) -> None:
    every = bars(events, end)
    nodes = sorted({event.node for event in events}, key=_natural)
    if nodes:
        _section(canvas, "keys at each node (number: generation)")
    for node in nodes:
        rows = pack([bar for bar in every if bar.node == node])
        incidents = [e for e in events if e.node == node and e.event in _INCIDENTS]
        height = max(len(rows), 1) * (_ROW + _ROW_GAP) + (16 if incidents else 0)
        canvas.add(
            f'<rect x="{_LEFT}" y="{canvas.y - 4:.1f}" width="{_PLOT}" height="{height + 5}" class="band" '
            'fill-opacity="0.75"/>'
        )
        canvas.text(_LEFT - 12, canvas.y + 15, node, "lane")
        if incidents:
            _incidents(canvas, incidents)
            canvas.y += 16
        for row in rows:
            for bar in row:
                _draw_bar(canvas, bar)
            canvas.y += _ROW + _ROW_GAP
        canvas.y += _LANE_GAP + (0 if rows else _ROW)


def _draw_bar(canvas: _Canvas, bar: Bar) -> None:
    for span in bar.spans:
        took = f"{span.end - span.begin:.3f} s"
        since = f"{span.begin - canvas.begin:.3f} s"
        hint = f"{bar.node} generation {bar.generation}: {_TEXTS[span.phase]}, {took} from {since}"
        canvas.rect(span.begin, span.end, canvas.y, span.phase, hint)
    left, right = canvas.x(bar.begin), max(canvas.x(bar.end), canvas.x(bar.begin) + 1)
    canvas.add(
        f'<rect x="{left:.1f}" y="{canvas.y:.1f}" width="{right - left:.1f}" height="{_ROW}" class="edge"/>'
    )
    if bar.retired:
        canvas.add(
            f'<line x1="{right:.1f}" x2="{right:.1f}" y1="{canvas.y - 2:.1f}" y2="{canvas.y + _ROW + 2:.1f}" '
            'class="retired"/>'
        )
    widest = max(bar.spans, key=lambda span: (span.phase == "switched", span.end - span.begin))
    label = str(bar.generation)
    if right - left > 9 * len(label) + 4:
        middle = (canvas.x(widest.begin) + canvas.x(widest.end)) / 2
        middle = min(max(middle, left + 5 + 4 * len(label)), right - 5 - 4 * len(label))
        canvas.text(middle, canvas.y + 14, label, "in halo")


def _incidents(canvas: _Canvas, incidents: Iterable[Event]) -> None:
    """Triangles; the text of one that stands too close to its neighbour is left to the tooltip."""
    free = 0.0
    ordered = sorted(incidents, key=lambda e: e.monotonic)
    following = [canvas.x(e.monotonic) for e in ordered[1:]] + [float(WIDTH)]
    for event, limit in zip(ordered, following, strict=True):
        x = canvas.x(event.monotonic)
        about = f"{event.event} {event.peer}".strip()
        canvas.add(
            f'<path d="M{x - 4:.1f} {canvas.y + 3:.1f}h8l-4 8z" class="incident">'
            f"<title>{escape(about)} at {event.monotonic - canvas.begin:.3f} s</title></path>"
        )
        width = 6.2 * len(about)
        if x >= free and x + 8 + width < limit - 4:
            canvas.text(x + 7, canvas.y + 11, about, "small")
            free = x + 14 + width


def _wire_lanes(canvas: _Canvas, esp: Sequence[EspUse], names: Mapping[str, str]) -> None:
    lanes: dict[str, list[EspUse]] = {}
    for use in sorted(esp, key=lambda u: u.first):
        name = f"{names.get(use.src, use.src)} \u2192 {names.get(use.dst, use.dst)}"
        lanes.setdefault(name, []).append(use)
    if lanes:
        _section(canvas, "on the wire: ESP packets by SPI")
    shades: dict[int, int] = {}
    for use in sorted(esp, key=lambda u: u.first):
        # The high octet of an SPI tells the generation: one shade for one key in every lane.
        shades.setdefault(use.spi >> 24, len(shades) % 3)
    for name, uses in sorted(lanes.items(), key=lambda item: _natural(item[0])):
        canvas.text(_LEFT - 12, canvas.y + 12, name, "small", 'text-anchor="end"')
        for use in uses:
            hint = f"{name} SPI {use.spi:#010x}: {use.packets:,} packets"
            width = canvas.rect(use.first, use.last, canvas.y, f"esp{shades[use.spi >> 24]}", hint, 16)
            x = canvas.x(use.first)
            canvas.add(f'<path d="M{x:.1f} {canvas.y:.1f}v16" stroke="#3e4c59"/>')
            label = f"{use.spi:08x}" if width > 66 else f"{use.spi >> 24:02x}" if width > 20 else ""
            if label:
                canvas.text(x + width / 2, canvas.y + 12, label, "in", 'style="font-weight:400;font-size:10.5px"')
        canvas.y += 20
    canvas.y += _LANE_GAP if lanes else 0


def _loss_lanes(canvas: _Canvas, loss: Sequence[LossMark]) -> None:
    lanes: dict[str, list[float]] = {}
    for mark in loss:
        lanes.setdefault(mark.pair, []).append(mark.monotonic)
    if lanes:
        _section(canvas, "lost packets by pair, at the moment of sending")
    for pair, times in sorted(lanes.items()):
        canvas.text(_LEFT - 12, canvas.y + 12, pair, "small", 'text-anchor="end"')
        canvas.add(
            f'<line x1="{_LEFT}" x2="{_LEFT + _PLOT}" y1="{canvas.y + 8:.1f}" y2="{canvas.y + 8:.1f}" class="rule"/>'
        )
        for first, last, count in _clusters(sorted(times), canvas.seconds * 24 / _PLOT):
            begin, end = canvas.x(first), canvas.x(last)
            for at in {round(canvas.x(t)) for t in times if first <= t <= last}:
                canvas.add(f'<line x1="{at}" x2="{at}" y1="{canvas.y:.1f}" y2="{canvas.y + 16:.1f}" class="lost"/>')
            # Beside its ticks, or on their left where the picture ends.
            if end + 40 < WIDTH:
                canvas.text(end + 5, canvas.y + 12, f"{count:,}", "lostn halo")
            else:
                canvas.text(begin - 5, canvas.y + 12, f"{count:,}", "lostn halo", 'text-anchor="end"')
        canvas.y += 22
    canvas.y += _LANE_GAP if lanes else 0


def _clusters(times: Sequence[float], gap_seconds: float) -> list[tuple[float, float, int]]:
    """Moments closer together than the gap, as (first, last, count): their numbers would overprint each other."""
    found: list[tuple[float, float, int]] = []
    for at in times:
        if found and at - found[-1][1] < gap_seconds:
            found[-1] = (found[-1][0], at, found[-1][2] + 1)
        else:
            found.append((at, at, 1))
    return found


def _axis(canvas: _Canvas, bottom: float) -> None:
    step = next((s * 10**e for e in range(-3, 5) for s in (1, 2, 5) if canvas.seconds / (s * 10**e) <= 12), 10**5)
    digits = max(0, -next(e for e in range(-3, 6) if 10 ** (e + 1) > step))
    count = int(canvas.seconds / step + 1e-9)
    for i in range(count + 1):
        x = canvas.x(canvas.begin + i * step)
        canvas.add(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 6}" y2="{bottom:.1f}" class="grid"/>')
        canvas.text(x, bottom + 16, f"{i * step:.{digits}f} s", "axis")


def _mark_lines(canvas: _Canvas, marks: Sequence[Mark], bottom: float) -> None:
    free = 0.0
    for mark in sorted(marks, key=lambda m: m.monotonic):
        x = canvas.x(mark.monotonic)
        canvas.add(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 12}" y2="{bottom:.1f}" class="mark">'
            f"<title>{escape(mark.text)}</title></line>"
        )
        width = 6.0 * len(mark.text)
        at_right_edge = x + width + 6 > WIDTH
        if x - (width if at_right_edge else 0) >= free:
            canvas.text(x - 3 if at_right_edge else x + 3, _TOP - 16, mark.text, "marked",
                        'text-anchor="end"' if at_right_edge else "")  # fmt: skip
            free = x + width + 8


def _natural(name: str) -> tuple[int, str]:
    """Node 2 before node 10."""
    digits = "".join(c if c.isdigit() else " " for c in name).split()
    return (int(digits[0]) if digits else 0, name)
