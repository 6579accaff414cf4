"""Pages of other origins that may call the API from a browser: CORS_ORIGINS, by default none (Fetch standard §3.2; R5).

Origins that are named are trusted with credentials; with `*` no cookie and no login of the browser's comes along, so
that a page reads no more than it could fetch by itself, with a key of its own.
"""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.cache import patch_vary_headers

from mailproj.middleware import GetResponse, is_of_api

ANY = "*"
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_REQUEST_HEADERS = (
    "Accept, Accept-Language, Authorization, Content-Type, Idempotency-Key, X-API-Key, X-CSRFToken, X-Request-ID"
)
_ANSWER_HEADERS = (
    "Content-Disposition, Location, RateLimit, RateLimit-Policy, Retry-After, X-API-Version, X-RateLimit-Limit, "
    "X-RateLimit-Remaining, X-RateLimit-Reset, X-Request-ID"
)
_REMEMBERED_SECONDS = 600


def cross_origin(get_response: GetResponse) -> GetResponse:
    """Let the browser hand answers to pages of the named origins, and answer what it asks before (the preflight).

    A preflight never has credentials, and is not counted: the request that follows is.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        if not settings.CORS_ORIGINS or not _is_open(request):
            return get_response(request)
        origin = request.headers.get("Origin", "")
        is_allowed = bool(origin) and (ANY in settings.CORS_ORIGINS or origin in settings.CORS_ORIGINS)
        response = _preflight() if is_allowed and _is_preflight(request) else get_response(request)
        if ANY not in settings.CORS_ORIGINS:  # a cache must not hand one origin's answer to another
            patch_vary_headers(response, ["Origin"])
        if is_allowed:
            _allow(response, origin)
        return response

    return middleware


def _is_open(request: HttpRequest) -> bool:
    """Metrics are given to addresses, not to logins: any page in a browser there could have them."""
    return is_of_api(request) and request.path.rstrip("/") != "/metrics"


def _is_preflight(request: HttpRequest) -> bool:
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers


def _preflight() -> HttpResponse:
    response = HttpResponse(status=204)
    response["Access-Control-Allow-Methods"] = _METHODS
    response["Access-Control-Allow-Headers"] = _REQUEST_HEADERS
    response["Access-Control-Max-Age"] = str(_REMEMBERED_SECONDS)
    return response


def _allow(response: HttpResponse, origin: str) -> None:
    if ANY in settings.CORS_ORIGINS:
        response["Access-Control-Allow-Origin"] = ANY
    else:
        response["Access-Control-Allow-Origin"] = origin
        response["Access-Control-Allow-Credentials"] = "true"
    response["Access-Control-Expose-Headers"] = _ANSWER_HEADERS
