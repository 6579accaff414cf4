"""How the OpenAPI schema describes our authentication; drf-spectacular finds these classes once they are imported."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema

_CANONICAL = "/api/v1/"


def canonical_only(endpoints: list[Any]) -> list[Any]:
    """Describe each view once: at its canonical path, not at the places where the references print it."""
    return [endpoint for endpoint in endpoints if endpoint[0].startswith(_CANONICAL) and not endpoint[0].endswith("/")]


_OURS = "accounts.api.authentication"


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = f"{_OURS}.ApiKeyAuthentication"
    match_subclasses = True
    name = "apiKey"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, str]:
        return {"type": "apiKey", "in": "header", "name": "X-API-Key"}


class BasicScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = f"{_OURS}.BasicAuthentication"
    match_subclasses = True
    name = "basic"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, str]:
        return {"type": "http", "scheme": "basic"}


class SessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = f"{_OURS}.SessionAuthentication"
    name = "session"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, str]:
        return {"type": "apiKey", "in": "cookie", "name": "sessionid"}
