"""Every example of the schema: requests are carried out, answers are as the schema describes them."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jsonschema
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import transaction
from django.test import Client
from django.test.client import BOUNDARY, MULTIPART_CONTENT, encode_multipart
from django.utils import timezone

from accounts import credentials
from accounts.billing import plans
from accounts.models import Organization, Plan, Subscription, User
from accounts.tests.stripe_stand_in import SECRET, StripeStandIn, signature, stripe_stand_in
from mailflow import runtime
from mailproj.api.schema_hooks import operations
from mailproj.tests import tenants
from mailproj.tests.described import Json, described, short
from mailproj.tests.tenants import Tenant
from queue.models import Entry

HOUR = dt.timedelta(hours=1)
FOR_STAFF = {"config", "restart", "organizations", "queue/actions", "messages/{message_id}/status", "fetch"}
FOR_MEMBERS = ("send", "emails", "folders", "templates", "messages")  # these, and what is below them
COMMITS_ELSEWHERE = ("send", "send/batch")  # in a thread that would wait for the transaction of the case


@dataclass(frozen=True, slots=True)
class Example:
    """One example of a request's body."""

    method: str
    path: str
    media_type: str
    name: str
    value: Any
    statuses: frozenset[int]

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.media_type}: {self.name}"


@pytest.fixture(autouse=True)
def stripe(settings: Any) -> Iterator[StripeStandIn]:
    credentials.remembered.clear()
    runtime._kept.forget()
    with stripe_stand_in() as stand_in:
        settings.STRIPE_API_KEY, settings.STRIPE_API_BASE = "sk_test_stand_in", stand_in.url
        settings.STRIPE_WEBHOOK_SECRET = SECRET
        plans.message_limits.forget()
        yield stand_in
    runtime._kept.forget()


def request_examples() -> Iterator[Example]:
    for path, item in described()["paths"].items():
        for method, operation in item.items():
            succeeds = frozenset(int(status) for status in operation["responses"] if status < "300")
            for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
                for name, example in content.get("examples", {}).items():
                    yield Example(method.upper(), short(path), media_type, name, example["value"], succeeds)


def test_every_request_body_has_an_example() -> None:
    without = [
        operation["operationId"]
        for _, operation in operations(described())
        if "requestBody" in operation
        and not any(content.get("examples") for content in operation["requestBody"]["content"].values())
    ]
    assert without == []


@pytest.mark.django_db(transaction=True)
def test_every_example_of_a_request_is_carried_out(stripe: StripeStandIn) -> None:
    tenant = tenants.make("example", domain_name="example.com", member_name="jane")
    root = tenants.staff()
    prepared = {**PREPARED, "subscriptions/cancel": billed(tenant, stripe)}
    Organization.objects.create(name="Shop")
    examples = list(request_examples())
    assert len(examples) >= 50
    failures = []
    for example in examples:
        if example.path in COMMITS_ELSEWHERE:
            answer = ask(example, tenant, root)
        else:
            with transaction.atomic():
                if prepare := prepared.get(example.path):
                    prepare(tenant)
                answer = ask(example, tenant, root)
                transaction.set_rollback(True)
        if answer.status_code not in example.statuses:
            failures.append(f"{example}\n{answer.status_code} {answer.content.decode()}")
    assert not failures, "\n\n".join(failures)


def ask(example: Example, tenant: Tenant, root: User) -> Any:
    headers = tenants.headers_of(_caller(example.path, tenant, root))
    body, content_type = _body(example)
    if example.path == "webhooks/stripe":
        headers = {"Stripe-Signature": signature(body)}
    path = f"/api/v1/{tenant.path(example.path)}"
    return Client().generic(example.method, path, body, content_type=content_type, headers=headers)


def _caller(path: str, tenant: Tenant, root: User) -> User:
    if path in FOR_STAFF:
        return root
    return tenant.member if path.startswith(FOR_MEMBERS) else tenant.boss


def _body(example: Example) -> tuple[bytes, str]:
    if example.media_type == "multipart/form-data":
        fields = {
            name: SimpleUploadedFile("list.csv", value.encode()) if name == "file" else value
            for name, value in example.value.items()
        }
        return encode_multipart(BOUNDARY, fields), MULTIPART_CONTENT
    text = example.value if isinstance(example.value, str) else json.dumps(example.value)
    return text.encode(), example.media_type


def _end(tenant: Tenant) -> None:
    Entry.objects.filter(message_id=tenant.ids["message_id"]).update(
        status=Entry.Status.DELIVERED, next_attempt_at=None, finished_at=timezone.now()
    )


def _schedule(tenant: Tenant) -> None:
    at = timezone.now() + HOUR
    Entry.objects.filter(message_id=tenant.ids["message_id"]).update(
        scheduled_at=at, next_attempt_at=at, expires_at=at + 5 * HOUR
    )


# What must be so before an example makes sense.
PREPARED: dict[str, Callable[[Tenant], None]] = {
    "messages/{message_id}/status": _end,
    "messages/{message_id}/reschedule": _schedule,
}


def billed(tenant: Tenant, stripe: StripeStandIn) -> Callable[[Tenant], None]:
    """Make a plan and a customer; what is returned makes a subscription: checkout is for who has none."""
    price, subscription = "price_1234567890", "sub_1234567890"
    Plan.objects.create(name="Pro", stripe_price_id=price, max_domains=10, max_mailboxes=9)
    Organization.objects.filter(pk=tenant.organization.pk).update(stripe_customer_id="cus_1234567890")
    now = timezone.now()

    def subscribe(to: Tenant) -> None:
        Subscription.objects.create(
            organization=to.organization,
            stripe_customer_id="cus_1234567890",
            stripe_subscription_id=subscription,
            stripe_price_id=price,
            status="active",
            started_at=now,
            told_at=now,
        )

    item = {"price": {"id": price}, "current_period_end": int(now.timestamp()) + 86400}
    told = {
        "id": subscription, "object": "subscription", "customer": "cus_1234567890", "status": "active",
        "created": int(now.timestamp()), "cancel_at_period_end": True, "items": {"data": [item]},
    }  # fmt: skip
    stripe.answers[f"/v1/subscriptions/{subscription}"] = (200, told)
    return subscribe


def test_every_example_of_an_answer_is_as_the_schema_describes_it() -> None:
    schema, count = described(), 0
    for path, operation in operations(schema):
        for status, response in operation["responses"].items():
            for content in response.get("content", {}).values():
                for name, example in content.get("examples", {}).items():
                    count += 1
                    _check(content["schema"], schema, example["value"], f"{path} {status}: {name}")
    assert count > 40


@pytest.mark.parametrize(
    "resource",
    [
        "aliases", "api-keys", "domains", "emails", "fetch", "folders", "messages", "organizations", "queue", "send",
        "send/batch", "subscriptions", "suppressions", "templates", "users", "webhook-endpoints", "billing",
        "restart", "stats",
    ],
)  # fmt: skip
def test_each_resource_shows_an_answer(resource: str) -> None:
    assert any(
        content.get("examples")
        for path, operation in operations(described())
        if short(path) == resource or short(path).startswith(f"{resource}/")
        for status, response in operation["responses"].items()
        if status < "300"
        for content in response.get("content", {}).values()
    )


def _check(part: Json, schema: Json, value: Any, where: str) -> None:
    validator = jsonschema.Draft202012Validator({**part, "components": schema["components"]})
    problems = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]
    assert not problems, (where, problems)
    names = _properties(part, schema)
    if isinstance(value, dict) and names:
        assert value.keys() <= names, where


def _properties(part: Json, schema: Json) -> set[str]:
    name = part.get("$ref", "").rpartition("/")[2]
    return set(schema["components"]["schemas"].get(name, part).get("properties", {}))
