"""How tests ask the API about what the two tenants of `conftest` manage."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

from django.test import Client

from accounts.models import Alias, ApiKey, Domain, Organization, User

V1 = "/api/v1"
PASSWORD = "MyP@ssw0rd"


def ask(method: str, path: str, body: object = None, *, user: str = "root", key: str = "") -> Any:
    headers = {}
    if user and not key:
        headers["Authorization"] = f"Basic {b64encode(f'{user}:{PASSWORD}'.encode()).decode()}"
    if key:
        headers["X-API-Key"] = key
    text = body if isinstance(body, (str, bytes)) else "" if body is None else json.dumps(body)
    return Client().generic(method, path, text, content_type="application/json", headers=headers)


def problem(answer: Any, status: int) -> dict[str, Any]:
    """Check that the answer is a problem of this status in the one shape, and return it."""
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body.keys() >= {"type", "title", "status", "error", "detail", "code"} and body["status"] == status
    assert "Traceback" not in answer.content.decode() and "SELECT" not in answer.content.decode()
    return body


def fields(answer: Any, status: int = 400) -> set[str]:
    return {error["field"] for error in problem(answer, status).get("errors", [])}


def paths_of(tenant: str) -> dict[str, tuple[str, list[str]]]:
    """Every route with an id, filled with one of the tenant's objects, and the methods that it knows."""
    domain = Domain.objects.get(name=f"{tenant}.example")
    organization = Organization.objects.get(name=tenant)
    key, alias = ApiKey.objects.get(name=f"{tenant} key"), Alias.objects.get(domain=domain)
    jane = User.objects.get(username=f"{tenant}-jane")
    return {
        "user": (f"users/{jane.username}", ["GET", "PUT", "PATCH", "DELETE"]),
        "user by address": (f"users/{jane.email}", ["GET", "PUT", "PATCH", "DELETE"]),
        "user by id": (f"users/{jane.pk}", ["GET", "PUT", "PATCH", "DELETE"]),
        "organization": (f"organizations/{organization.pk}", ["GET", "PATCH", "DELETE"]),
        "key": (f"api-keys/{key.pk}", ["GET", "PATCH", "DELETE"]),
        "rotation": (f"api-keys/{key.pk}/rotate", ["POST"]),
        "domain": (f"domains/{domain.pk}", ["GET", "PATCH", "DELETE"]),
        "verification": (f"domains/{domain.pk}/verify", ["POST"]),
        "records": (f"domains/{domain.pk}/dns-records", ["GET"]),
        "alias": (f"aliases/{alias.pk}", ["GET", "PATCH", "DELETE"]),
        "aliases of a domain": (f"aliases?domain_id={domain.pk}", ["GET"]),
    }


LISTS = ["users", "organizations", "api-keys", "domains", "aliases"]
ROUTES = [
    "user", "user by address", "user by id", "organization", "key", "rotation", "domain", "verification", "records",
    "alias", "aliases of a domain",
]  # fmt: skip


def new_key(by: str = "acme-jane", **body: Any) -> dict[str, Any]:
    answer = ask("POST", f"{V1}/api-keys", {"name": "k", **body}, user=by)
    assert answer.status_code == 201, answer.content
    assert answer["Cache-Control"] == "no-store"
    found: dict[str, Any] = answer.json()
    return found
