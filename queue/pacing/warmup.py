"""The warm-up plans of our sending domains, as workers share them (docs/adr/0014).

What counts is the first attempt of a message that an account sent, to one recipient elsewhere, by the domain of its
reverse path. A worker takes from the day's number what it has claimed, and gives back what it did not begin.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from django.db import transaction

from mailflow.models import Message
from queue import claim, notices, schedule
from queue.claim import Parcel
from queue.models import WarmupPlan
from queue.pacing import plan

_SENT_BY_ACCOUNTS = (Message.Source.SUBMISSION.value, Message.Source.HTTP.value)


@dataclass(frozen=True, slots=True)
class Admitted:
    """`going` may be attempted; the rest was put off until the next day."""

    going: list[Parcel]
    put_off: int = 0


def admit(worker: str, parcels: Sequence[Parcel], *, now: dt.datetime) -> Admitted:
    """Let through what the plans of the day allow of these leased entries; put the others off, in their rows."""
    counted = _by_sender(parcels)
    if not counted:
        return Admitted(list(parcels))
    with transaction.atomic():
        plans = _active(counted)
        if not plans:
            return Admitted(list(parcels))
        held_back: list[Parcel] = []
        for domain, found in plans.items():
            allowed = plan.allowed(found.steps, found.started_on, now)
            if allowed is None:
                continue
            before = found.granted if found.granted_on == now.astimezone(dt.UTC).date() else 0
            count = max(0, min(len(counted[domain]), allowed - before))
            WarmupPlan.objects.filter(pk=found.pk).update(
                granted=before + count, granted_on=now.astimezone(dt.UTC).date()
            )
            late = counted[domain][count:]
            held_back += late
            _put_off(worker, late, words(domain, found, now), now)
    late_ids = {parcel.entry_id for parcel in held_back}
    return Admitted([parcel for parcel in parcels if parcel.entry_id not in late_ids], len(late_ids))


def give_back(parcels: Sequence[Parcel], *, now: dt.datetime) -> None:
    """Return to the day's number what was let through and has not begun."""
    counted = _by_sender(parcels)
    if not counted:
        return
    with transaction.atomic():
        for domain, found in _active(counted).items():
            if found.granted_on == now.astimezone(dt.UTC).date():
                left = max(0, found.granted - len(counted[domain]))
                WarmupPlan.objects.filter(pk=found.pk).update(granted=left)


def words(domain: str, found: WarmupPlan, now: dt.datetime) -> str:
    """Say why mail of the domain waits."""
    allowed = plan.allowed(found.steps, found.started_on, now)
    day = plan.day_of(found.started_on, now)
    return f"the warm-up plan of {domain}: all {allowed} messages of day {day} have begun"


def _by_sender(parcels: Sequence[Parcel]) -> Mapping[str, list[Parcel]]:
    counted: defaultdict[str, list[Parcel]] = defaultdict(list)
    for parcel in parcels:
        domain = parcel.reverse_path.rpartition("@")[2].lower()
        if domain and not parcel.attempts and not parcel.is_sandbox and parcel.source in _SENT_BY_ACCOUNTS:
            counted[domain].append(parcel)
    return counted


def _active(domains: Mapping[str, object]) -> dict[str, WarmupPlan]:
    """Return the plans of these domains, locked in the order of their keys."""
    found = (
        WarmupPlan.objects.filter(is_active=True, domain__name__in=list(domains))
        .select_for_update(of=("self",))
        .select_related("domain")
        .order_by("pk")
    )
    return {one.domain.name: one for one in found}


def _put_off(worker: str, parcels: Sequence[Parcel], why: str, now: dt.datetime) -> None:
    until = plan.next_day(now)
    groups: defaultdict[tuple[dt.datetime, dt.datetime | None], list[int]] = defaultdict(list)
    for parcel in parcels:
        step = schedule.put_off(until, now=now, terms=notices.terms(parcel))
        groups[step.next_attempt_at or until, step.retry_at].append(parcel.entry_id)
    for (next_at, retry_at), ids in groups.items():
        claim.put_off(worker, ids, next_at=next_at, retry_at=retry_at, words=why)
