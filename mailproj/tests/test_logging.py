"""What a line of the log looks like, and what never stands in one (R5)."""

from __future__ import annotations

import json
import logging
import logging.config
from collections.abc import Iterator
from io import StringIO

import pytest
import structlog

from mailproj.logging import logging_config, without_traceback_of_refusals

KEY = "sk_live_" + "a1" * 36


@pytest.fixture
def lines() -> Iterator[StringIO]:
    """A logger of the project's own form, whose handler writes here."""
    before = structlog.get_config()
    config = logging_config("info", json_lines=True)
    formatter = config["formatters"]["lines"]
    written = StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(formatter.pop("()")(**formatter))
    logger = logging.getLogger("test.lines")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield written
    logger.removeHandler(handler)
    structlog.configure(**before)


def test_a_line_is_one_json_object_with_the_references_names(lines: StringIO) -> None:
    with structlog.contextvars.bound_contextvars(request_id="req_1"):
        structlog.get_logger("test.lines").info("Email queued for delivery", recipient="user@example.com")
    (line,) = lines.getvalue().splitlines()
    found = json.loads(line)
    assert (found["level"], found["message"], found["recipient"]) == (
        "INFO", "Email queued for delivery", "user@example.com",
    )  # fmt: skip
    assert found["request_id"] == "req_1" and found["timestamp"].endswith("Z") and found["logger"] == "test.lines"


@pytest.mark.parametrize(
    "values",
    [
        {"password": "hunter2"}, {"api_key": KEY}, {"note": f"with {KEY} in it"}, {"Authorization": "Basic hunter2"},
        {"url": "postgresql://mail:hunter2@db/mail"}, {"headers": {"X-API-Key": "hunter2"}},
        {"tried": [{"client_secret": "hunter2"}, f"redis://:hunter2@cache/0 and {KEY}"]},
    ],
)  # fmt: skip
def test_secrets_are_masked_wherever_they_stand(lines: StringIO, values: dict[str, object]) -> None:
    structlog.get_logger("test.lines").info("tried", **values)
    try:
        raise ValueError(f"postgresql://mail:hunter2@db/mail refused {KEY}")
    except ValueError:
        structlog.get_logger("test.lines").exception("broke")
    text = lines.getvalue()
    assert "hunter2" not in text and KEY not in text and text.count("********") >= 3


def test_a_refusal_is_a_line_without_a_traceback(lines: StringIO) -> None:
    logger = logging.getLogger("test.lines")
    logger.addFilter(without_traceback_of_refusals)
    try:
        raise PermissionError("not that one")
    except PermissionError:
        logger.warning("Forbidden: %s", "/admin/x/", exc_info=True, extra={"status_code": 403})
        logger.error("Broken: %s", "/admin/x/", exc_info=True, extra={"status_code": 500})
    logger.removeFilter(without_traceback_of_refusals)
    refused, broken = (json.loads(line) for line in lines.getvalue().splitlines())
    assert (refused["level"], refused["message"]) == ("WARNING", "Forbidden: /admin/x/") and "exception" not in refused
    assert "PermissionError" in broken["exception"]
    config = logging_config("info", json_lines=True)
    (name,) = config["loggers"]["django.request"]["filters"]
    assert config["filters"][name]["()"]() is without_traceback_of_refusals
