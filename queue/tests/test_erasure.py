"""Deleting an account with all its data: what goes, what stays, and what a crash in between leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings

from accounts import keys
from accounts.addresses import Found, resolve
from accounts.models import ApiKey, Organization, TrailEntry, User
from accounts.names import parse_address
from mailflow import erasure, mailboxes, user_figures
from mailflow.errors import Unavailable
from mailflow.models import ContentChunk, Event, FiledMessage, Mailbox, Message
from mailflow.smtp.reply import Reply
from mailflow.storage import registry
from mailflow.storage.base import Copy
from mailflow.storage.maildir import MaildirStorage
from queue import prune
from queue.models import Attempt, Entry
from queue.tests.conftest import running_engine, wait_until
from queue.tests.mail import accepted, file
from queue.tests.test_prune import ended

pytestmark = pytest.mark.django_db
BOB = "bob@elsewhere.example"


@pytest.fixture
def jane(alice: User) -> User:
    return User.objects.create_user("jane", "jane@example.com", "correct horse", organization=alice.organization)


@pytest.fixture(params=["database", "maildir", "memory"])
def storage(request: pytest.FixtureRequest, settings: LazySettings, tmp_path: Path) -> Iterator[str]:
    settings.SMTP_STORAGE_TYPE = request.param
    settings.SMTP_STORAGE_PATH = tmp_path / "mail"
    yield request.param
    registry._memory.cache_clear()


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "PAUSE", 0)


def delete(user: User) -> bool:
    assert erasure.begin(user, actor="root")
    return erasure.erase(user.pk)


def copies(tmp_path: Path) -> int:
    return sum(1 for path in tmp_path.rglob("*") if path.is_file()) + len(registry._memory()._copies)


def test_all_that_was_the_accounts_is_gone(alice: User, storage: str, tmp_path: Path) -> None:
    for _ in range(3):
        file(ended(accepted("alice@example.com", sender=BOB)), alice)
    ended(accepted(BOB, by=alice))
    keys.create("k", alice, daily_limit=1)
    assert delete(alice)
    for model in (User, Mailbox, FiledMessage, Message, Entry, Attempt, Event, ContentChunk, ApiKey):
        assert not model.objects.exists(), model
    assert copies(tmp_path) == 0


def test_more_than_a_batch_goes_in_several_steps(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "BATCH", 2)
    for _ in range(5):
        file(ended(accepted("alice@example.com", sender=BOB)), alice)
        ended(accepted(BOB, by=alice))
    erasure.begin(alice, actor="root")
    assert not erasure.erase(alice.pk, seconds=0)  # no time for more than a step
    assert 0 < FiledMessage.objects.count() < 5
    assert erasure.erase(alice.pk)
    assert not Message.objects.exists() and not User.objects.exists()


def test_what_others_have_stays_as_it_is(alice: User, jane: User, storage: str, settings: LazySettings) -> None:
    both = ended(accepted("alice@example.com", "jane@example.com", sender=BOB))
    file(both, alice)
    of_jane = file(both, jane)
    sent = ended(accepted("jane@example.com", by=alice))
    from_alice = file(sent, jane)
    before = [mailboxes.read_copy(of_jane), mailboxes.read_copy(from_alice)]
    assert delete(alice)
    assert [mailboxes.read_copy(of_jane), mailboxes.read_copy(from_alice)] == before
    sent.refresh_from_db()
    assert sent.user_id is None
    assert Message.objects.count() == 2 and not User.objects.filter(pk=alice.pk).exists()


def test_at_once_the_account_is_nobody_and_its_name_and_address_are_free(alice: User) -> None:
    _, text = keys.create("k", alice, daily_limit=1)
    file(ended(accepted("alice@example.com", sender=BOB)), alice)
    assert erasure.begin(alice, actor="root", client="192.0.2.1")
    assert not erasure.begin(alice, actor="root")
    assert keys.authenticate(text) is None
    assert resolve(parse_address("alice@example.com")).found is Found.UNKNOWN_USER
    entry = TrailEntry.objects.get(kind="user.deleted")
    assert (entry.actor, entry.subject, entry.client_address) == ("root", "alice", "192.0.2.1")
    organization = Organization.objects.get()
    again = User.objects.create_user("alice", "alice@example.com", "x", organization=organization)
    mine = file(ended(accepted("alice@example.com", sender=BOB)), again)
    assert erasure.erase_all() == 1
    assert mailboxes.read_copy(mine) and list(User.objects.all()) == [again]


def test_mail_on_its_way_goes_on_and_its_record_goes_when_it_has_ended(alice: User) -> None:
    waiting = accepted(BOB, by=alice)
    assert not delete(alice)
    assert Entry.objects.get().status == "pending" and Message.objects.get() == waiting
    assert erasure.erase_all() == 0
    ended(waiting)
    assert erasure.erase_all() == 1
    assert not Message.objects.exists() and not User.objects.exists()


class Dies(Exception):
    """The process ends here."""


@pytest.mark.parametrize("after", [0, 1])
def test_a_crash_between_files_and_rows_leaves_nothing_behind(
    alice: User, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    for _ in range(2):
        file(ended(accepted("alice@example.com", sender=BOB)), alice)
    erasure.begin(alice, actor="root")
    backend: Any = registry.current()
    delete_many = backend.delete_many

    def dying(found: Any) -> None:
        if after:
            delete_many(found)
        raise Dies

    monkeypatch.setattr(backend, "delete_many", dying)
    with pytest.raises(Dies):
        erasure.erase(alice.pk)
    monkeypatch.undo()
    erasure.erase_all()
    for _ in prune._remove_chunks(ContentChunk.objects.all()):
        pass  # in the database storage the rows go first: there `prune` finds what a crash left
    assert not User.objects.filter(pk=alice.pk).exists() and not FiledMessage.objects.exists()
    assert copies(tmp_path) == 0


def test_a_storage_that_refuses_holds_up_that_account_alone(
    alice: User, jane: User, settings: LazySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SMTP_STORAGE_TYPE, settings.SMTP_STORAGE_PATH = "maildir", tmp_path
    file(ended(accepted("alice@example.com", sender=BOB)), alice)
    erasure.begin(alice, actor="root")
    erasure.begin(jane, actor="root")

    def refuse(self: MaildirStorage, found: Any) -> None:
        raise Unavailable(Reply(451, "3.0", "Not now"), "the disk refuses")

    monkeypatch.setattr(MaildirStorage, "delete_many", refuse)
    assert erasure.erase_all() == 1
    assert list(User.objects.values_list("pk", flat=True)) == [alice.pk]
    monkeypatch.undo()
    assert erasure.erase_all() == 1


@pytest.mark.django_db(transaction=True)
def test_a_copy_stored_for_an_account_that_goes_in_that_moment_is_taken_back(
    alice: User, accept: Callable[..., list[int]], settings: LazySettings, tmp_path: Path, monkeypatch: Any
) -> None:
    settings.SMTP_STORAGE_TYPE, settings.SMTP_STORAGE_PATH = "maildir", tmp_path
    put = MaildirStorage.put

    def put_and_delete(self: MaildirStorage, copy: Copy) -> str:
        key = put(self, copy)
        assert copies(tmp_path) == 1
        delete(alice)
        return key

    monkeypatch.setattr(MaildirStorage, "put", put_and_delete)
    ids = accept("alice@example.com", sender=BOB)
    with running_engine():
        wait_until(lambda: Entry.objects.filter(pk__in=ids, status="bounced").exists())
        wait_until(lambda: copies(tmp_path) == 0)
    assert not FiledMessage.objects.exists() and not User.objects.exists()


# --- statistics ---


def test_statistics_tell_of_all_that_was_ever_sent_and_received(
    alice: User, django_assert_num_queries: Callable[..., Any]
) -> None:
    received = ended(accepted("alice@example.com", sender=BOB))
    filed = file(received, alice)
    ended(accepted(BOB, by=alice))
    accepted(BOB, by=alice)
    FiledMessage.objects.all().delete()
    prune.run()
    alice.refresh_from_db()
    assert alice.pruned_sent_count == 1
    User.objects.update(used_octets=int(234.5 * 1024 * 1024))
    alice.refresh_from_db()
    with django_assert_num_queries(1):
        found = user_figures.statistics(alice)
    assert found == {"messages_received": 1, "messages_sent": 2, "storage_used_mb": 234.5}
    assert filed.size_octets > 0
