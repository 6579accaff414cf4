"""JSON logs by structlog, one line an event, with `request_id` or `trace_id` bound and secrets masked."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

import structlog
from structlog.typing import EventDict, WrappedLogger

_SECRET_KEYS = re.compile(r"password|secret|authorization|api_?key$|token|x-api-key", re.IGNORECASE)
_SECRET_TEXT = re.compile(r"\bsk_(?:live|test)_[A-Za-z0-9_]+|(?<=://)[^/@\s:]*:[^/@\s]+(?=@)")


def mask_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace values under secret-looking keys, and keys and URL credentials inside texts."""
    for key, value in event.items():
        event[key] = _masked(key, value)
    return event


def _masked(key: str, value: Any) -> Any:
    if value and _is_secret(key):
        return "********"
    if isinstance(value, str):  # few texts have what the expression begins with, and it is slow to find nothing
        return _SECRET_TEXT.sub("********", value) if "sk_" in value or "://" in value else value
    if isinstance(value, dict):
        return {name: _masked(str(name), one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_masked("", one) for one in value]
    return value


@lru_cache(maxsize=1024)
def _is_secret(key: str) -> bool:
    return _SECRET_KEYS.search(key) is not None


def _upper_level(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """R5's log lines print the level in capitals and the text under `message`."""
    event["level"] = str(event.get("level", "info")).upper()
    return event


SHARED_PROCESSORS: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.UnicodeDecoder(),
]


def without_traceback_of_refusals(record: logging.LogRecord) -> bool:
    """Let a 403 be one line: who may not do something is no fault of ours."""
    if getattr(record, "status_code", None) == 403:
        record.exc_info = None
    return True


def logging_config(level: str, *, json_lines: bool) -> dict[str, Any]:
    """Configure structlog and return Django's LOGGING; everything goes to standard error."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *SHARED_PROCESSORS,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    last: list[Any] = (
        [
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            _upper_level,
            mask_secrets,
            structlog.processors.JSONRenderer(),
        ]
        if json_lines
        else [mask_secrets, structlog.dev.ConsoleRenderer(colors=False)]
    )
    number = {"debug": logging.DEBUG, "info": logging.INFO, "error": logging.ERROR}.get(level, logging.WARNING)
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "lines": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": SHARED_PROCESSORS,
                "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
            }
        },
        "filters": {"refusals": {"()": lambda: without_traceback_of_refusals}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "lines"}},
        "root": {"handlers": ["stderr"], "level": number},
        "loggers": {
            "django.db.backends": {"level": "INFO"},
            "django.request": {"filters": ["refusals"]},
            "mail.log": {"level": "WARNING"},  # aiosmtpd's own lines would repeat ours
            "asyncio": {"level": "WARNING"},
            "kombu": {"level": "WARNING"},
            "celery": {"level": "WARNING" if number > logging.DEBUG else "DEBUG"},
        },
    }
