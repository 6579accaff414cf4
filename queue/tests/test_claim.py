"""Leases: no entry for two, none for nobody (docs/adr/0002)."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable

import pytest
from django.db import connection
from django.utils import timezone

from accounts.models import User
from mailflow.models import Event
from queue import claim, delivery
from queue.models import Attempt, Entry
from queue.settle import settle

pytestmark = pytest.mark.django_db(transaction=True)
LEASE = dt.timedelta(seconds=60)


def take(worker: str, entry_ids: list[int] | None = None, *, later: float = 0, limit: int = 100) -> list[int]:
    now = timezone.now() + dt.timedelta(seconds=later)
    wanted = list(Entry.objects.values_list("pk", flat=True)) if entry_ids is None else entry_ids
    return [parcel.entry_id for parcel in claim.claim(worker, limit=limit, now=now, lease=LEASE, entry_ids=wanted)]


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


def claims() -> int:
    return Entry.objects.values_list("claims", flat=True).get()


def test_claims_of_lost_workers_are_counted_and_those_given_back_are_not(
    alice: User, accept: Callable[..., list[int]]
) -> None:
    ids = accept("a@x.example")
    take("one")
    claim.give_back("one", ids, now=timezone.now())
    assert claims() == 0
    take("two")
    claim.give_back("two", ids, now=timezone.now(), was_lost=True)
    take("three", later=1)  # its lease runs out
    assert take("four", later=70) == ids
    assert claims() == 3
    claim.put_off("four", ids, next_at=timezone.now(), retry_at=None, words="it waits")
    assert claims() == 2


def test_the_end_of_an_attempt_begins_the_count_anew(alice: User, accept: Callable[..., list[int]]) -> None:
    ids = accept("a@x.example")
    take("one")
    claim.give_back("one", ids, now=timezone.now(), was_lost=True)
    (parcel,) = claim.claim("two", limit=1, now=timezone.now(), lease=LEASE, entry_ids=ids)
    assert parcel.claims == 2
    settle([delivery.trouble(parcel, timezone.now(), "smtp", OSError())], worker="two")
    assert claims() == 0
    claim.give_back("two", ids, now=timezone.now())
    assert claims() == 0


def test_an_entry_that_was_in_the_hands_of_five_lost_workers_is_left_alone_for_a_while(
    alice: User, accept: Callable[..., list[int]]
) -> None:
    """Such mail must not take down one worker after the other as fast as they are started."""
    ids = accept("a@x.example")
    Entry.objects.update(claims=5)
    (parcel,) = claim.claim("six", limit=1, now=timezone.now(), lease=LEASE, entry_ids=ids)
    found = delivery.sort([parcel])
    assert not found.foreign and not found.ours
    settle(found.decided, worker="six")
    entry, attempt = Entry.objects.get(), Attempt.objects.get()
    assert (entry.status, entry.attempts, entry.claims) == ("retry", 1, 0)
    assert entry.next_attempt_at is not None and entry.next_attempt_at > timezone.now()
    assert attempt.reply == "5 workers were lost while they had it, so it is left alone for a while."
    assert "deferred; " in Event.objects.get(kind="deferred").summary


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


@pytest.mark.parametrize("with_ids", [True, False])
def test_a_claim_takes_no_more_than_its_limit_whatever_the_plan(
    plans_for_a_tiny_table: None, alice: User, accept: Callable[..., list[int]], with_ids: bool
) -> None:
    ids = accept(*(f"r{number}@x.example" for number in range(6)))
    now = timezone.now()
    taken = [claim.claim("one", limit=2, now=now, lease=LEASE, entry_ids=ids if with_ids else None) for _ in ids[::2]]
    assert [len(parcels) for parcels in taken] == [2, 2, 2]
