"""YAML text to nodes that know their lines.

YAML is read as events and not with a loader: nothing in a text can build an object, nesting has a limit (libyaml's own
composer overruns its stack), and an alias is a second way to the same node, never a copy, so that a few lines cannot
grow to billions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import yaml

DEPTH_LIMIT = 16  # a document is 6 levels deep
_SHOWN = 60  # characters of a tag in a message
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the former where libyaml is there: much faster
_PLAIN_TAGS: Final = (None, "!", *(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "bool", "map", "seq")))
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})


class BrokenError(Exception):
    """The rest of a text cannot be read, for a reason (`code`) that stands in a line (0: unknown)."""

    def __init__(self, code: str, message: str, line: int) -> None:
        super().__init__(message)
        self.code, self.line = code, line


class Scalar:
    """A single value as it is written; `plain` is without quotes."""

    __slots__ = ("line", "plain", "text")

    def __init__(self, text: str, plain: bool, line: int) -> None:
        self.text, self.plain, self.line = text, plain, line

    @property
    def empty(self) -> bool:
        """Nothing stands there."""
        return self.plain and self.text in _NULLS


class Items:
    """A list."""

    __slots__ = ("items", "line")

    def __init__(self, line: int) -> None:
        self.line = line
        self.items: list[Node] = []


class Fields:
    """Fields by name; those that are there `twice` apart."""

    __slots__ = ("fields", "key", "line", "twice")

    def __init__(self, line: int) -> None:
        self.line = line
        self.fields: dict[str, tuple[int, Node]] = {}  # key -> its line, and what stands behind it
        self.twice: list[tuple[str, int]] = []
        self.key: Scalar | None = None


Node = Scalar | Items | Fields


def roots(text: str) -> Iterator[Node]:
    """The root of each document, as far as the text can be read. Raises BrokenError."""
    try:
        yield from _Composer().roots(yaml.parse(text, Loader=_LOADER))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        line = mark.line + 1 if mark is not None else 0
        raise BrokenError("intent-not-yaml", f"not YAML: {what}; mend the line, or the one before it", line) from None
    except UnicodeError:
        raise BrokenError("intent-not-yaml", "not YAML: half a surrogate pair in it; write it in UTF-8", 0) from None


class _Composer:
    """Events to nodes, with a stack of its own instead of recursion."""

    def __init__(self) -> None:
        self.stack: list[Items | Fields] = []
        self.anchors: dict[str, Node] = {}
        self.root: Node | None = None

    def roots(self, events: Iterator[Any]) -> Iterator[Node]:
        for event in events:
            if isinstance(event, yaml.ScalarEvent | yaml.MappingStartEvent | yaml.SequenceStartEvent):
                made = self.node(event)
                self.add(made)
                if not isinstance(made, Scalar):
                    self.stack.append(made)
                if len(self.stack) > DEPTH_LIMIT:
                    message = f"lists and mappings {len(self.stack)} deep; no document needs over {DEPTH_LIMIT}"
                    raise BrokenError("intent-too-deep", message, made.line)
            elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
                self.stack.pop()
            elif isinstance(event, yaml.AliasEvent):
                self.add(self.alias(event))
            elif isinstance(event, yaml.DocumentEndEvent) and self.root is not None:
                yield self.root
                self.root = None
                self.anchors.clear()

    def alias(self, event: Any) -> Node:
        if event.anchor not in self.anchors:
            message = f"there is no anchor &{event.anchor} above it; write the value itself"
            raise BrokenError("intent-not-yaml", message, event.start_mark.line + 1)
        return self.anchors[event.anchor]

    def node(self, event: Any) -> Node:
        line = event.start_mark.line + 1
        if event.tag not in _PLAIN_TAGS:
            raise BrokenError("intent-tag", f"the tag {event.tag[:_SHOWN]!r} has no meaning here; leave it out", line)
        made: Node
        if isinstance(event, yaml.ScalarEvent):
            made = Scalar(event.value, event.implicit[0], line)
        else:
            made = Fields(line) if isinstance(event, yaml.MappingStartEvent) else Items(line)
        if event.anchor:
            self.anchors[event.anchor] = made
        return made

    def add(self, made: Node) -> None:
        match self.stack[-1] if self.stack else None:
            case None:
                self.root = made
            case Items() as above:
                above.items.append(made)
            case Fields(key=None) as above:
                if not isinstance(made, Scalar):
                    raise BrokenError("intent-not-yaml", "a list or mapping cannot be a field's name", made.line)
                above.key = made
            case Fields(key=key) as above if key is not None:
                if key.text in above.fields:
                    above.twice.append((key.text, key.line))
                above.fields.setdefault(key.text, (key.line, made))
                above.key = None
