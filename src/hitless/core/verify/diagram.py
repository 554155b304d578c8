"""A counterexample as a sequence diagram: a lane for each node and the store, a row for each step.

An arrow is something written to the store or learned from it; a dot is what a node does alone. The sentences are the
story's, so text and picture never disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

import msgspec

from hitless.core.ipsec.state import Publish, Reincarnate
from hitless.core.verify.explore import Counterexample
from hitless.core.verify.model import Action, HandoverModel, World
from hitless.core.verify.story import story

STORE = "store"
_FROM_STORE = frozenset({"deliver", "reconnect", "notice", "crash", "reboot", "move"})
_AT_STORE = frozenset({"delete", "expire", "remove", "restore", "wipe"})
_LANE, _ROW, _LEFT, _TOP = 130, 24, 60, 46


class Row(msgspec.Struct, frozen=True):
    """One step: from one lane to another, or at one (`source` is `target`), or at all of them ("" and "")."""

    source: str
    target: str
    text: str


class Diagram(msgspec.Struct, frozen=True):
    """Lanes from left to right, rows from above, and what is wrong in the end."""

    lanes: tuple[str, ...]
    rows: tuple[Row, ...]
    verdict: str


def diagram(model: HandoverModel, found: Counterexample[World, Action]) -> Diagram:
    """The store's lane stands in the middle."""
    middle = len(model.names) // 2
    lanes = (*model.names[:middle], STORE, *model.names[middle:])
    *sentences, verdict = story(model, found)
    rows, world = [], found.start
    for (action, after), text in zip(found.steps, sentences, strict=True):
        rows.append(Row(*_ends(model, world, action), text))
        world = after
    return Diagram(lanes, tuple(rows), verdict)


def _ends(model: HandoverModel, world: World, action: Action) -> tuple[str, str]:
    if action.node < 0 and action.what not in _AT_STORE:
        return "", ""
    if action.what in _AT_STORE:
        return STORE, STORE
    name = model.names[action.node]
    if action.what in _FROM_STORE:
        return STORE, name
    writes = action.what in ("load", "beat") or (
        action.what == "perform"
        and isinstance(model.node(world, action.node).pending[0].effect, Publish | Reincarnate)
    )
    return (name, STORE) if writes else (name, name)


def text(drawn: Diagram, width: int = 11) -> str:
    """Lanes of characters, `width` columns each; the sentences stand on the right."""
    lines = ["".join(lane.center(width) for lane in drawn.lanes).rstrip()]
    lines += [f"{_cells(drawn.lanes, row, width)}  {row.text}" for row in drawn.rows]
    return "\n".join([*lines, drawn.verdict])


def _cells(lanes: Sequence[str], row: Row, width: int) -> str:
    cells = [" "] * (width * len(lanes))
    middle = {lane: width * at + width // 2 for at, lane in enumerate(lanes)}
    for lane, at in middle.items():
        cells[at] = "*" if row.source == row.target == lane else "=" if not row.source else "|"
    if row.source != row.target:
        begin, end = middle[row.source], middle[row.target]
        low, high = sorted((begin, end))
        cells[low + 1 : high] = "-" * (high - low - 1)
        cells[end - 1 if end > begin else end + 1] = ">" if end > begin else "<"
    return "".join(cells)


def svg(drawn: Diagram) -> str:
    """The same as a picture that stands alone: no script, no style sheet, text stays text."""
    middle = {lane: _LEFT + _LANE * at for at, lane in enumerate(drawn.lanes)}
    beside = _LEFT + _LANE * len(drawn.lanes) - _LANE // 2
    bottom = _TOP + _ROW * (len(drawn.rows) + 1)
    longest = max(len(each) for each in (*(row.text for row in drawn.rows), drawn.verdict))
    width, height = beside + 7 * longest + 20, bottom + _ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13" role="img">',
        f"<title>{escape(drawn.verdict)}</title>",
        '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="8" refY="4" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#1f4e79"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for lane, at in middle.items():
        parts.append(f'<text x="{at}" y="24" text-anchor="middle" font-weight="bold">{escape(lane)}</text>')
        parts.append(f'<line x1="{at}" y1="32" x2="{at}" y2="{bottom - _ROW // 2}" stroke="#999999"/>')
    for number, row in enumerate(drawn.rows):
        down = _TOP + _ROW * number
        parts.append(_mark(row, middle, down))
        parts.append(f'<text x="{beside}" y="{down + 4}">{escape(row.text)}</text>')
    parts.append(f'<text x="{_LEFT}" y="{bottom}" fill="#b00020" font-weight="bold">{escape(drawn.verdict)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _mark(row: Row, middle: dict[str, int], down: int) -> str:
    if not row.source:
        left, right = min(middle.values()), max(middle.values())
        return f'<line x1="{left}" y1="{down}" x2="{right}" y2="{down}" stroke="#999999" stroke-dasharray="4 4"/>'
    begin, end = middle[row.source], middle[row.target]
    if begin == end:
        return f'<circle cx="{begin}" cy="{down}" r="4" fill="#1f4e79"/>'
    return f'<line x1="{begin}" y1="{down}" x2="{end}" y2="{down}" stroke="#1f4e79" marker-end="url(#tip)"/>'
