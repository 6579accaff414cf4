"""Which plan an organization has, and what its limits refuse (contract §5)."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from accounts import daily_counts
from accounts.models import Domain, Organization, OrganizationUsage, Plan, Subscription, User

REMEMBERED_SECONDS = 5.0


class PlanLimitReached(Exception):
    """The organization's plan does not allow it; the text names the plan and the limit, and may be shown."""


@dataclass(frozen=True, slots=True)
class MessageLimit:
    """How many messages a day a plan allows."""

    plan: str
    limit: int

    @property
    def words(self) -> str:
        return f"The plan {self.plan} allows {self.limit} messages a day, and they are sent"


def current(organization_id: int) -> Subscription | None:
    """Return the organization's subscription: a paid one, else the newest."""
    rows = list(Subscription.objects.filter(organization=organization_id).order_by("-started_at")[:20])
    return next((row for row in rows if row.is_paid), rows[0] if rows else None)


def plan_of(organization_id: int) -> Plan | None:
    """Return the plan that is in force, None where there is none and so no limit."""
    return plans_of([organization_id])[organization_id]


def plans_of(organization_ids: Collection[int]) -> dict[int, Plan | None]:
    """The same for many; two queries."""
    plans = list(Plan.objects.all())
    by_price = {plan.stripe_price_id: plan for plan in plans if plan.stripe_price_id}
    default = next((plan for plan in plans if plan.is_default), None)
    found: dict[int, Plan | None] = dict.fromkeys(organization_ids, default)
    paid = Subscription.objects.filter(organization__in=organization_ids, status__in=Subscription.PAID)
    rows: Iterable[tuple[Any, str]] = paid.order_by("started_at").values_list("organization_id", "stripe_price_id")
    for organization_id, price_id in rows:
        if price_id in by_price:
            found[organization_id] = by_price[price_id]
    return found


def check_domains(organization: Organization) -> None:
    """Raise `PlanLimitReached` where one more domain is too many. Call it in the transaction that makes it."""
    _check(
        organization, "domains", lambda plan: plan.max_domains, Domain.objects.filter(organization=organization).count
    )


def check_mailboxes(organization: Organization) -> None:
    """The same for a user, who is a mailbox."""
    _check(
        organization, "mailboxes", lambda plan: plan.max_mailboxes, User.objects.filter(organization=organization).count
    )


def _check(organization: Organization, what: str, limit_of: Callable[[Plan], int], count: Callable[[], int]) -> None:
    list(
        Organization.objects.filter(pk=organization.pk).select_for_update(no_key=True).values_list("pk")
    )  # one at a time
    plan = plan_of(organization.pk)
    limit = limit_of(plan) if plan is not None else 0
    if plan is not None and limit and count() >= limit:
        raise PlanLimitReached(f"The plan {plan.name} allows {limit} {what}; for more, choose another plan.")


class _Limits:
    """Message limits by organization, remembered for a few seconds: they are asked for in every commit."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[float, MessageLimit | None]] = {}

    def of(self, organization_ids: Iterable[int]) -> dict[int, MessageLimit]:
        now = time.monotonic()
        wanted = set(organization_ids)
        unknown = [one for one in wanted if one not in self._kept or self._kept[one][0] <= now]
        if unknown:
            if len(self._kept) > 10_000:
                self._kept.clear()
            for organization_id, plan in plans_of(unknown).items():
                limit = MessageLimit(plan.name, plan.max_messages_a_day) if plan and plan.max_messages_a_day else None
                self._kept[organization_id] = (now + REMEMBERED_SECONDS, limit)
        found = {one: self._kept[one][1] for one in wanted if one in self._kept}
        return {one: limit for one, limit in found.items() if limit is not None}

    def forget(self) -> None:
        self._kept.clear()


message_limits = _Limits()


def take_messages(organization_id: int, limit: MessageLimit, date: dt.date, wanted: int) -> int:
    """Count up to `wanted` messages of the organization's day; return how many the plan allows."""
    return daily_counts.take(
        OrganizationUsage, "organization_id", organization_id, date, limit=limit.limit, wanted=wanted
    )[0]


def give_messages_back(organization_id: int, date: dt.date, number: int) -> None:
    """Take back what `take_messages` counted in this transaction for messages that something else then kept back."""
    daily_counts.give_back(OrganizationUsage, "organization_id", organization_id, date, number)


def messages_sent(organization_id: int, date: dt.date) -> int:
    rows = OrganizationUsage.objects.filter(organization=organization_id, date=date)
    return rows.values_list("count", flat=True).first() or 0
