"""What Stripe's events do to our rows: in any order, each once, all of it or nothing (contract §5).

An event and its effect are one transaction, so a crash before the answer costs nothing: Stripe sends it again, and it
is found to be known. Of two events about one subscription the newer one holds, whichever comes first.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from django.db import transaction
from django.utils import timezone

from accounts.billing import plans
from accounts.models import Organization, StripeEvent, Subscription, TrailEntry

CHECKOUT = "checkout.session.completed"
DELETED = "customer.subscription.deleted"
_SUBSCRIPTION = "customer.subscription."
_CREATED_RANK, _OTHER_RANK, _DELETED_RANK = 0, 1, 2  # of events in one second, which Stripe's times cannot tell apart
KNOWN = "known already"


class NoEvent(ValueError):
    """The body is signed and is no event that can be read; the text says what is missing."""


def apply(event: Mapping[str, Any]) -> str:
    """Take an event whose signature was checked; return in words what came of it. Raises `NoEvent`."""
    event_id, kind = _text(event, "id"), _text(event, "type")
    at = _moment(event.get("created"))
    subject = event.get("data", {}).get("object") if isinstance(event.get("data"), Mapping) else None
    if not event_id or not kind or at is None or not isinstance(subject, Mapping):
        raise NoEvent("an event has id, type, created and data.object")
    with transaction.atomic():
        fresh = StripeEvent(id=event_id, kind=kind[:100], created_at=at, received_at=timezone.now(), words="")
        StripeEvent.objects.bulk_create([fresh], ignore_conflicts=True)
        row = StripeEvent.objects.select_for_update().get(pk=event_id)
        if row.words:
            return KNOWN
        row.words = _effect(kind, at, subject)
        row.save(update_fields=["words"])
    plans.message_limits.forget()
    return row.words


def _effect(kind: str, at: dt.datetime, subject: Mapping[str, Any]) -> str:
    if kind == CHECKOUT:
        return _checked_out(at, subject)
    if kind.startswith(_SUBSCRIPTION):
        return _told(kind, at, subject)
    return f"{kind} changes nothing here"


def _checked_out(at: dt.datetime, session: Mapping[str, Any]) -> str:
    """Learn whose customer and whose subscription it is; the subscription's own events may have come before."""
    organization = _organization(session, session.get("client_reference_id"))
    customer, subscription = _text(session, "customer"), _id_of(session.get("subscription"))
    if organization is None:
        return "a checkout of an organization that is not there"
    if customer:
        _link_customer(organization, customer)
    if not subscription:
        return f"{organization} is the customer {customer}"
    row, _ = Subscription.objects.select_for_update().get_or_create(
        stripe_subscription_id=subscription,
        defaults={"started_at": at, "told_at": dt.datetime(1970, 1, 1, tzinfo=dt.UTC), "stripe_customer_id": customer},
    )
    row.organization = organization
    row.stripe_customer_id = customer or row.stripe_customer_id
    row.save(update_fields=["organization", "stripe_customer_id"])
    return _note(organization, f"{organization} subscribed: {subscription}")


def _told(kind: str, at: dt.datetime, subject: Mapping[str, Any]) -> str:
    subscription, customer = _text(subject, "id"), _id_of(subject.get("customer"))
    if not subscription:
        raise NoEvent("a subscription has an id")
    row, _ = Subscription.objects.select_for_update().get_or_create(
        stripe_subscription_id=subscription,
        defaults={"started_at": at, "told_at": dt.datetime(1970, 1, 1, tzinfo=dt.UTC)},
    )
    rank = {f"{_SUBSCRIPTION}created": _CREATED_RANK, DELETED: _DELETED_RANK}.get(kind, _OTHER_RANK)
    if (at, rank) < (row.told_at, row.told_rank):
        return f"{subscription}: a newer event was applied before"
    take(row, subject, at=at, rank=rank)
    if kind == DELETED:
        row.status = "canceled"
    row.organization = row.organization or _organization(subject, None) or _by_customer(customer)
    row.save()
    if row.organization is not None and customer:
        _link_customer(row.organization, customer)
    return _note(row.organization, f"{subscription} is {row.status}")


def take(row: Subscription, subject: Mapping[str, Any], *, at: dt.datetime, rank: int = _OTHER_RANK) -> None:
    """Set the row to what a subscription object says; not saved."""
    item = _first_item(subject)
    price = item.get("price") if isinstance(item.get("price"), Mapping) else item.get("plan")
    row.status = _text(subject, "status")[:30] or row.status
    row.stripe_customer_id = _id_of(subject.get("customer")) or row.stripe_customer_id
    row.stripe_price_id = (_text(price, "id") if isinstance(price, Mapping) else "") or row.stripe_price_id
    # Stripe moved the period from the subscription to its items in 2025.
    ends_at = _moment(subject.get("current_period_end")) or _moment(item.get("current_period_end"))
    row.current_period_end = ends_at or row.current_period_end
    row.cancel_at_period_end = bool(subject.get("cancel_at_period_end"))
    row.started_at = _moment(subject.get("created")) or row.started_at
    row.told_at, row.told_rank = at, rank


def _first_item(subject: Mapping[str, Any]) -> Mapping[str, Any]:
    items = subject.get("items")
    data = items.get("data") if isinstance(items, Mapping) else None
    return data[0] if isinstance(data, list) and data and isinstance(data[0], Mapping) else {}


def _organization(subject: Mapping[str, Any], reference: object) -> Organization | None:
    """Find whose it is by what we gave Stripe at the checkout."""
    metadata = subject.get("metadata")
    named = metadata.get("organization_id") if isinstance(metadata, Mapping) else None
    for text in (str(named or ""), str(reference or "")):
        if text.isascii() and text.isdigit() and len(text) < 19:
            found = Organization.objects.filter(pk=int(text)).first()
            if found is not None:
                return found
    return _by_customer(_id_of(subject.get("customer")))


def _by_customer(customer: str) -> Organization | None:
    return Organization.objects.filter(stripe_customer_id=customer).first() if customer else None


def _link_customer(organization: Organization, customer: str) -> None:
    """Keep the customer's id, and give it the subscriptions that came before we knew whose they were."""
    if organization.stripe_customer_id is None and _by_customer(customer) is None:
        Organization.objects.filter(pk=organization.pk).update(stripe_customer_id=customer)
    Subscription.objects.filter(stripe_customer_id=customer, organization__isnull=True).update(
        organization=organization
    )


def _note(organization: Organization | None, words: str) -> str:
    subject = organization.name if organization is not None else ""
    TrailEntry.objects.create(kind="billing.changed", actor="Stripe", subject=subject[:254], detail=f"{words}.")
    return words


def _id_of(value: object) -> str:
    """Return an id that may stand for its object, or be in it."""
    return _text(value, "id") if isinstance(value, Mapping) else value[:255] if isinstance(value, str) else ""


def _text(mapping: Mapping[str, Any], name: str) -> str:
    value = mapping.get(name)
    return value[:255] if isinstance(value, str) else ""


def _moment(value: object) -> dt.datetime | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return dt.datetime.fromtimestamp(value, dt.UTC)
    except (OverflowError, OSError, ValueError):
        return None
