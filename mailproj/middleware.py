"""What every request gets: an id, a limit to its size, the API's version header, and a place in the counters."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import lru_cache
from tempfile import SpooledTemporaryFile
from typing import IO, Any, cast

import prometheus_client
from django.conf import settings
from django.core.handlers.wsgi import LimitedStream
from django.http import HttpRequest, HttpResponse

from accounts.api import problems
from mailflow import counters
from mailflow.ids import new_trace_id

API_VERSION = "1.0"
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,32}\Z")
_SENDS = re.compile(r"/send(?:/batch)?/?\Z")
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_KEPT_IN_MEMORY = 1 << 20
_PIECE = 1 << 16
_NOT_API = ("/admin", "/static/")

REQUESTS = prometheus_client.Counter("http_requests_total", "HTTP requests by method and status.", ["method", "status"])
DURATION = prometheus_client.Histogram("http_request_duration_seconds", "Time to answer an HTTP request.", ["method"])
_requests_of = lru_cache(maxsize=512)(REQUESTS.labels)  # to look labels up is most of what a figure costs
_duration_of = lru_cache(maxsize=16)(DURATION.labels)

GetResponse = Callable[[HttpRequest], HttpResponse]


def request_id(get_response: GetResponse) -> GetResponse:
    """Give the request an id before django-structlog binds it; it becomes the trace id of what the request sends.

    A client's own X-Request-ID is kept where it is harmless.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        offered = request.META.get("HTTP_X_REQUEST_ID", "")
        request.META["HTTP_X_REQUEST_ID"] = chosen = offered if _REQUEST_ID.match(offered) else f"req_{new_trace_id()}"
        response = get_response(request)
        response["X-Request-ID"] = chosen
        return response

    return middleware


def count_requests(get_response: GetResponse) -> GetResponse:
    """R1's request figures and R5's metrics; a failed request is one that we failed (5xx) or refused (4xx)."""

    def middleware(request: HttpRequest) -> HttpResponse:
        began = time.perf_counter()
        counters.gauge("http.last_request_at_ms", time.time_ns() // 1_000_000)
        response = get_response(request)
        method = request.method if request.method in _METHODS else "other"
        _requests_of(method, response.status_code).inc()
        _duration_of(method).observe(time.perf_counter() - began)
        counters.add("http.requests.total")
        counters.add("http.requests.successful" if response.status_code < 400 else "http.requests.failed")
        return response

    return middleware


def api_version(get_response: GetResponse) -> GetResponse:
    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        if is_of_api(request):
            response["X-API-Version"] = API_VERSION
        return response

    return middleware


def is_of_api(request: HttpRequest) -> bool:
    """Whether programs ask for the path: all but the admin and the files of its pages."""
    return not request.path_info.startswith(_NOT_API)


def _limit_of(path: str) -> int:
    """Messages with attachments and lists of addresses are larger than any other body."""
    if _SENDS.search(path):
        return int(settings.SEND_MAX_REQUEST_SIZE)
    if path.rstrip("/").endswith(("/suppressions/import", "/queue/suppression/import")):
        return int(max(settings.MAX_REQUEST_SIZE, 2 * settings.SUPPRESSION_IMPORT_SIZE))
    return int(settings.MAX_REQUEST_SIZE)


def limit_body(get_response: GetResponse) -> GetResponse:
    """Refuse a body over MAX_REQUEST_SIZE; `send` has its own.

    One that declares its length is refused before an octet of it is read, one in chunks as soon as it is over.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        limit = _limit_of(request.path)
        if "HTTP_TRANSFER_ENCODING" in request.META:
            return _with_chunks_read(request, limit, get_response)
        declared = request.META.get("CONTENT_LENGTH") or "0"
        if not declared.isdigit():
            return problems.plain_response(400, "The Content-Length header is not a number.")
        if int(declared) > limit:
            detail = f"The body has {declared} octets; at most {limit} are taken."
            return problems.plain_response(413, detail)
        return get_response(request)

    return middleware


def _with_chunks_read(request: HttpRequest, limit: int, get_response: GetResponse) -> HttpResponse:
    """Read a body without a declared length: by itself Django takes it for an empty one."""
    if not request.META.get(
        "wsgi.input_terminated"
    ):  # a server that does not decode chunks: nobody knows where it ends
        return problems.plain_response(411, "A Content-Length header is needed.")
    with SpooledTemporaryFile(max_size=_KEPT_IN_MEMORY) as body:
        try:
            octets = _copy(request.META["wsgi.input"], body, limit)
        except _Broken:
            return problems.plain_response(400, "The body broke off, or its chunks are malformed.")
        if octets > limit:
            return problems.plain_response(413, f"The body is too long; at most {limit} octets are taken.")
        body.seek(0)
        request.META["CONTENT_LENGTH"] = str(octets)
        whole: Any = LimitedStream(cast(Any, body), octets)
        request._stream = whole  # Django has made its own before, of no octets
        return get_response(request)


class _Broken(Exception):
    """The body cannot be read to its end."""


def _copy(source: IO[bytes], target: IO[bytes], limit: int) -> int:
    """Copy until the end or just over the limit; return how many octets it were."""
    octets = 0
    while octets <= limit:
        try:
            piece = source.read(min(_PIECE, limit + 1 - octets))
        except Exception as error:  # each server has errors of its own
            raise _Broken from error
        if not piece:
            break
        target.write(piece)
        octets += len(piece)
    return octets
