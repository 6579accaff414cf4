"""The outbox: written with the change or not at all, to whom it concerns, and for nothing where nobody listens."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from accounts.models import Domain, Organization, User, WebhookDelivery, WebhookEndpoint
from accounts.webhooks import endpoints, login_failures, outbox
from accounts.webhooks.login_failures import LoginFailure
from accounts.webhooks.names import AUTH_FAILED, EVENTS, MESSAGE_RECEIVED, USER_CREATED
from accounts.webhooks.outbox import Notice

pytestmark = pytest.mark.django_db
URL = "https://example.com/webhook"


@pytest.fixture
def tenants() -> tuple[Organization, Organization]:
    return Organization.objects.create(name="Ours"), Organization.objects.create(name="Theirs")


def endpoint_of(organization: Organization | None, *events: str) -> WebhookEndpoint:
    made, _ = endpoints.create(organization, URL, events or EVENTS)
    outbox.forget()
    return made


def notice(data: dict[str, Any] | None = None, event: str = MESSAGE_RECEIVED) -> Notice:
    return Notice(event, timezone.now(), lambda organization_id: data or {"for": organization_id})


def payloads() -> list[tuple[Any, Any]]:
    rows = WebhookDelivery.objects.order_by("pk").values_list("endpoint_id", "payload")
    return [(endpoint_id, json.loads(payload)) for endpoint_id, payload in rows]


def test_where_nobody_listens_nothing_is_asked_made_or_written(django_assert_num_queries: Any) -> None:
    def never(_: int | None) -> None:
        raise AssertionError("made for nobody")

    outbox.forget()
    with django_assert_num_queries(1):
        assert not outbox.wanted(MESSAGE_RECEIVED)
    with django_assert_num_queries(0):
        assert outbox.add([Notice(MESSAGE_RECEIVED, timezone.now(), never)] * 1000) == 0
        assert not any(outbox.wanted(event) for event in EVENTS)


def test_an_event_is_written_for_each_endpoint_that_hears_of_it(tenants: tuple[Organization, Organization]) -> None:
    system, ours, _ = endpoint_of(None), endpoint_of(tenants[0]), endpoint_of(tenants[1], USER_CREATED)
    assert outbox.add([notice()]) == 2
    assert {pk: payload["data"] for pk, payload in payloads()} == {
        system.pk: {"for": None},
        ours.pk: {"for": tenants[0].pk},
    }


def test_a_thousand_events_take_few_statements(django_assert_max_num_queries: Any) -> None:
    endpoint_of(None)
    outbox.wanted(MESSAGE_RECEIVED)
    with django_assert_max_num_queries(15):  # SQLite takes a hundred rows in each
        assert outbox.add([notice()] * 1000) == 1000


def test_what_is_rolled_back_is_not_told() -> None:
    endpoint_of(None)
    with transaction.atomic():
        outbox.add([notice()])
        transaction.set_rollback(True)
    assert not payloads()


def test_an_endpoint_that_is_off_or_whose_organization_is_off_hears_nothing(
    tenants: tuple[Organization, Organization],
) -> None:
    endpoints.change(endpoint_of(None), {"is_active": False})
    endpoint_of(tenants[0])
    Organization.objects.filter(pk=tenants[0].pk).update(is_active=False)
    outbox.forget()
    assert outbox.add([notice()]) == 0


def test_an_endpoint_that_was_deleted_a_moment_ago_fails_nobodys_commit() -> None:
    endpoint = endpoint_of(None)
    assert outbox.wanted(MESSAGE_RECEIVED)
    WebhookEndpoint.objects.filter(pk=endpoint.pk).delete()
    assert outbox.add([notice()]) == 1


def test_the_payload_is_as_the_reference_prints_it_whatever_is_in_it() -> None:
    endpoint_of(None)
    outbox.add([notice({"subject": "Grüße \udc80 \0 \U0001f600"})])
    [(_, payload)] = payloads()
    assert list(payload) == ["event", "timestamp", "data"]
    assert payload["timestamp"].endswith("Z") and "." not in payload["timestamp"]
    assert payload["data"]["subject"] == "Grüße ? \0 \U0001f600"


def test_a_domain_that_is_merely_claimed_tells_nothing_of_its_mail(tenants: tuple[Organization, Organization]) -> None:
    Domain.objects.create(name="ours.test", organization=tenants[0], is_trusted=True)
    Domain.objects.create(name="claimed.test", organization=tenants[0])
    Domain.objects.create(name="theirs.test", organization=tenants[1], is_trusted=True)
    endpoint_of(tenants[0])
    assert outbox.owner_of("ours.test") == tenants[0].pk
    assert outbox.owner_of("claimed.test") is None
    assert outbox.owner_of("theirs.test") is None, "nobody there listens"


def test_a_new_account_is_told_of_in_its_own_organization(tenants: tuple[Organization, Organization]) -> None:
    system, ours, _ = endpoint_of(None, USER_CREATED), endpoint_of(tenants[0], USER_CREATED), endpoint_of(tenants[1])
    john = User.objects.create_user("john", "john@ours.test", "correct horse", organization=tenants[0])
    john.first_name = "John"
    john.save()
    data = {"user_id": john.pk, "username": "john", "email": "john@ours.test", "organization_id": tenants[0].pk}
    assert {pk: payload["data"] for pk, payload in payloads()} == {system.pk: data, ours.pk: data}


def test_a_failed_login_is_told_to_the_accounts_organization_by_name_and_by_address(
    tenants: tuple[Organization, Organization],
) -> None:
    User.objects.create_user("john", "john@ours.test", "correct horse", organization=tenants[0])
    system, ours, _ = endpoint_of(None, AUTH_FAILED), endpoint_of(tenants[0]), endpoint_of(tenants[1])
    names = ["john", "john@ours.test", "nobody"]
    login_failures.tell([LoginFailure(name, "192.0.2.7", "smtp", timezone.now()) for name in names])
    heard = [(pk, payload["data"]["username"]) for pk, payload in payloads()]
    assert sorted(name for pk, name in heard if pk == system.pk) == sorted(names)
    assert sorted(name for pk, name in heard if pk == ours.pk) == ["john", "john@ours.test"]
    assert len(heard) == 5
