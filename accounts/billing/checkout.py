"""What an organization's admin does about its subscription: subscribe, see invoices, cancel, resume."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from accounts.billing import events, plans, stripe_api
from accounts.models import Organization, Plan, Subscription, TrailEntry, User

CLOCKS_APART = dt.timedelta(minutes=5)  # ours and Stripe's, at most: as its signatures allow


class NotPossible(Exception):
    """The organization's state does not allow it; the text says why, and may be shown."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of Stripe's to send the person to."""

    id: str
    url: str


def check_price(price_id: str) -> None:
    """Raise `NotPossible` for a price that no plan of ours has, where any plan is sold."""
    sold = Plan.objects.filter(stripe_price_id__isnull=False, is_active=True)
    if sold.exists() and not sold.filter(stripe_price_id=price_id).exists():
        raise NotPossible(f"No plan has the price {price_id}.")


def begin(organization: Organization, user: User, price_id: str) -> Page:
    """Make a checkout session. Raises `NotPossible`, and what `stripe_api` raises."""
    check_price(price_id)
    paid = plans.current(organization.pk)
    if paid is not None and paid.is_paid:
        raise NotPossible("The organization has a subscription already; change it in the customer portal.")
    client = stripe_api.client()
    mark = {"organization_id": str(organization.pk)}
    parameters = {
        "mode": "subscription",
        "line_items": [{"price": price_id, "quantity": 1}],
        "success_url": settings.STRIPE_SUCCESS_URL,
        "cancel_url": settings.STRIPE_CANCEL_URL,
        "client_reference_id": str(organization.pk),
        "metadata": mark,
        "subscription_data": {"metadata": mark},
    }
    if organization.stripe_customer_id:
        parameters["customer"] = organization.stripe_customer_id
    else:
        parameters["customer_email"] = user.email
    session = stripe_api.call(client.v1.checkout.sessions.create, parameters, idempotency_key=uuid.uuid4().hex)
    TrailEntry.objects.create(
        kind="billing.checkout", actor=user.username, subject=organization.name[:254], detail=f"Price {price_id}."
    )
    return Page(session.id, session.url)


def portal(organization: Organization) -> Page:
    """Make a session of Stripe's customer portal."""
    if not organization.stripe_customer_id:
        raise NotPossible("The organization is no customer yet: it becomes one with its first checkout.")
    client = stripe_api.client()
    parameters = {"customer": organization.stripe_customer_id, "return_url": settings.STRIPE_PORTAL_RETURN_URL}
    session = stripe_api.call(client.v1.billing_portal.sessions.create, parameters, idempotency_key=uuid.uuid4().hex)
    return Page(session.id, session.url)


def cancel(organization: Organization, user: User, *, at_period_end: bool) -> Subscription:
    """End the subscription, at the end of the paid period or at once."""
    row = _paid(organization)
    client = stripe_api.client()
    if at_period_end:
        told = stripe_api.call(
            client.v1.subscriptions.update, row.stripe_subscription_id, {"cancel_at_period_end": True}
        )
    else:
        told = stripe_api.call(client.v1.subscriptions.cancel, row.stripe_subscription_id)
    return _taken(row, told, user, "cancelled" if not at_period_end else "to end with the period that is paid")


def resume(organization: Organization, user: User) -> Subscription:
    """Go on with a subscription that was to end with its period."""
    row = _paid(organization)
    if not row.cancel_at_period_end:
        raise NotPossible("The subscription is not about to end.")
    client = stripe_api.client()
    told = stripe_api.call(client.v1.subscriptions.update, row.stripe_subscription_id, {"cancel_at_period_end": False})
    return _taken(row, told, user, "resumed")


def _paid(organization: Organization) -> Subscription:
    row = plans.current(organization.pk)
    if row is None or not row.is_paid:
        raise NotPossible("The organization has no subscription.")
    return row


def _taken(row: Subscription, told: object, user: User, words: str) -> Subscription:
    """Take what Stripe answered at once; its event follows, and says the same."""
    subject = told.to_dict() if hasattr(told, "to_dict") else {}
    with transaction.atomic():
        row = Subscription.objects.select_for_update().get(pk=row.pk)
        # By some minutes back: the event about it bears Stripe's time, and must not be taken for older than this.
        events.take(row, subject, at=max(row.told_at, timezone.now() - CLOCKS_APART))
        row.save()
        TrailEntry.objects.create(
            kind="billing.changed",
            actor=user.username,
            subject=(row.organization.name if row.organization else "")[:254],
            detail=f"{row.stripe_subscription_id}: {words}.",
        )
    plans.message_limits.forget()
    return row
