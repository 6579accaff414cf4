"""What every operation of the OpenAPI schema has in common: its errors, the headers of its answers, its paging.

A view describes what is its own (`extend_schema`). What comes of authentication, limits, parsers and middleware,
whichever view is asked, is added here, so that no view can forget it. Errors are RFC
9457's, as `accounts.api.problems` has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from accounts.api import problems
from accounts.api.paging import MAX_OFFSET, MAX_PAGE_SIZE

Json = dict[str, Any]
METHODS = ("get", "put", "post", "delete", "patch")
NO_PROBLEM = range(200, 400)
_ENVELOPE = {"items", "total", "page", "page_size", "total_pages"}

PROBLEM: Json = {
    "type": "object",
    "description": "Problem details (RFC 9457), with `error`, `detail` and `code` beside its members.",
    "required": ["type", "title", "status", "error", "detail", "code"],
    "properties": {
        "type": {"type": "string", "description": "Always about:blank: `code` tells problems apart."},
        "title": {"type": "string", "description": "The status in words."},
        "status": {"type": "integer", "minimum": 400, "maximum": 599, "description": "The answer's status."},
        "error": {"type": "string", "description": "The same as `title`."},
        "detail": {"type": "string", "description": "What is wrong, for people; no text to program against."},
        "code": {"type": "string", "description": "What is wrong, for programs.", "examples": ["NOT_FOUND"]},
        "errors": {
            "type": "array",
            "description": "With code VALIDATION_ERROR: each value that cannot be used.",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {
                    "field": {"type": "string", "description": "Such as `headers.X-Priority`; empty: the whole."},
                    "message": {"type": "string"},
                },
            },
        },
        "request_id": {"type": "string", "description": "The same as X-Request-ID: finds the request in the log."},
    },
}

_WHOLE = {"type": "integer", "minimum": 0}
HEADERS: dict[str, Json] = {
    "X-Request-ID": {
        "required": True,
        "description": "The request's id: that of its own X-Request-ID where it is harmless, else a new one.",
        "schema": {"type": "string"},
    },
    "X-API-Version": {"required": True, "description": "The API's version.", "schema": {"type": "string"}},
    "RateLimit-Policy": {
        "description": 'The limits that the request met, such as `"60s";q=600;w=60, "day";q=100;w=86400`.',
        "schema": {"type": "string"},
    },
    "RateLimit": {
        "description": 'What is left of each, and for how many seconds: `"60s";r=599;t=60, "day";r=99;t=3600`.',
        "schema": {"type": "string"},
    },
    "X-RateLimit-Limit": {
        "description": "The limit of the day where it is about sending, else that of the minute.",
        "schema": _WHOLE,
    },
    "X-RateLimit-Remaining": {"description": "What is left of it.", "schema": _WHOLE},
    "X-RateLimit-Reset": {"description": "When it begins anew, in seconds since 1970.", "schema": _WHOLE},
    "Retry-After": {"required": True, "description": "In how many seconds to come again.", "schema": _WHOLE},
    "WWW-Authenticate": {"required": True, "description": "Which credentials to add.", "schema": {"type": "string"}},
}
_ON_ALL = [name for name in HEADERS if name not in ("Retry-After", "WWW-Authenticate")]
_ON_STATUS = {401: ["WWW-Authenticate"], 429: ["Retry-After"], 503: ["Retry-After"]}

PAGING: dict[str, Json] = {
    "page": {
        "description": "Which page, from 1 on.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_OFFSET // MAX_PAGE_SIZE},
    },
    "page_size": {
        "description": "How many items a page has.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_PAGE_SIZE},
    },
    "offset": {
        "description": "Instead of pages: how many items to leave out. With it or `limit`, `page` and `page_size` are "
        "not looked at.",
        "schema": {"type": "integer", "minimum": 0, "maximum": MAX_OFFSET},
    },
    "limit": {
        "description": "Instead of pages: how many items to answer.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_PAGE_SIZE},
    },
}

_WORDS = {
    400: "The request cannot be understood, or a value of it cannot be used: `errors` names which.",
    401: "No credentials, or wrong ones.",
    403: "The caller's role, or the API key's scopes, do not allow it.",
    404: "There is no such object, or it is another tenant's.",
    406: "The Accept header allows no JSON.",
    413: "The body is larger than what is taken (MAX_REQUEST_SIZE; `send` and imports have limits of their own).",
    415: "The body's Content-Type is none that is read here.",
    429: "Too many requests in a minute, or too many wrong passwords.",
    503: "Nothing can be looked up or stored just now.",
}


def complete(result: Json, generator: Any, request: Any, public: bool) -> Json:
    """drf-spectacular's POSTPROCESSING_HOOK."""
    components = result["components"]
    components["schemas"]["Problem"] = PROBLEM
    components["headers"] = HEADERS
    components["parameters"] = {name: {"name": name, "in": "query", **rest} for name, rest in PAGING.items()}
    for path, operation in operations(result):
        _add_paging(operation, components["schemas"])
        _add_errors(path, operation)
        for status, response in operation["responses"].items():
            _add_headers(int(status), response)
    return result


def operations(schema: Mapping[str, Any]) -> Iterator[tuple[str, Json]]:
    """Return every operation with its path."""
    for path, item in schema["paths"].items():
        for method in METHODS:
            if method in item:
                yield path, item[method]


def _add_paging(operation: Json, schemas: Mapping[str, Any]) -> None:
    """Where the answer is a page, name the four parameters that `accounts.api.paging.window_of` reads."""
    answer = operation["responses"].get("200", {}).get("content", {}).get("application/json", {}).get("schema", {})
    name = answer.get("$ref", "").rpartition("/")[2]
    if not schemas.get(name, {}).get("properties", {}).keys() >= _ENVELOPE:
        return
    others = [one for one in operation.get("parameters", []) if one.get("name") not in PAGING]
    operation["parameters"] = [*others, *({"$ref": f"#/components/parameters/{name}"} for name in PAGING)]


def _add_errors(path: str, operation: Json) -> None:
    responses = operation["responses"]
    for status in _statuses(path, operation):
        responses.setdefault(str(status), {"description": _WORDS[status]})
    for status, response in responses.items():
        if int(status) not in NO_PROBLEM:
            content = response.setdefault("content", {})
            content.setdefault(problems.CONTENT_TYPE, {"schema": {"$ref": "#/components/schemas/Problem"}})
    operation["responses"] = dict(sorted(responses.items()))


def _statuses(path: str, operation: Json) -> Iterator[int]:
    """What can come of the request before the view decides anything, or of any look at the database."""
    yield from (400, 406, 429, 503)
    if {} not in operation.get("security", [{}]):
        yield from (401, 403)
    names_an_object = any(one.get("name") in ("user", "user_id") for one in operation.get("parameters", []))
    if "{" in path or names_an_object:
        yield 404
    if "requestBody" in operation:
        yield from (413, 415)


def _add_headers(status: int, response: Json) -> None:
    headers = response.setdefault("headers", {})
    for name in (*_ON_ALL, *_ON_STATUS.get(status, ())):
        headers.setdefault(name, {"$ref": f"#/components/headers/{name}"})
