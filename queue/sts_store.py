"""MTA-STS policies in the database, where they outlive the process that fetched them (RFC 8461 §3.3, §10.2)."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from queue.models import MtaStsPolicy
from queue.mta_sts import Mode, Policy

REFRESH_AFTER = dt.timedelta(days=1)
RETRY_AFTER = dt.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Kept:
    """A policy, the id that it was announced with, and until when it holds."""

    policy: Policy
    policy_id: str
    expires_at: dt.datetime
    fetched_at: dt.datetime


def load(since: dt.datetime | None) -> dict[str, Kept]:
    """Return what was fetched since then, all of it without a time, by domain; one query."""
    rows = MtaStsPolicy.objects.order_by()
    if since is not None:
        rows = rows.filter(fetched_at__gt=since)
    return {row.domain: _kept(row) for row in rows}


def save(domain: str, policy_id: str, policy: Policy, now: dt.datetime) -> Kept:
    row = MtaStsPolicy(
        domain=domain,
        policy_id=policy_id,
        mode=policy.mode.value,
        mx=list(policy.mx),
        max_age=policy.max_age,
        fetched_at=now,
        expires_at=now + dt.timedelta(seconds=policy.max_age),
        refresh_at=now + REFRESH_AFTER,
        last_error="",
    )
    changed = ["policy_id", "mode", "mx", "max_age", "fetched_at", "expires_at", "refresh_at", "last_error"]
    MtaStsPolicy.objects.bulk_create([row], update_conflicts=True, unique_fields=["domain"], update_fields=changed)
    return _kept(row)


def note_failure(domain: str, words: str) -> None:
    """Keep for the admin why a policy that is known could not be fetched again; it holds all the same."""
    MtaStsPolicy.objects.filter(domain=domain).update(last_error=words[:300])


def take_due(now: dt.datetime, limit: int) -> list[str]:
    """Return domains whose policies are to be fetched again, each to one worker alone."""
    due = MtaStsPolicy.objects.filter(refresh_at__lte=now, expires_at__gt=now).order_by("refresh_at")
    taken = []
    for domain in due.values_list("domain", flat=True)[:limit]:
        mine = MtaStsPolicy.objects.filter(domain=domain, refresh_at__lte=now)
        if mine.update(refresh_at=now + RETRY_AFTER):
            taken.append(domain)
    return taken


def _kept(row: MtaStsPolicy) -> Kept:
    return Kept(Policy(Mode(row.mode), tuple(row.mx), row.max_age), row.policy_id, row.expires_at, row.fetched_at)
