"""What every request gets: an id, a limit to its size, the API's version header, and a place in the counters."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import prometheus_client
from django.conf import settings
from django.http import HttpRequest, HttpResponse

from accounts.api import problems
from mailflow import counters
from mailflow.ids import new_trace_id

API_VERSION = "1.0"
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,32}\Z")
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_NOT_API = ("/admin", "/static/")

REQUESTS = prometheus_client.Counter("http_requests_total", "HTTP requests by method and status.", ["method", "status"])
DURATION = prometheus_client.Histogram("http_request_duration_seconds", "Time to answer an HTTP request.", ["method"])

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
        REQUESTS.labels(method, response.status_code).inc()
        DURATION.labels(method).observe(time.perf_counter() - began)
        counters.add("http.requests.total")
        counters.add("http.requests.successful" if response.status_code < 400 else "http.requests.failed")
        return response

    return middleware


def api_version(get_response: GetResponse) -> GetResponse:
    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        if not request.path.startswith(_NOT_API):
            response["X-API-Version"] = API_VERSION
        return response

    return middleware


def limit_body(get_response: GetResponse) -> GetResponse:
    """Refuse a body over MAX_REQUEST_SIZE by its declared length, before an octet of it is read.

    A body without a declared length is no way around: WSGI hands such a request on as if it had none.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        declared = request.META.get("CONTENT_LENGTH") or "0"
        if not declared.isdigit():
            return problems.plain_response(400, "The Content-Length header is not a number.")
        if int(declared) > settings.MAX_REQUEST_SIZE:
            detail = f"The body has {declared} octets; at most {settings.MAX_REQUEST_SIZE} are taken."
            return problems.plain_response(413, detail)
        return get_response(request)

    return middleware
