from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.db import connections, transaction
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import DjangoAssertNumQueries, Settings

from accounts.models import User
from mailflow import mailboxes
from mailflow.ids import new_message_id, new_row_id
from mailflow.mailboxes import NewFiling, QuotaVerdict, file_copies, quota_verdict
from mailflow.models import ContentChunk, FiledMessage, Mailbox
from mailflow.storage import registry
from mailflow.storage.base import Copy, CopyMissing

OCTETS = b"Subject: hello\r\n\r\nhello\r\n"


def new_user(name: str = "user") -> User:
    return User.objects.create(username=name, email=f"{name}@example.com")


def filing(user: User, **changes: Any) -> NewFiling:
    message_id = new_message_id()
    base = NewFiling(
        user_id=user.pk,
        message_id=message_id,
        entry_id=new_row_id(),
        recipient=user.email,
        internal_date=timezone.now(),
        size_octets=len(OCTETS),
        digest=hashlib.sha256(OCTETS).hexdigest(),
        storage="database",
        storage_key=f"db:{message_id}",
    )
    return replace(base, **changes)


def file_one(copy: NewFiling) -> FiledMessage:
    with transaction.atomic():
        (filed,) = file_copies([copy])
    assert filed is not None
    return FiledMessage.objects.get(mailbox_id=filed.mailbox_id, uid=filed.uid)


@pytest.mark.django_db
def test_filing_creates_the_standard_mailboxes_on_demand() -> None:
    user = new_user()
    file_one(filing(user))
    assert set(Mailbox.objects.filter(user=user).values_list("name", flat=True)) == set(mailboxes.STANDARD_MAILBOXES)


@pytest.mark.django_db
def test_mailboxes_that_exist_are_left_as_they_are() -> None:
    user = new_user()
    Mailbox.objects.create(user=user, name="INBOX", uid_validity=7, uid_next=40)
    mailboxes.ensure_mailboxes([user.pk])
    mailboxes.ensure_mailboxes([user.pk])
    assert Mailbox.objects.filter(user=user).count() == 5
    assert file_one(filing(user)).uid == 40
    assert Mailbox.objects.get(user=user, name="INBOX").uid_validity == 7


@pytest.mark.django_db
def test_the_whole_filing_is_in_the_row() -> None:
    user = new_user()
    copy = filing(user, folder="Sent", flags=("\\Seen", "$Forwarded"))
    row = file_one(copy)
    assert row.mailbox.name == "Sent"
    assert row.flags == ["\\Seen", "$Forwarded"]
    for field in (
        "message_id", "entry_id", "recipient", "internal_date", "size_octets", "digest", "storage", "storage_key",
    ):  # fmt: skip
        assert getattr(row, field) == getattr(copy, field), field


@pytest.mark.django_db
def test_a_batch_gets_contiguous_uids_in_order_and_one_modseq() -> None:
    user = new_user()
    file_one(filing(user))
    copies = [filing(user) for _ in range(5)]
    with transaction.atomic():
        answers = file_copies(copies)
    assert [answer.uid for answer in answers if answer] == [2, 3, 4, 5, 6]
    box = Mailbox.objects.get(user=user, name="INBOX")
    assert (box.uid_next, box.highest_modseq) == (7, 3)
    rows = FiledMessage.objects.filter(mailbox=box, uid__gt=1).order_by("uid")
    assert [row.entry_id for row in rows] == [copy.entry_id for copy in copies]
    assert {row.modseq for row in rows} == {3}


@pytest.mark.django_db
def test_a_mailbox_of_any_name_is_made_when_mail_is_filed_there() -> None:
    user = new_user()
    assert file_one(filing(user, folder="Lists/Été")).mailbox.name == "Lists/Été"


@pytest.mark.django_db
def test_used_space_grows_by_what_was_filed() -> None:
    one, other = new_user("one"), new_user("other")
    User.objects.filter(pk=one.pk).update(used_octets=1000)
    with transaction.atomic():
        file_copies([filing(one, size_octets=5), filing(one, size_octets=6), filing(other, size_octets=2**33)])
    one.refresh_from_db()
    other.refresh_from_db()
    assert (one.used_octets, other.used_octets) == (1011, 2**33)


@pytest.mark.django_db
def test_a_repeated_delivery_files_once_and_counts_once() -> None:
    user = new_user()
    copy = filing(user)
    first = file_one(copy)
    with transaction.atomic():
        again, fresh, twice = file_copies([copy, (new := filing(user)), new])
    assert again is not None
    assert (again.uid, again.repeated) == (first.uid, True)
    assert fresh is not None
    assert twice is not None
    assert (fresh.repeated, twice.repeated, fresh.uid) == (False, True, twice.uid)
    assert FiledMessage.objects.count() == 2
    user.refresh_from_db()
    assert user.used_octets == 2 * len(OCTETS)


@pytest.mark.django_db
def test_copies_without_a_queue_entry_are_always_filed() -> None:
    user = new_user()
    copy = filing(user, entry_id=None)
    assert [file_one(copy).uid, file_one(copy).uid] == [1, 2]


@pytest.mark.django_db
def test_an_account_that_is_gone_stops_nobody_elses_mail() -> None:
    gone, user = new_user("gone"), new_user()
    lost, kept = filing(gone), filing(user)
    gone.delete()
    with transaction.atomic():
        answers = file_copies([lost, kept])
    assert answers[0] is None
    assert answers[1] is not None
    assert FiledMessage.objects.count() == 1


@pytest.mark.django_db
def test_a_hundred_copies_to_ten_users_take_few_queries(django_assert_max_num_queries: DjangoAssertNumQueries) -> None:
    users = [new_user(f"user{number}") for number in range(10)]
    with django_assert_max_num_queries(10), transaction.atomic():  # mailboxes are still to be made
        file_copies([filing(user) for user in users for _ in range(10)])
    with django_assert_max_num_queries(8), transaction.atomic():  # six, and two for the test's savepoint
        file_copies([filing(user) for user in users for _ in range(10)])
    assert FiledMessage.objects.count() == 200
    assert set(Mailbox.objects.filter(name="INBOX").values_list("uid_next", flat=True)) == {21}


@pytest.mark.django_db
def test_nothing_to_file_asks_nothing(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    with django_assert_num_queries(0):
        assert file_copies([]) == []


@pytest.mark.django_db(transaction=True)
def test_filing_outside_a_transaction_is_refused() -> None:
    with pytest.raises(transaction.TransactionManagementError):
        file_copies([filing(new_user())])


@pytest.mark.django_db(transaction=True)
def test_what_is_rolled_back_was_never_filed() -> None:
    user = new_user()
    copy = filing(user)
    with transaction.atomic():
        file_copies([copy])
        transaction.set_rollback(True)
    user.refresh_from_db()
    assert user.used_octets == 0
    assert file_one(copy).uid == 1


@pytest.mark.django_db(transaction=True)
def test_workers_that_file_at_once_share_no_uid_and_double_nothing() -> None:
    users = [new_user(f"user{number}") for number in range(3)]
    shared = [filing(user) for user in users for _ in range(5)]
    own = [[filing(user) for user in users for _ in range(5)] for _ in range(4)]
    failures: list[BaseException] = []

    def work(batch: list[NewFiling]) -> None:
        try:
            for copy_from in (batch, batch[::-1], shared):
                with transaction.atomic():
                    file_copies(copy_from)
        except BaseException as error:  # noqa: BLE001  (told to the test, which fails on it)
            failures.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work, args=(batch,)) for batch in own]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert FiledMessage.objects.count() == 15 * 5
    for box in Mailbox.objects.filter(name="INBOX"):
        assert sorted(box.filed.values_list("uid", flat=True)) == list(range(1, 26))
        assert box.uid_next == 26


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_copy_is_read_from_its_own_storage(settings: Settings, tmp_path: Path) -> None:
    settings.SMTP_STORAGE_PATH = tmp_path
    user = new_user()
    copy = filing(user)
    stored = Copy(str(copy.entry_id), copy.message_id, user.email, "INBOX", copy.internal_date, OCTETS)
    row = file_one(replace(copy, storage="maildir", storage_key=registry.by_name("maildir").put(stored)))
    assert mailboxes.read_copy(row) == OCTETS
    assert mailboxes.verify(row, OCTETS)
    assert not mailboxes.verify(row, OCTETS.replace(b"hello", b"hallo"))
    assert not mailboxes.verify(row, b"")


@pytest.mark.parametrize("storage", ["maildir", "memory", "floppy"])
@pytest.mark.django_db
def test_a_copy_that_its_storage_lost_is_read_from_the_spool(settings: Settings, tmp_path: Path, storage: str) -> None:
    settings.SMTP_STORAGE_PATH = tmp_path
    row = file_one(filing(new_user(), storage=storage, storage_key="user@example.com/lost"))
    with pytest.raises(CopyMissing):
        mailboxes.read_copy(row)
    ContentChunk.objects.create(message_id=row.message_id, ordinal=0, octets=OCTETS)
    assert mailboxes.read_copy(row) == OCTETS


# --- quota -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "incoming", "quota", "verdict"),
    [
        (0, 0, 1000, QuotaVerdict.OK),
        (999, 1, 1000, QuotaVerdict.OK),
        (1000, 1, 1000, QuotaVerdict.OVER),
        (1001, 0, 1000, QuotaVerdict.OVER),
        (1000, 100, 1000, QuotaVerdict.OVER),
        (1000, 101, 1000, QuotaVerdict.FAR_OVER),
        (0, 1101, 1000, QuotaVerdict.FAR_OVER),
        (10**12, 10**12, 0, QuotaVerdict.OK),
    ],
)
def test_the_quota_is_judged(used: int, incoming: int, quota: int, verdict: QuotaVerdict) -> None:
    assert quota_verdict(used, incoming, quota) is verdict


@given(st.integers(0, 2**50), st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**50))
def test_a_larger_message_never_fits_better(used: int, size: int, more: int, quota: int) -> None:
    order = list(QuotaVerdict)
    assert order.index(quota_verdict(used, size, quota)) <= order.index(quota_verdict(used, size + more, quota))


def test_over_quota_is_temporary_and_far_over_is_final() -> None:
    assert str(mailboxes.QUOTA_REPLIES[QuotaVerdict.OVER]).startswith("452 4.2.2 ")
    assert str(mailboxes.QUOTA_REPLIES[QuotaVerdict.FAR_OVER]).startswith("552 5.2.2 ")
