"""Errors as problem details (RFC 9457) that also carry R3's `error`, `detail` and `code`.

What a client reads is generic and stable; the cause of an unexpected exception goes to the log under the request id,
which the client gets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import structlog
from django.core.exceptions import PermissionDenied
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, JsonResponse
from rest_framework import exceptions
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response
from rest_framework.views import set_rollback

from accounts.api import json_words

log = structlog.get_logger(__name__)

CONTENT_TYPE = "application/problem+json"
HOW_TO_AUTHENTICATE = (
    "Credentials are needed: HTTP Basic (curl -u username:password) or an API key (curl -H 'X-API-Key: sk_…')."
)
RETRY_AFTER_SECONDS = 30

_CODES = {
    400: "BAD_REQUEST",
    401: "NOT_AUTHENTICATED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    406: "NOT_ACCEPTABLE",
    408: "REQUEST_TIMEOUT",
    409: "CONFLICT",
    411: "LENGTH_REQUIRED",
    413: "REQUEST_TOO_LARGE",
    414: "URL_TOO_LONG",
    415: "UNSUPPORTED_MEDIA_TYPE",
    422: "VALIDATION_ERROR",
    429: "RATE_LIMITED",
    431: "HEADERS_TOO_LARGE",
    500: "INTERNAL_ERROR",
    503: "UNAVAILABLE",
}


class Unprocessable(exceptions.ValidationError):
    """A body that `send` cannot use, named field by field: 422 there, 400 elsewhere (contract §1.2)."""

    status_code = 422


class Conflict(exceptions.APIException):
    status_code = 409
    default_detail = "The request conflicts with what is there."


class TooLarge(exceptions.APIException):
    status_code = 413
    default_detail = "The request is too large."


class ServiceUnavailable(exceptions.APIException):
    """Nothing could be decided or stored just now; the client may come again."""

    status_code = 503
    default_detail = "The service cannot do this just now; try again later."


class DailyLimitReached(exceptions.Throttled):
    """`headers` are the X-RateLimit-* of the answer."""

    def __init__(self, wait: float, detail: str) -> None:
        exceptions.APIException.__init__(self, detail)
        self.wait = math.ceil(wait)


class PlanLimitReached(DailyLimitReached):
    """The organization's plan allows no more today."""


def body(status: int, detail: str, *, errors: list[dict[str, str]] | None = None) -> dict[str, Any]:
    """Return the members of one problem; `errors` name the fields."""
    found: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "error": HTTPStatus(status).phrase,
        "detail": detail,
        "code": "VALIDATION_ERROR" if errors else _CODES.get(status, f"HTTP_{status}"),
    }
    if errors:
        found["errors"] = errors
    request_id = current_request_id()
    if request_id:
        found["request_id"] = request_id
    return found


def current_request_id() -> str:
    return str(structlog.contextvars.get_contextvars().get("request_id", ""))


def plain_response(status: int, detail: str) -> JsonResponse:
    """The same problem for answers that leave outside DRF's views."""
    response = JsonResponse(body(status, detail), status=status, content_type=CONTENT_TYPE)
    # CommonMiddleware would add it, but some of these answers leave before they pass it.
    response["Content-Length"] = str(len(response.content))
    return response


def exception_handler(error: Exception, context: dict[str, Any]) -> Response:
    """DRF's EXCEPTION_HANDLER: every exception of a view becomes a problem."""
    set_rollback()
    translated = _translate(error)
    headers = {}
    challenge = getattr(translated, "auth_header", None)
    if challenge:
        headers["WWW-Authenticate"] = challenge
    wait = getattr(translated, "wait", None)
    if translated.status_code == 503:
        wait = RETRY_AFTER_SECONDS
    if wait is not None:
        headers["Retry-After"] = str(wait)
    members = _members(translated)
    request = context.get("request")
    if request is not None:  # a view whose answers are YAML, HTML or files refuses in JSON too
        request.accepted_renderer, request.accepted_media_type = JSONRenderer(), JSONRenderer.media_type
    return Response(members, status=translated.status_code, headers=headers, content_type=CONTENT_TYPE)


def members_of(error: Exception) -> dict[str, Any]:
    """Return the problem that an exception of a view would have been answered with."""
    return _members(_translate(error))


def _translate(error: Exception) -> exceptions.APIException:
    if isinstance(error, exceptions.APIException):
        return error
    if isinstance(error, Http404):
        return exceptions.NotFound()
    if isinstance(error, PermissionDenied):
        return exceptions.PermissionDenied()
    if isinstance(error, (OperationalError, InterfaceError)):
        log.error("database_unavailable", exc_info=error)
        return ServiceUnavailable()
    log.error("unexpected_error", exc_info=error)
    return exceptions.APIException("Something went wrong on our side; the request id finds it in the log.")


def _members(error: exceptions.APIException) -> dict[str, Any]:
    if isinstance(error, exceptions.NotAuthenticated):
        return body(error.status_code, HOW_TO_AUTHENTICATE)
    if isinstance(error, exceptions.AuthenticationFailed):
        return body(error.status_code, f"{error.detail} {HOW_TO_AUTHENTICATE}")
    if isinstance(error, exceptions.ValidationError):
        errors = list(_fields("", error.detail))
        return body(error.status_code, " ".join(_sentence(item) for item in errors), errors=errors)
    further: dict[str, Any] = getattr(error, "extension", {})  # RFC 9457 §3.2
    return body(error.status_code, str(error.detail)) | further


def _sentence(item: dict[str, str]) -> str:
    return f"{item['field']}: {item['message']}" if item["field"] else item["message"]


def _fields(path: str, detail: Any) -> Iterator[dict[str, str]]:
    """Flatten DRF's nested error details into field paths such as `headers.X-Priority`."""
    if isinstance(detail, dict):
        for name, inner in detail.items():
            own = "" if name == "non_field_errors" else str(name)
            yield from _fields(".".join(part for part in (path, own) if part), inner)
    elif isinstance(detail, (list, tuple)):
        for inner in detail:
            yield from _fields(path, inner)
    else:
        yield {"field": _printable(path), "message": _printable(json_words.reworded(str(detail)))}


def _printable(text: str) -> str:
    """Return the text without lone surrogates: JSON may bring them, and a refusal that quotes one could not leave."""
    return text.encode(errors="replace").decode()


def is_for_programs(request: HttpRequest) -> bool:
    """Whether an error outside any view is answered as JSON: below /api/ always, elsewhere unless HTML is preferred."""
    if request.path.startswith("/admin"):
        return False
    return request.path.startswith("/api/") or not prefers_html(request)


def prefers_html(request: HttpRequest) -> bool:
    return request.get_preferred_type(["application/json", "text/html"]) == "text/html"
