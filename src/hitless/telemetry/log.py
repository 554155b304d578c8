"""Structured logs: one JSON object a line on stderr, or text for a terminal.

Every line has `event` (a stable kebab-case name), `node`, `time` (wall, ISO 8601) and `monotonic` (seconds of
CLOCK_MONOTONIC, comparable between processes of one kernel).
"""

from __future__ import annotations

import sys
import time
from typing import Literal

import structlog
from structlog.typing import EventDict, WrappedLogger


def configure(node: str, form: Literal["json", "text"]) -> None:
    """Set up logging for this process."""
    rendered = structlog.processors.JSONRenderer() if form == "json" else structlog.dev.ConsoleRenderer(colors=False)
    structlog.configure(
        processors=[structlog.processors.add_log_level, _times, rendered],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.clear_contextvars()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, _times, rendered]
    )
    structlog.contextvars.bind_contextvars(node=node)


def _times(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event["time"] = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z"
    event["monotonic"] = round(time.monotonic(), 6)
    return event
