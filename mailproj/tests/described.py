"""The OpenAPI schema as the web process gives it, made once a test process."""

from __future__ import annotations

import functools
from typing import Any

from django.test import Client

Json = dict[str, Any]


@functools.cache
def described() -> Json:
    answer = Client().get("/api/v1/schema/", headers={"Accept": "application/vnd.oai.openapi+json"})
    assert answer.status_code == 200
    found: Json = answer.json()
    return found


def short(path: str) -> str:
    return path.removeprefix("/api/v1/")
