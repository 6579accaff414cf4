"""Which text the schema is in: as Accept says, or as `?format=json` or `?format=yaml` does, which tools write."""

from __future__ import annotations

from typing import Any

from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.request import Request


class ByFormatToo(DefaultContentNegotiation):
    """DRF's own, with the parameter that no other view has (URL_FORMAT_OVERRIDE)."""

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return super().select_renderer(request, renderers, format_suffix or request.query_params.get("format"))
