"""The courier against a real HTTP server: what each answer leads to, and whom a bad endpoint disturbs."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import OperationalError, transaction
from django.utils import timezone
from standardwebhooks.webhooks import Webhook

from accounts.dns.memory import MemoryResolver
from accounts.models import (
    Organization,
    TrailEntry,
    User,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
)
from accounts.tests.webhook_receiver import Say, receiving
from accounts.webhooks import deliveries, endpoints, outbox
from accounts.webhooks.deliveries import Attempt, Parcel
from accounts.webhooks.names import EVENTS
from mailflow import content, figures
from mailflow.models import Message
from queue.courier import A_ENDPOINT, Courier
from queue.models import Entry
from queue.tests.conftest import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]
PENDING, DELIVERED, FAILED = (WebhookDelivery.Status[name] for name in ("PENDING", "DELIVERED", "FAILED"))


@pytest.fixture(autouse=True)
def _loopback_is_allowed(settings: Any) -> None:
    settings.WEBHOOK_ALLOWED_NETWORKS = LOOPBACK
    settings.WEBHOOK_TIMEOUT = 45  # who is to wait, waits
    settings.WEBHOOK_RETRY_SCHEDULE = [dt.timedelta(milliseconds=10)] * 2


@contextmanager
def running(**options: Any) -> Iterator[Courier]:
    courier = Courier(resolver=MemoryResolver(), poll_seconds=0.02, **options)
    courier.start()
    try:
        yield courier
    finally:
        stop(courier)


def stop(courier: Courier) -> None:
    """Stop it, and return when all is written down, however long that takes."""
    courier.stop()
    assert courier._thread is not None
    courier._thread.join(60)


def endpoint_at(url: str, organization: Organization | None = None) -> WebhookEndpoint:
    made, _ = endpoints.create(organization, url, EVENTS)
    return made


def told(endpoint: WebhookEndpoint, count: int = 1) -> list[WebhookDelivery]:
    """Write so many events for the endpoint."""
    now = timezone.now()
    rows = [outbox.delivery(endpoint.pk, "message.sent", f'{{"n":{n}}}', now) for n in range(count)]
    return WebhookDelivery.objects.bulk_create(rows)


def ended(delivery: WebhookDelivery) -> WebhookDelivery:
    def is_over() -> bool:
        delivery.refresh_from_db()
        return delivery.status != PENDING

    wait_until(is_over)
    return delivery


def attempts_of(delivery: WebhookDelivery) -> list[WebhookAttempt]:
    return list(WebhookAttempt.objects.filter(delivery=delivery).order_by("pk"))


def test_a_delivery_is_signed_sent_and_written_down_with_request_and_answer() -> None:
    with receiving(Say(200, body=b"thanks \0")) as receiver, running():
        endpoint, secret = endpoints.create(None, receiver.url, EVENTS)
        delivery = ended(deliveries.send_test(endpoint))
    [heard] = receiver.heard
    assert Webhook(secret).verify(heard.body, heard.headers) == json.loads(delivery.payload)
    assert heard.headers["webhook-id"] == delivery.pk and heard.headers["content-type"] == "application/json"
    [attempt] = attempts_of(delivery)
    assert (delivery.status, delivery.attempts, delivery.lease, delivery.next_attempt_at) == (DELIVERED, 1, "", None)
    assert (attempt.response_status, attempt.response_body, attempt.error) == (200, "thanks \ufffd", "")
    assert attempt.request_headers["webhook-id"] == delivery.pk
    assert heard.headers["webhook-signature"] not in str(attempt.request_headers)
    endpoint.refresh_from_db()
    assert endpoint.last_success_at is not None and endpoint.failing_since is None
    assert figures.read().sum("webhooks.attempts.delivered") == 1


def test_a_failure_is_tried_again_with_the_same_id_and_body_and_another_signature() -> None:
    with receiving(Say(500), Say(close=True), Say(204)) as receiver, running():
        endpoint, secret = endpoints.create(None, receiver.url, EVENTS)
        [delivery] = told(endpoint)
        ended(delivery)
    assert (delivery.status, delivery.attempts) == (DELIVERED, 3)
    assert {(heard.headers["webhook-id"], heard.body) for heard in receiver.heard} == {(delivery.pk, b'{"n":0}')}
    for heard in receiver.heard:
        Webhook(secret).verify(heard.body, heard.headers)
    assert [attempt.response_status for attempt in attempts_of(delivery)] == [500, None, 204]


def test_when_all_attempts_are_over_it_is_given_up_and_may_be_replayed() -> None:
    with receiving(Say(500), Say(500), Say(500), Say(204)) as receiver, running():
        [delivery] = told(endpoint_at(receiver.url))
        assert ended(delivery).status == FAILED
        assert (delivery.attempts, delivery.last_result) == (3, "It answered 500.")
        assert deliveries.replay(WebhookDelivery.objects.all(), timezone.now()) == 1
        assert ended(delivery).status == DELIVERED
    assert delivery.attempts == 1 and len(attempts_of(delivery)) == 4
    assert len({heard.headers["webhook-id"] for heard in receiver.heard}) == 1


def test_during_a_rotation_requests_bear_both_signatures() -> None:
    with receiving() as receiver, running():
        endpoint, old = endpoints.create(None, receiver.url, EVENTS)
        new = endpoints.rotate_secret(endpoint)
        ended(*told(endpoint))
    [heard] = receiver.heard
    for secret in (old, new):
        Webhook(secret).verify(heard.body, heard.headers, json_parse=False)


def test_a_slow_endpoint_has_few_requests_and_delays_no_other() -> None:
    let_go = threading.Event()
    with receiving(Say(wait=let_go)) as slow, receiving() as quick, running():
        waiting = told(endpoint_at(slow.url), 40)
        prompt = told(endpoint_at(quick.url), 40)
        wait_until(lambda: slow.at_once == A_ENDPOINT)
        for delivery in prompt:
            ended(delivery)
        assert slow.most_at_once == A_ENDPOINT and not WebhookDelivery.objects.filter(
            pk__in=[delivery.pk for delivery in waiting], status=DELIVERED
        )
        let_go.set()
        for delivery in waiting:
            ended(delivery)
    assert len(slow.heard) == len(quick.heard) == 40


def test_two_couriers_send_each_delivery_once() -> None:
    with receiving() as receiver:
        some = told(endpoint_at(receiver.url), 60)
        with running(), running():
            for delivery in some:
                ended(delivery)
    ids = [heard.headers["webhook-id"] for heard in receiver.heard]
    assert sorted(ids) == sorted(delivery.pk for delivery in some)


def test_what_a_worker_that_died_had_taken_comes_back_when_its_lease_ends() -> None:
    with receiving() as receiver:
        [delivery] = told(endpoint_at(receiver.url))
        now = timezone.now()
        lease = dt.timedelta(seconds=60)
        assert deliveries.claim("dead", now=now, lease=lease, a_endpoint=5, running={})
        assert not deliveries.claim("other", now=now, lease=lease, a_endpoint=5, running={})
        WebhookDelivery.objects.update(next_attempt_at=timezone.now())
        with running():
            ended(delivery)
    assert (delivery.status, delivery.attempts) == (DELIVERED, 1)


def test_a_courier_that_stops_gives_back_what_it_could_not_end() -> None:
    let_go = threading.Event()
    with receiving(Say(wait=let_go)) as receiver:
        [delivery] = told(endpoint_at(receiver.url))
        with running():
            wait_until(lambda: receiver.at_once == 1)
        delivery.refresh_from_db()
        let_go.set()
    assert (delivery.status, delivery.lease, delivery.attempts) == (PENDING, "", 0)
    assert delivery.next_attempt_at is not None and delivery.next_attempt_at <= timezone.now()


def test_no_endpoint_has_more_under_way_than_it_may_whatever_the_plan(plans_for_a_tiny_table: None) -> None:
    told(endpoint_at("http://127.0.0.1:9/"), 6)
    terms: dict[str, Any] = {"now": timezone.now(), "lease": dt.timedelta(seconds=60), "a_endpoint": 2, "running": {}}
    assert [len(deliveries.claim("one", **terms)) for _ in range(4)] == [2, 2, 2, 0]


def test_a_late_failure_of_another_workers_delivery_changes_nothing_a_late_success_does() -> None:
    endpoint = endpoint_at("http://127.0.0.1:9/")
    [delivery] = told(endpoint)
    now = timezone.now()
    claim: dict[str, Any] = {"lease": dt.timedelta(seconds=60), "a_endpoint": 5, "running": {}}
    [first] = deliveries.claim("first", now=now, **claim)
    deliveries.claim("second", now=now + dt.timedelta(minutes=2), **claim)
    failure = Attempt(first, now, dt.timedelta(), {}, 500, "", "It answered 500.")
    with transaction.atomic():
        deliveries.settle([failure], worker="first", now=now)
    delivery.refresh_from_db()
    assert (delivery.lease, delivery.attempts) == ("second", 0)
    with transaction.atomic():
        deliveries.settle([Attempt(first, now, dt.timedelta(), {}, 200)], worker="first", now=now)
    delivery.refresh_from_db()
    assert (delivery.status, delivery.lease) == (DELIVERED, "")


def test_410_switches_the_endpoint_off_at_once() -> None:
    with receiving(Say(410)) as receiver, running():
        endpoint = endpoint_at(receiver.url)
        [delivery] = told(endpoint)
        assert ended(delivery).status == FAILED
    endpoint.refresh_from_db()
    assert not endpoint.is_active and "410" in endpoint.disabled_reason
    assert TrailEntry.objects.filter(kind="webhook_endpoint.disabled").count() == 1


def test_long_failure_switches_it_off_and_its_organizations_administrators_hear_of_it(alice: User) -> None:
    User.objects.filter(pk=alice.pk).update(is_organization_admin=True)
    User.objects.create_user("bob", "bob@example.com", "correct horse", organization=alice.organization)
    long_ago = timezone.now() - dt.timedelta(days=6)
    with receiving(Say(500)) as receiver, running():
        endpoint = endpoint_at(receiver.url, alice.organization)
        WebhookEndpoint.objects.update(failing_since=long_ago)
        told(endpoint, 10)
        wait_until(lambda: not WebhookEndpoint.objects.get().is_active)
    endpoint.refresh_from_db()
    assert endpoint.disabled_at is not None
    assert "Nothing has been delivered since" in endpoint.disabled_reason and "500" in endpoint.disabled_reason
    entry = Entry.objects.get()
    assert entry.recipient == "alice@example.com"
    message = Message.objects.get()
    text = content.read(message.pk).decode()
    assert message.reverse_path == "" and "From: Mail system <postmaster@localhost>" in text
    assert receiver.url in text and "It answered 500." in text and str(endpoint.pk) in text
    assert WebhookDelivery.objects.filter(status=PENDING).exists(), "what waits goes on waiting"
    assert not deliveries.claim(
        "any", now=timezone.now() + dt.timedelta(days=1), lease=dt.timedelta(seconds=1), a_endpoint=5, running={}
    )
    assert figures.read().sum("webhooks.disabled") == 1


def test_a_success_in_between_keeps_it_on() -> None:
    with receiving(Say(204)) as receiver, running():
        endpoint = endpoint_at(receiver.url)
        WebhookEndpoint.objects.update(failing_since=timezone.now() - dt.timedelta(days=6))
        ended(*told(endpoint))
    endpoint.refresh_from_db()
    assert endpoint.is_active and endpoint.failing_since is None


def test_a_secret_that_cannot_be_opened_sends_nothing_and_says_so() -> None:
    with receiving() as receiver, running():
        endpoint = endpoint_at(receiver.url)
        WebhookEndpoint.objects.update(sealed_secret="AAAA")
        [delivery] = told(endpoint)
        assert ended(delivery).status == FAILED
    assert "secret cannot be opened" in delivery.last_result and receiver.heard == []


def test_the_environments_endpoint_is_there_once_a_courier_runs(settings: Any) -> None:
    with receiving() as receiver:
        settings.SMTP_WEBHOOK_URL, settings.SMTP_WEBHOOK_EVENTS = receiver.url, ["user.created"]
        with running():
            wait_until(lambda: WebhookEndpoint.objects.filter(is_from_environment=True).exists())
            outbox.forget()
            User.objects.create_user("carol", "carol@example.com", "correct horse")
            wait_until(lambda: receiver.heard)
    assert receiver.events() == ["user.created"]


def test_the_database_away_for_a_moment_ends_no_courier(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter([True, True])
    claim = deliveries.claim

    def sometimes(*arguments: Any, **named: Any) -> list[Parcel]:
        if next(failures, False):
            raise OperationalError("away")
        return claim(*arguments, **named)

    monkeypatch.setattr("queue.courier.PAUSE_AFTER_TROUBLE_SECONDS", 0.01)
    monkeypatch.setattr(deliveries, "claim", sometimes)
    with receiving() as receiver, running():
        assert ended(*told(endpoint_at(receiver.url))).status == DELIVERED
    assert len(receiver.heard) == 1
