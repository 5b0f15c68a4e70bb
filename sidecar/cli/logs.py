"""Structured logs of ``sidecar run``: JSON lines, or colours on a terminal; always to stderr, stdout stays free."""

from __future__ import annotations

import enum
import logging
import sys

import structlog
from structlog.typing import Processor

from sidecar.core.addresses import redact_dsn


class LogFormat(enum.StrEnum):
    """``auto`` is pretty on a terminal and JSON elsewhere."""

    AUTO = "auto"
    JSON = "json"
    PRETTY = "pretty"


class LogLevel(enum.StrEnum):
    """From everything to almost nothing."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _without_passwords(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    # Driver errors may quote a connection string; whatever becomes a text is shown without its password.
    for key, value in event.items():
        if isinstance(value, str) and "://" in value:
            event[key] = redact_dsn(value)
    return event


def configure(level: LogLevel, form: LogFormat, *, node: str) -> None:
    """Send structlog and the standard library's logging (uvicorn, asyncio) through one chain to stderr."""
    pretty = form is LogFormat.PRETTY or (form is LogFormat.AUTO and sys.stderr.isatty())
    number = logging.getLevelNamesMapping()[level.name]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    last: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if pretty
        else [structlog.processors.format_exc_info, _without_passwords, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _without_passwords, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    # Its notes on its own start and end would read like the node's.
    logging.getLogger("uvicorn").setLevel(max(number, logging.WARNING))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(node=node)
