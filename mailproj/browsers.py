"""Django's middleware for browsers, which steps aside for programs: a request to the API that has no cookie.

Such a request has no session, and nobody would read a message. Who comes with a cookie, or to a page of the admin, gets
all of it; Django's protection against forged requests is asked by everybody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib.auth import middleware as auth
from django.contrib.messages import middleware as messages
from django.contrib.sessions import middleware as sessions

from mailproj.middleware import is_of_api

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.utils.deprecation import MiddlewareMixin as Middleware
else:
    Middleware = object


class _ForBrowsers(Middleware):
    def __call__(self, request: HttpRequest) -> Any:
        if not request.META.get("HTTP_COOKIE") and is_of_api(request):
            return self.get_response(request)
        return super().__call__(request)


class SessionMiddleware(_ForBrowsers, sessions.SessionMiddleware):
    pass


class AuthenticationMiddleware(_ForBrowsers, auth.AuthenticationMiddleware):
    pass


class MessageMiddleware(_ForBrowsers, messages.MessageMiddleware):
    pass
