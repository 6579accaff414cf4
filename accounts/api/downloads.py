"""Answers that are files: whatever the client's Accept says of their type, they are what was asked for."""

from __future__ import annotations

from typing import Any

from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.views import APIView


class AnythingIsAccepted(DefaultContentNegotiation):
    """A file has the type it has (RFC 9110 §12.5.1 lets a server disregard the field); JSON is for errors alone."""

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        first = next(iter(renderers))
        return first, str(first.media_type)


class DownloadView(APIView):
    """A view whose answer is octets or text of a type of its own."""

    content_negotiation_class = AnythingIsAccepted
