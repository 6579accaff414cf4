"""Webhook endpoints through their life: made, changed, given a new secret, switched off and on; each leaves a trail."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from accounts import sealed
from accounts.models import Organization, TrailEntry, WebhookEndpoint
from accounts.webhooks import outbox, signature, target
from accounts.webhooks.names import EVENTS
from accounts.webhooks.target import InvalidTarget

MAX_ENDPOINTS = 20  # of one organization: each is a row and a request for every event
DEFAULT_OVERLAP = dt.timedelta(days=1)
LONGEST_OVERLAP = dt.timedelta(days=30)
ENVIRONMENT = "SMTP_WEBHOOK_URL"


class InvalidEndpoint(ValueError):
    """Values that no endpoint can have; `field` says which."""

    def __init__(self, field: str, words: str) -> None:
        super().__init__(words)
        self.field = field


class TooManyEndpoints(Exception):
    """The organization has as many as it may have."""


def create(
    organization: Organization | None,
    url: str,
    events: Sequence[str],
    *,
    description: str = "",
    is_active: bool = True,
    secret: bytes | None = None,
    actor: str = "",
    client: str = "",
) -> tuple[WebhookEndpoint, str]:
    """Make an endpoint and return it with its secret's text. Raises `InvalidEndpoint` or `TooManyEndpoints`."""
    key = secret or signature.new_secret()
    made = WebhookEndpoint(
        organization=organization,
        url=check_url(url),
        events=check_events(events),
        description=description,
        is_active=is_active,
    )
    made.sealed_secret = sealed.seal(key, made.place)
    with transaction.atomic():
        _make_room(organization)
        made.save(force_insert=True)
        _trail("webhook_endpoint.created", made, f"Hears of {', '.join(made.events)}.", actor, client)
    return made, signature.spoken(key)


def change(endpoint: WebhookEndpoint, values: Mapping[str, Any], *, actor: str = "", client: str = "") -> None:
    """Set url, events, description or is_active; to switch it on forgets why it was off. Raises `InvalidEndpoint`."""
    new = dict(values)
    if "url" in new:
        new["url"] = check_url(new["url"])
    if "events" in new:
        new["events"] = check_events(new["events"])
    if endpoint.is_from_environment and (taken := sorted({"url", "events"} & set(new))):
        raise InvalidEndpoint(taken[0], f"It follows {ENVIRONMENT} and SMTP_WEBHOOK_EVENTS: change it there.")
    new = {name: value for name, value in new.items() if getattr(endpoint, name) != value}
    if not new:
        return
    if new.get("is_active") or "url" in new:
        new |= {"failing_since": None, "disabled_at": None, "disabled_reason": ""}
    names = ", ".join(sorted(set(new) & {"url", "events", "description", "is_active"}))
    with transaction.atomic():
        for name, value in new.items():
            setattr(endpoint, name, value)
        endpoint.save(update_fields=list(new))
        _trail("webhook_endpoint.changed", endpoint, f"Changed: {names}.", actor, client)


def rotate_secret(
    endpoint: WebhookEndpoint, *, overlap: dt.timedelta = DEFAULT_OVERLAP, actor: str = "", client: str = ""
) -> str:
    """Give it a new secret and return its text; requests are signed with the one before, too, for `overlap` longer.

    Raises `InvalidEndpoint` where the environment has the secret.
    """
    if endpoint.is_from_environment and settings.SMTP_WEBHOOK_SECRET:
        raise InvalidEndpoint("id", "Its secret is SMTP_WEBHOOK_SECRET: change it there.")
    key = signature.new_secret()
    with transaction.atomic():
        locked = WebhookEndpoint.objects.select_for_update().get(pk=endpoint.pk)
        endpoint.sealed_previous_secret = locked.sealed_secret if overlap else ""
        endpoint.previous_expires_at = timezone.now() + overlap if overlap else None
        endpoint.sealed_secret = sealed.seal(key, endpoint.place)
        endpoint.save(update_fields=["sealed_secret", "sealed_previous_secret", "previous_expires_at"])
        hours = overlap.total_seconds() / 3600
        words = f"The secret before signs for {hours:g} hours longer." if overlap else "The secret before is void."
        _trail("webhook_endpoint.secret_rotated", endpoint, words, actor, client)
    return signature.spoken(key)


def delete(endpoint: WebhookEndpoint, *, actor: str = "", client: str = "") -> None:
    """Remove it; its deliveries are out of sight from then on, and go with time. Raises `InvalidEndpoint`."""
    if endpoint.is_from_environment and settings.SMTP_WEBHOOK_URL:
        raise InvalidEndpoint("id", f"It follows {ENVIRONMENT}: it goes when that is empty.")
    with transaction.atomic():
        _trail("webhook_endpoint.deleted", endpoint, "", actor, client)
        endpoint.delete()


def disable(endpoint: WebhookEndpoint, reason: str, now: dt.datetime) -> bool:
    """Switch it off for its failures, in the caller's transaction; return whether it was on."""
    changed = WebhookEndpoint.objects.filter(pk=endpoint.pk, is_active=True).update(
        is_active=False, disabled_at=now, disabled_reason=reason
    )
    if changed:
        _trail("webhook_endpoint.disabled", endpoint, reason, "system", "")
    return bool(changed)


def secrets_of(endpoint: WebhookEndpoint, now: dt.datetime) -> list[bytes]:
    """Return the secrets that sign now, the newest first; raises `sealed.CannotOpen`."""
    found = [sealed.open_sealed(endpoint.sealed_secret, endpoint.place)]
    if endpoint.sealed_previous_secret and endpoint.previous_expires_at and endpoint.previous_expires_at > now:
        found.append(sealed.open_sealed(endpoint.sealed_previous_secret, endpoint.place))
    return found


def check_url(url: str) -> str:
    """Return the URL in the form that is sent to; raises `InvalidEndpoint`."""
    try:
        return target.parse(url, settings.WEBHOOK_ALLOWED_NETWORKS).url
    except InvalidTarget as error:
        raise InvalidEndpoint("url", f"{str(error)[0].upper()}{str(error)[1:]}.") from None


def check_events(events: Sequence[str]) -> list[str]:
    """Return the events in their order, each once; raises `InvalidEndpoint`."""
    unknown = sorted(set(events) - set(EVENTS))
    if unknown:
        words = f"There is no event {unknown[0][:40]!r}; there are {', '.join(EVENTS)}."
        raise InvalidEndpoint("events", words)
    if not events:
        raise InvalidEndpoint("events", "At least one event is needed.")
    return [event for event in EVENTS if event in events]


def follow_environment() -> None:
    """Make the endpoint of SMTP_WEBHOOK_URL what the settings say; called where a worker starts, by several at once."""
    url, secret = settings.SMTP_WEBHOOK_URL, settings.SMTP_WEBHOOK_SECRET
    with transaction.atomic():
        endpoint = WebhookEndpoint.objects.select_for_update().filter(is_from_environment=True).first()
        if not url:
            if endpoint is not None:
                _trail("webhook_endpoint.deleted", endpoint, f"{ENVIRONMENT} is empty now.", "environment", "")
                endpoint.delete()
                outbox.forget()
            return
        if endpoint is None:
            endpoint = WebhookEndpoint(is_from_environment=True, description=f"Of {ENVIRONMENT}.")
        before = (endpoint.url, endpoint.events)
        endpoint.url, endpoint.events = check_url(url), check_events(settings.SMTP_WEBHOOK_EVENTS)
        keys = _opened(endpoint)
        if secret and keys != secret:
            endpoint.sealed_secret = sealed.seal(secret, endpoint.place)
        elif not endpoint.sealed_secret:
            endpoint.sealed_secret = sealed.seal(signature.new_secret(), endpoint.place)
        elif before == (endpoint.url, endpoint.events):
            return
        if before[0] != endpoint.url:
            endpoint.is_active, endpoint.failing_since, endpoint.disabled_at = True, None, None
            endpoint.disabled_reason = ""
        endpoint.save()
        words = f"As {ENVIRONMENT} and SMTP_WEBHOOK_EVENTS say."
        _trail(
            "webhook_endpoint.changed" if before[0] else "webhook_endpoint.created", endpoint, words, "environment", ""
        )


def _opened(endpoint: WebhookEndpoint) -> bytes | None:
    try:
        return sealed.open_sealed(endpoint.sealed_secret, endpoint.place)
    except sealed.CannotOpen:
        return None


def _make_room(organization: Organization | None) -> None:
    if organization is None:
        return
    Organization.objects.select_for_update().get(pk=organization.pk)
    if WebhookEndpoint.objects.filter(organization=organization).count() >= MAX_ENDPOINTS:
        raise TooManyEndpoints(f"An organization has at most {MAX_ENDPOINTS} webhook endpoints.")


def _trail(kind: str, endpoint: WebhookEndpoint, detail: str, actor: str, client: str) -> None:
    """Note it, and have this process look anew at who listens, once it is so."""
    owner = f" of {endpoint.organization}" if endpoint.organization_id else ""
    TrailEntry.objects.create(
        kind=kind,
        actor=actor[:254],
        subject=f"{endpoint.url}{owner}"[:254],
        client_address=client[:45],
        detail=detail,
    )
    transaction.on_commit(outbox.forget)
