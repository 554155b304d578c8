"""The store's thread must wake up by itself, for ever: other processes' changes are seen by polling."""

from __future__ import annotations

import ast
from pathlib import Path

import hitless

SOURCES = Path(hitless.__file__).parent


def test_nothing_waits_on_a_simple_queue_with_a_timeout() -> None:
    """`queue.SimpleQueue.get(timeout)` may never return in CPython 3.11: a node then stops seeing the store."""
    users = [
        str(file.relative_to(SOURCES))
        for file in SOURCES.rglob("*.py")
        if any(
            isinstance(node, ast.Attribute) and node.attr == "SimpleQueue"
            for node in ast.walk(ast.parse(file.read_text()))
        )
    ]
    assert users == []
