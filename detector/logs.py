"""Log lines: for people on a terminal, JSON elsewhere. Always on standard error, so that standard output is data."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any

import structlog


def configure(level: str = "info") -> None:
    """Sets up logging for the process, errors that nobody expected among it.

    Text that comes from records or from a broker is shown escaped, so that none can forge a line. Tracebacks show no
    variables: some hold secrets.
    """
    renderer: Any = structlog.processors.JSONRenderer()
    if sys.stderr.isatty():
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    threshold = getattr(logging, level.upper())
    structlog.configure(
        processors=[*shared, _escaped, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _escaped, renderer],
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    # The client retries by itself and says so at length; what matters comes back to us as an error.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    sys.excepthook = _unexpected
    threading.excepthook = lambda it: _unexpected(it.exc_type, it.exc_value, it.exc_traceback)


def escaped(text: str) -> str:
    """The text with whatever is not printable as an escape: line breaks, control characters, marks of direction."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _escaped(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {
        key: _indented(value) if key == "exception" else escaped(value) if isinstance(value, str) else value
        for key, value in event.items()
    }


def _indented(traceback: str) -> str:
    """Keeps its lines, none of which can then pass for a line of the log."""
    return "\n".join("  " + escaped(line) for line in traceback.split("\n"))


def _unexpected(kind: type[BaseException], error: BaseException | None, at: TracebackType | None) -> None:
    if issubclass(kind, Exception):  # an exit, or Ctrl-C, says for itself what it is
        structlog.get_logger().critical("unexpected error", exc_info=(kind, error, at))
