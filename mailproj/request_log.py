"""The log of requests: django-structlog's, with what it binds to every line found by us."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from django_structlog.middlewares import RequestMiddleware

if TYPE_CHECKING:
    from django.http import HttpRequest

log = structlog.get_logger(__name__)


class RequestLog(RequestMiddleware):
    """Binds the id that `middleware.request_id` chose and the address that `proxies.client_address` found.

    At this place there is no user yet, so none is looked for.
    """

    def prepare(self, request: HttpRequest) -> None:
        meta = request.META
        structlog.contextvars.bind_contextvars(request_id=meta["HTTP_X_REQUEST_ID"], ip=meta.get("REMOTE_ADDR", ""))
        log.info("request_started", request=self.format_request(request), user_agent=meta.get("HTTP_USER_AGENT"))
