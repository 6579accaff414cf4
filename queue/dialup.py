"""Mail that waits for the host of its domain: whose turn it is, and when it waits no longer (RFC 2645, RFC 1985).

Such an entry is set aside by its first claim: it is woken for a deadline, the word of a delay and its last hour, and
for nothing else. A session that its host turned around leases it, or ETRN makes it due like any other.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from django.conf import settings
from django.db import connection
from django.utils import timezone

from accounts.addresses import Found, Resolution
from accounts.leases import among_first
from accounts.models import Domain
from queue import claim, notices
from queue.claim import REAL_TIME, Parcel
from queue.models import Entry
from queue.simulation import clock

# In nobody's hands, and not kept from everybody by a person or its sender. The index `entry_open_by_domain` finds them.
_FREE = (
    "finished_at IS NULL AND held_at IS NULL AND next_attempt_at IS NOT NULL AND route = ''"
    " AND (lease = '' OR next_attempt_at <= %s) AND (scheduled_at IS NULL OR scheduled_at <= %s)"
)


def is_left_to_host(parcel: Parcel, resolution: Resolution) -> bool:
    """Whether the parcel is one of a dial-up domain, and no person gave it another way.

    Mail to the simulated internet is nobody's to fetch, unless all mail is that.
    """
    is_simulated = parcel.is_sandbox and settings.DELIVERY_MODE != "sandbox"
    return resolution.found is Found.DIAL_UP and not (is_simulated or parcel.route)


def is_asked_for(parcel: Parcel, now: dt.datetime) -> bool:
    """Whether an attempt was asked for since it was set aside, by ETRN or a person (`queue.control`), for now.

    One that was asked for at a later time keeps that in `retry_at` while it is woken for something else before.
    """
    now += parcel.ahead
    is_its_time = parcel.retry_at is None or parcel.retry_at <= now
    return parcel.waits_for_host and is_its_time and parcel.expires_at > now


def is_too_late(parcel: Parcel, now: dt.datetime) -> bool:
    """Whether its sender wants it back by now (RFC 2852 §4.1.3)."""
    return notices.terms(parcel).is_over(now + parcel.ahead)


def is_over(parcel: Parcel, now: dt.datetime) -> bool:
    """Whether it may not be handed over any more: its last hour or its sender's deadline has passed."""
    return parcel.expires_at <= now + parcel.ahead or is_too_late(parcel, now)


def among(domains: Sequence[str]) -> list[str]:
    """Return those of the domains whose own host gets their mail."""
    rows = Domain.objects.filter(name__in=domains, delivery=Domain.Delivery.DIAL_UP)
    return list(rows.order_by("name").values_list("name", flat=True))


def mark(domain: str) -> None:
    """Count what came for a dial-up domain and was not claimed yet among what waits, so that it can be asked for."""
    rows = Entry.objects.filter(domain=domain, status__in=Entry.OPEN, waits_for_host=False, lease="", route="")
    rows.update(waits_for_host=True)


def release_moved(now: dt.datetime) -> int:
    """Make due what waits for the host of a domain that is not dial-up any more; return how many.

    One small query for each domain that has waiting mail, by the index that has nothing else.
    """
    count, last = 0, ""
    aside = Entry.objects.filter(waits_for_host=True, finished_at__isnull=True)
    names: list[str] = []
    while (
        name := aside.filter(domain__gt=last).order_by("domain").values_list("domain", flat=True).first()
    ) is not None:
        names.append(name)
        last = name
    for name in sorted(set(names) - set(among(names))):
        rows = aside.filter(domain=name, lease="", held_at__isnull=True)
        count += rows.update(waits_for_host=False, retry_at=None, next_attempt_at=now)
    return count


class Supply:
    """The free entries of a few domains, batch by batch, for one session; its methods are for a database thread.

    What ended deferred is not taken again: ids only grow. After the last one it looks once more, for what came since.
    """

    def __init__(self, worker: str, domains: Sequence[str], lease: dt.timedelta) -> None:
        self.worker = worker
        self.lease = lease
        self._domains = domains
        self._after: dict[str, tuple[str, int]] = dict.fromkeys(domains, ("", 0))

    def take(self, limit: int) -> list[Parcel]:
        """Lease up to `limit` entries of one domain, in the order in which they were accepted; none: there is none."""
        for domain in self._domains:
            parcels = self._claim(domain, limit)
            if parcels:
                self._after[domain] = max((parcel.message_id, parcel.entry_id) for parcel in parcels)
                return parcels
        return []

    def _claim(self, domain: str, limit: int) -> list[Parcel]:
        moment = connection.ops.adapt_datetimefield_value
        now = timezone.now()
        is_all_sandbox = settings.DELIVERY_MODE == "sandbox"
        table = connection.ops.quote_name(Entry._meta.db_table)
        free = (
            f"SELECT id FROM {table} WHERE domain = %s AND (message_id, id) > (%s, %s) AND {_FREE}"  # noqa: S608
            f"{'' if is_all_sandbox else ' AND NOT is_sandbox'} ORDER BY message_id, id"
        )
        with connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE {table} SET lease = %s, next_attempt_at = %s WHERE {among_first(free, limit)} RETURNING id",  # noqa: S608
                [self.worker, moment(now + self.lease), domain, *self._after[domain], moment(now), moment(now)],
            )
            claimed = [row[0] for row in cursor.fetchall()]
        return claim.load(claimed, clock.ahead() if is_all_sandbox and claimed else REAL_TIME)
