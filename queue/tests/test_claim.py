"""Leases: no entry for two, none for nobody (docs/adr/0002)."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable

import pytest
from django.db import connection
from django.utils import timezone

from accounts.models import User
from queue import claim
from queue.models import Entry

pytestmark = pytest.mark.django_db(transaction=True)
LEASE = dt.timedelta(seconds=60)


def take(worker: str, entry_ids: list[int] | None = None, *, later: float = 0, limit: int = 100) -> list[int]:
    now = timezone.now() + dt.timedelta(seconds=later)
    return [parcel.entry_id for parcel in claim.claim(worker, limit=limit, now=now, lease=LEASE, entry_ids=entry_ids)]


def test_a_claimed_entry_belongs_to_one_worker_until_its_lease_ends(
    alice: User, accept: Callable[..., list[int]]
) -> None:
    ids = accept("a@x.example", "b@x.example")
    assert take("one") == ids
    assert take("two") == []
    assert take("two", later=61) == ids
    assert set(Entry.objects.values_list("lease", flat=True)) == {"two"}


def test_ids_that_are_not_due_are_not_taken(alice: User, accept: Callable[..., list[int]]) -> None:
    ids = accept("a@x.example")
    Entry.objects.update(next_attempt_at=timezone.now() + dt.timedelta(hours=1))
    assert take("one", ids) == []
    Entry.objects.update(next_attempt_at=None, status=Entry.Status.DELIVERED)
    assert take("one", ids, later=9999) == []


def test_a_renewed_lease_is_longer_and_only_the_owner_renews(alice: User, accept: Callable[..., list[int]]) -> None:
    ids = accept("a@x.example")
    take("one")
    claim.renew("two", ids, until=timezone.now() + 10 * LEASE)
    assert take("two", later=61) == ids
    claim.renew("two", ids, until=timezone.now() + 10 * LEASE)
    assert take("three", later=300) == []


def test_what_is_given_back_is_due_at_once(alice: User, accept: Callable[..., list[int]]) -> None:
    ids = accept("a@x.example")
    take("one")
    claim.give_back("one", ids, now=timezone.now())
    assert take("two") == ids


def test_many_workers_at_once_share_the_entries_without_overlap(alice: User, accept: Callable[..., list[int]]) -> None:
    ids = [entry for _ in range(20) for entry in accept("a@x.example", "b@x.example")]
    taken: list[list[int]] = []

    def work(name: str) -> None:
        try:
            while found := take(name, limit=3):
                taken.append(found)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(entry for batch in taken for entry in batch) == sorted(ids)
