"""Endpoints through their life, and the one that the environment has."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from django.utils import timezone

from accounts import resealing, sealed
from accounts.models import Organization, TrailEntry, WebhookEndpoint
from accounts.webhooks import endpoints, signature
from accounts.webhooks.endpoints import InvalidEndpoint, TooManyEndpoints
from accounts.webhooks.names import EVENTS

pytestmark = pytest.mark.django_db
URL = "https://example.com/webhook"


def kinds() -> list[str]:
    return [
        kind.removeprefix("webhook_endpoint.")
        for kind in TrailEntry.objects.order_by("pk").values_list("kind", flat=True)
    ]


def test_a_secret_is_told_once_and_kept_sealed() -> None:
    endpoint, text = endpoints.create(None, URL, EVENTS, actor="root")
    assert text.startswith("whsec_") and text not in str(WebhookEndpoint.objects.values())
    assert endpoints.secrets_of(endpoint, timezone.now()) == [signature.parse_secret(text)]
    assert kinds() == ["created"]


def test_after_a_rotation_both_secrets_sign_until_the_overlap_is_over() -> None:
    endpoint, old = endpoints.create(None, URL, EVENTS)
    new = endpoints.rotate_secret(endpoint, overlap=dt.timedelta(hours=1))
    endpoint.refresh_from_db()
    now = timezone.now()
    assert endpoints.secrets_of(endpoint, now) == [signature.parse_secret(new), signature.parse_secret(old)]
    assert endpoints.secrets_of(endpoint, now + dt.timedelta(hours=2)) == [signature.parse_secret(new)]
    newest = endpoints.rotate_secret(endpoint, overlap=dt.timedelta())
    assert endpoints.secrets_of(endpoint, now) == [signature.parse_secret(newest)]


def test_reseal_finds_both_secrets(settings: Any) -> None:
    endpoint, old = endpoints.create(None, URL, EVENTS)
    new = endpoints.rotate_secret(endpoint)
    settings.ENCRYPTION_KEYS = [b"k" * 32]
    steps = [step for column in resealing.COLUMNS for step in resealing.reseal(column)]
    assert [step.is_resealed for step in steps] == [True, True]
    endpoint.refresh_from_db()
    assert sealed.is_current(endpoint.sealed_secret) and sealed.is_current(endpoint.sealed_previous_secret)
    both = [signature.parse_secret(new), signature.parse_secret(old)]
    assert endpoints.secrets_of(endpoint, timezone.now()) == both


def test_a_secret_opens_in_its_own_row_alone() -> None:
    one, _ = endpoints.create(None, URL, EVENTS)
    other, _ = endpoints.create(None, URL, EVENTS)
    other.sealed_secret = one.sealed_secret
    with pytest.raises(sealed.CannotOpen):
        endpoints.secrets_of(other, timezone.now())


def test_switching_on_forgets_the_failures() -> None:
    endpoint, _ = endpoints.create(None, URL, EVENTS)
    now = timezone.now()
    WebhookEndpoint.objects.update(failing_since=now)
    assert endpoints.disable(endpoint, "It failed.", now) and not endpoints.disable(endpoint, "It failed.", now)
    endpoint.refresh_from_db()
    endpoints.change(endpoint, {"is_active": True}, actor="root")
    endpoint.refresh_from_db()
    assert (endpoint.is_active, endpoint.failing_since, endpoint.disabled_at, endpoint.disabled_reason) == (
        True, None, None, "",
    )  # fmt: skip
    assert kinds() == ["created", "disabled", "changed"]
    endpoints.change(endpoint, {"is_active": True})
    assert kinds() == ["created", "disabled", "changed"], "no change leaves no trace"


def test_an_organization_has_so_many_endpoints_and_no_more() -> None:
    organization = Organization.objects.create(name="Ours")
    for _ in range(endpoints.MAX_ENDPOINTS):
        endpoints.create(organization, URL, EVENTS)
    with pytest.raises(TooManyEndpoints):
        endpoints.create(organization, URL, EVENTS)


def test_the_environments_endpoint_follows_it(settings: Any) -> None:
    settings.SMTP_WEBHOOK_URL, settings.SMTP_WEBHOOK_EVENTS = URL, ["message.received", "spam.detected"]
    endpoints.follow_environment()
    endpoints.follow_environment()
    first = WebhookEndpoint.objects.get()
    assert (first.url, first.events, first.is_from_environment) == (URL, settings.SMTP_WEBHOOK_EVENTS, True)
    secret = endpoints.secrets_of(first, timezone.now())

    settings.SMTP_WEBHOOK_EVENTS = ["auth.failed"]
    endpoints.follow_environment()
    second = WebhookEndpoint.objects.get()
    assert (second.pk, second.events) == (first.pk, ["auth.failed"])
    assert endpoints.secrets_of(second, timezone.now()) == secret

    settings.SMTP_WEBHOOK_SECRET = b"s" * 32
    endpoints.follow_environment()
    assert endpoints.secrets_of(WebhookEndpoint.objects.get(), timezone.now()) == [b"s" * 32]

    settings.SMTP_WEBHOOK_URL = ""
    endpoints.follow_environment()
    assert not WebhookEndpoint.objects.exists()
    assert kinds() == ["created", "changed", "changed", "deleted"]


def test_the_environments_endpoint_stays_off_until_its_url_is_another(settings: Any) -> None:
    settings.SMTP_WEBHOOK_URL = URL
    endpoints.follow_environment()
    endpoints.disable(WebhookEndpoint.objects.get(), "It failed.", timezone.now())
    endpoints.follow_environment()
    assert not WebhookEndpoint.objects.get().is_active
    settings.SMTP_WEBHOOK_URL = URL + "/new"
    endpoints.follow_environment()
    assert WebhookEndpoint.objects.get().is_active


def test_what_the_environment_says_is_not_changed_elsewhere(settings: Any) -> None:
    settings.SMTP_WEBHOOK_URL = URL
    endpoints.follow_environment()
    endpoint = WebhookEndpoint.objects.get()
    with pytest.raises(InvalidEndpoint, match="SMTP_WEBHOOK_URL"):
        endpoints.change(endpoint, {"url": "https://example.net/"})
    with pytest.raises(InvalidEndpoint, match="SMTP_WEBHOOK_URL"):
        endpoints.delete(endpoint)
    settings.SMTP_WEBHOOK_SECRET = b"s" * 32
    with pytest.raises(InvalidEndpoint, match="SMTP_WEBHOOK_SECRET"):
        endpoints.rotate_secret(endpoint)
