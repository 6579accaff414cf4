"""`events` in the API: refusals are found by who, what and rule; each sees own ones; the feed tells each event once."""

from __future__ import annotations

import datetime as dt
import itertools
import threading
import time
from typing import Any

import pytest
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import Organization, User
from mailflow import event_search, events, ids
from mailflow.events import NewEvent
from mailflow.models import Event, FiledMessage, Mailbox, Message
from mailflow.policy.decision import Decision, Verdict
from mailflow.smtp.reply import Reply

FIELDS = {
    "id", "created_at", "kind", "stage", "rule", "sender", "recipient", "summary", "reply", "client_address", "actor",
    "message_id", "trace_id", "decisions",
}  # fmt: skip
_numbers = itertools.count()


@pytest.fixture
def root(db: None) -> User:
    return User.objects.create_superuser("root", "root@example.net")


@pytest.fixture
def bob(alice: User) -> User:
    """A colleague of Alice."""
    return User.objects.create_user("bob", "bob@example.com", organization=alice.organization)


@pytest.fixture
def mallory(db: None) -> User:
    """Somebody of another organization."""
    return User.objects.create_user("mallory", "m@other.test", organization=Organization.objects.create(name="Other"))


def event(summary: str, *, ago: float = 60, kind: str = "refused", **fields: Any) -> Event:
    """Write an event of so many seconds ago."""
    at = timezone.now() - dt.timedelta(seconds=ago)
    client_address = fields.get("client_address", "")
    return Event.objects.create(
        id=ids.first_row_id(at) + next(_numbers), created_at=at, kind=kind, summary=summary,
        client_key=events.client_key(client_address), **fields,
    )  # fmt: skip


def message(user: User | None = None) -> Message:
    """Write the row of a message, sent by the user."""
    return Message.objects.create(
        id=ids.new_message_id(), created_at=timezone.now(), source="submission", recipients=[], recipient_count=0,
        size_octets=1, digest="d", protocol="ESMTPA", trace_id="t", user_id=user.pk if user else None,
        organization_id=user.organization_id if user else None,
    )  # fmt: skip


def ask(user: User, query: str = "", path: str = "/api/v1/events") -> dict[str, Any]:
    client = Client()
    client.force_login(user)
    answer = client.get(f"{path}?{query}")
    assert answer.status_code == 200, answer.content
    found: dict[str, Any] = answer.json()
    return found


def told(user: User, query: str = "") -> list[str]:
    return [item["summary"] for item in ask(user, query)["items"]]


def status_of(user: User, path: str) -> int:
    client = Client()
    client.force_login(user)
    return client.get(path).status_code


# --- what an event tells ----------------------------------------------------------------------------------------------


def test_a_refusal_tells_who_what_rule_and_reply(root: User) -> None:
    taken = Decision("sender", "sender_accepted", Verdict.ACCEPT, "Anybody may send to us.")
    refused = Decision(
        "recipient", "relay_denied", Verdict.REJECT, "elsewhere.example is not ours", "x@elsewhere.example",
        Reply(550, "7.1", "Relaying denied"),
    )  # fmt: skip
    noted = Decision("content", "late_note", Verdict.NOTE, "Something else.")
    events.record([
        NewEvent(
            "refused", "Relaying was refused.", sender="a@b.example", recipient="x@elsewhere.example",
            reply=str(refused.reply), decisions=[taken, refused, noted], client_address="192.0.2.7", actor="alice",
            trace_id="0123456789abcdef",
        )
    ])  # fmt: skip
    (item,) = ask(root)["items"]
    assert item.keys() == FIELDS
    assert isinstance(item["id"], str) and item["created_at"]
    assert {name: item[name] for name in FIELDS - {"id", "created_at", "decisions"}} == {
        "kind": "refused", "stage": "recipient", "rule": "relay_denied", "sender": "a@b.example",
        "recipient": "x@elsewhere.example", "summary": "Relaying was refused.", "reply": "550 5.7.1 Relaying denied",
        "client_address": "192.0.2.7", "actor": "alice", "message_id": "", "trace_id": "0123456789abcdef",
    }  # fmt: skip
    assert [decision["rule"] for decision in item["decisions"]] == ["sender_accepted", "relay_denied", "late_note"]
    assert ask(root, path=f"/api/v1/events/{item['id']}") == item


def test_stage_and_rule_that_the_caller_gives_stay(root: User) -> None:
    decision = Decision("recipient", "relay_denied", Verdict.DEFER, "Not now.")
    events.record([
        NewEvent("refused", "both", stage="greeting", rule="early_talker", decisions=[decision]),
        NewEvent("refused", "one", stage="greeting", decisions=[decision]),
        NewEvent("refused", "long", stage="s" * 50, rule="r" * 90, sender="a" * 400),
    ])  # fmt: skip
    found = {event.summary: (event.stage, event.rule) for event in Event.objects.all()}
    assert found["both"] == ("greeting", "early_talker") and found["one"] == ("greeting", "relay_denied")
    assert [len(value) for value in found["long"]] == [20, 64] and len(Event.objects.get(summary="long").sender) == 320


# --- search -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def some(root: User) -> User:
    """Five events, each of its own; who searches is the administrator."""
    event("relay", stage="recipient", rule="relay_denied", sender="Spam@Bad.example", recipient="Victim@far.example",
          reply="550 5.7.1 Relaying denied", client_address="192.0.2.7", trace_id="t1", ago=50)  # fmt: skip
    event("unknown", stage="recipient", rule="unknown_user", sender="friend@good.example",
          recipient="nobody@example.com", reply="550 5.1.1 No such user", client_address="2001:db8::1",
          trace_id="t2", ago=40)  # fmt: skip
    event("password", kind="auth_failed", stage="auth", rule="credentials", actor="Alice",
          client_address="192.0.2.200", trace_id="t1", ago=30)  # fmt: skip
    event("taken", kind="accepted", message_id="msg_1", client_address="198.51.100.1", trace_id="t3", ago=20)
    event("arrived 100%", kind="delivered", message_id="msg_1", recipient="bob@example.com", trace_id="t3", ago=10)
    return root


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "arrived 100%, taken, password, unknown, relay"),
        ("kind=accepted", "taken"),
        ("kind=accepted&kind=auth_failed", "taken, password"),
        ("refusals=true", "password, unknown, relay"),
        ("refusals=true&kind=accepted", ""),
        ("stage=recipient", "unknown, relay"),
        ("rule=relay_denied", "relay"),
        ("rule=RELAY_DENIED", ""),
        ("sender=spam@bad.EXAMPLE", "relay"),
        ("recipient=victim@FAR.example&refusals=true", "relay"),
        ("recipient=bob@example.com", "arrived 100%"),
        ("recipient=bob", ""),
        ("client_address=192.0.2.7", "relay"),
        ("client_address=::ffff:192.0.2.7", "relay"),
        ("client_address=192.0.2.0/24", "password, relay"),
        ("client_address=192.0.2.200/25", "password"),
        ("client_address=0.0.0.0/0", "taken, password, relay"),
        ("client_address=2001:DB8:0::/48", "unknown"),
        ("client_address=::/0", "taken, password, unknown, relay"),
        ("client_address=192.0.2.0/24&refusals=true&rule=credentials", "password"),
        ("actor=ALICE", "password"),
        ("trace_id=t1", "password, relay"),
        ("message_id=msg_1", "arrived 100%, taken"),
        ("message_id=msg_1&refusals=true", ""),
        ("q=denied", "relay"),
        ("q=5.1.1 NO such", "unknown"),
        ("q=%25", "arrived 100%"),
        ("q=_", ""),
        ("stage=recipient&q=user&kind=refused", "unknown"),
        ("limit=2", "arrived 100%, taken"),
    ],
)  # fmt: skip
def test_what_is_searched_for_is_found(some: User, query: str, expected: str) -> None:
    assert ", ".join(told(some, query)) == expected
    found = [] if "limit" in query else told(some, f"{query}&after=0")
    assert "limit" in query or ", ".join(reversed(found)) == expected


def test_a_refusal_that_belongs_to_a_message_is_found_by_its_kind(root: User) -> None:
    event("late", message_id=message().pk)
    event("at the door")
    assert told(root, "kind=refused") == ["at the door", "late"]
    assert told(root, "refusals=true") == ["at the door"]


def test_a_span_of_time_is_searched(root: User) -> None:
    event("old", ago=3 * 86400)
    event("new", ago=60)
    middle = timezone.now() - dt.timedelta(days=1)
    stamp = middle.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert told(root, f"since={stamp}") == ["new"] == told(root, f"after=0&since={stamp}")
    assert told(root, f"until={stamp}") == ["old"] == told(root, f"until={middle.isoformat()}")
    assert told(root, f"since={(middle - dt.timedelta(days=9)).date()}&until={middle.date()}") == ["old"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("kind=lost", "kind"), ("kind=refused&kind=x", "kind"), ("refusals=perhaps", "refusals"),
        ("client_address=300.1.1.1", "client_address"), ("client_address=10.0.0.0/33", "client_address"),
        ("client_address=example.com", "client_address"), ("since=yesterday", "since"), ("until=2025-13-01", "until"),
        ("since=9999-12-31T23:59:59-14:00", "since"), ("after=x", "after"), ("after=-1", "after"),
        ("after=٣", "after"), ("after=1,2", "after"), ("before=1.5", "before"), ("after=1&before=2", "before"),
        ("limit=0", "limit"), ("limit=501", "limit"), ("limit=x", "limit"), ("sender=a%00b", "sender"),
        ("q=a b c d e f g h i j k", "q"),
    ],
)  # fmt: skip
def test_a_wrong_query_is_refused_naming_the_field(root: User, query: str, field: str) -> None:
    client = Client()
    client.force_login(root)
    answer = client.get(f"/api/v1/events?{query}")
    assert answer.status_code == 400, answer.content
    assert answer["Content-Type"] == "application/problem+json"
    assert {error["field"].partition(".")[0] for error in answer.json()["errors"]} == {field}


@pytest.mark.parametrize(
    "query", ["q=' OR 1=1 --", "sender=%27%3B", "after=9999999999999999999", "q=\\", "q=%F0%9F%98%80"]
)
def test_odd_but_possible_queries_find_nothing(some: User, query: str) -> None:
    assert told(some, query) == []


def test_a_query_costs_the_same_whatever_it_finds(root: User, alice: User) -> None:
    sent = message(alice)
    for user in (root, alice):
        client = Client()
        client.force_login(user)
        for query in ("", "refusals=true", "q=again", "after=0", "stage=auth&limit=500"):
            counts = set()
            for _ in range(2):
                with CaptureQueriesContext(connection) as queries:
                    assert client.get(f"/api/v1/events?{query}").status_code == 200
                counts.add(len(queries))
                for number in range(30):
                    event("again", organization_id=alice.organization_id, stage="auth")
                    event("again", kind="delivered", message_id=sent.pk, recipient=f"{number}@example.com")
            assert len(counts) == 1 and max(counts) <= 2 + 3  # the session and its user, then the search


# --- pages and the feed -----------------------------------------------------------------------------------------------


def test_older_pages_follow_the_newest(root: User) -> None:
    for number in range(7):
        event(str(number))
    first = ask(root, "limit=3")
    assert [item["summary"] for item in first["items"]] == ["6", "5", "4"] and first["more"] is True
    second = ask(root, f"limit=3&before={first['next']}")
    assert [item["summary"] for item in second["items"]] == ["3", "2", "1"]
    last = ask(root, f"limit=3&before={second['next']}")
    assert [item["summary"] for item in last["items"]] == ["0"]
    assert last["next"] is None and last["more"] is False


def test_the_feed_tells_each_event_once_in_order(root: User) -> None:
    for number in range(5):
        event(str(number))
    cursor, seen = "0", []
    for _ in range(3):
        page = ask(root, f"after={cursor}&limit=2")
        seen += [item["summary"] for item in page["items"]]
        cursor = page["next"]
    assert seen == ["0", "1", "2", "3", "4"] and page["more"] is False
    event("5", ago=0)
    assert ask(root, f"after={cursor}")["items"] == []  # still held back
    assert told(root)[0] == "5"


def test_a_search_reads_a_bounded_number_of_events_for_a_page(root: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_search, "SCANNED_ROWS", 10)
    wanted = [event("needle").pk]
    for number in range(25):
        event("hay", kind="delivered", message_id=f"msg_{number}")
    wanted.append(event("needle").pk)
    for direction, expected in (("before", wanted[::-1]), ("after", wanted)):
        seen, cursor, pages = [], "0" if direction == "after" else str(2**63 - 1), 0
        while True:
            page = ask(root, f"q=needle&{direction}={cursor}")
            seen += [int(item["id"]) for item in page["items"]]
            pages += 1
            if not page["more"]:
                break
            cursor = page["next"]
        assert seen == expected and pages == 3


@pytest.mark.django_db(transaction=True)
def test_the_feed_waits_for_a_transaction_that_has_an_event(root: User, monkeypatch: pytest.MonkeyPatch) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has one writer at a time")
    monkeypatch.setattr(event_search, "HOLD_BACK", dt.timedelta())
    written, may_commit = threading.Event(), threading.Event()

    def write_slowly() -> None:
        with transaction.atomic():
            list(Event.objects.all()[:1])  # so that it has begun before the id is made, as HOLD_BACK sees to otherwise
            events.record([NewEvent("refused", "slow")])
            written.set()
            may_commit.wait(60)
        connection.close()

    writer = threading.Thread(target=write_slowly)
    writer.start()
    assert written.wait(60)
    events.record([NewEvent("refused", "fast")])
    at_once = told(root)
    page = ask(root, "after=0")
    may_commit.set()
    writer.join()
    assert at_once == ["fast"] and page["items"] == []  # to tell `fast` now would be to skip `slow` for ever
    seen: list[str] = []
    ends_at = time.monotonic() + 60
    while len(seen) < 2 and time.monotonic() < ends_at:  # an event of this millisecond is told in the next
        page = ask(root, f"after={page['next']}")
        seen += [item["summary"] for item in page["items"]]
    assert seen == ["slow", "fast"]


@pytest.mark.django_db(transaction=True)
def test_an_event_gets_its_id_after_the_lock() -> None:
    if connection.vendor != "sqlite":
        pytest.skip("SQLite's lock is what is tested")

    def write() -> None:
        events.record([NewEvent("refused", "second")])
        connection.close()

    with transaction.atomic():
        events.record([NewEvent("refused", "first")])
        writer = threading.Thread(target=write)
        writer.start()
        writer.join(0.05)  # it may wait for the lock by now, or not have begun
        freed_at = timezone.now()
    writer.join()
    assert Event.objects.get(summary="second").pk >= ids.first_row_id(freed_at)


# --- who sees what ----------------------------------------------------------------------------------------------------


def test_staff_see_all_and_nobody_else_what_concerns_nobody(root: User, alice: User, mallory: User) -> None:
    event("at connect", stage="connection")
    event("of a message", kind="accepted", message_id=message().pk)
    assert told(root) == ["of a message", "at connect"]
    assert told(alice) == [] == told(mallory)
    assert told(alice, "refusals=true") == [] == told(mallory, "after=0")
    nobody = User.objects.create_user("nobody", "nobody@example.org")  # of no organization
    assert told(nobody) == [] == told(nobody, "refusals=true")


def test_an_organizations_members_see_its_refusals(alice: User, bob: User, mallory: User) -> None:
    found = event("for us", organization_id=alice.organization_id, recipient="bob@example.com")
    for query in ("", "refusals=true", "after=0", "recipient=bob@example.com&refusals=true", "q=us"):
        assert told(alice, query) == ["for us"] == told(bob, query)
        assert told(mallory, query) == []
    assert status_of(bob, f"/api/v1/events/{found.pk}") == 200
    assert status_of(mallory, f"/api/v1/events/{found.pk}") == 404


def test_failed_authentications_are_seen_by_the_account_and_administrators_alone(
    alice: User, bob: User, mallory: User
) -> None:
    event("by name", kind="auth_failed", actor="ALICE")
    event("by address", kind="auth_failed", actor="Alice@example.com", organization_id=alice.organization_id)
    event("hers, but refused", actor="alice")
    for query in ("", "refusals=true", "kind=auth_failed"):
        assert told(alice, query) == ["by address", "by name"]
        assert told(bob, query) == [] == told(mallory, query)
    User.objects.update(is_organization_admin=True)
    bob.refresh_from_db()
    mallory.refresh_from_db()
    assert told(bob) == ["by address"] and told(mallory) == []


def test_events_of_a_message_are_seen_by_whoever_sees_the_message(alice: User, bob: User, mallory: User) -> None:
    sent = message(alice)
    event("to the secret one", kind="delivered", message_id=sent.pk, recipient="secret@y.example")
    event("to bob", kind="delivered", message_id=sent.pk, recipient="bob@example.com")
    mailbox = Mailbox.objects.create(user=bob, name="INBOX", uid_validity=1)
    FiledMessage.objects.create(
        mailbox=mailbox, uid=1, modseq=1, message_id=sent.pk, recipient="bob@example.com", flags=[],
        internal_date=timezone.now(), size_octets=1, digest="d", storage="database", storage_key="1",
    )  # fmt: skip
    assert told(alice) == ["to bob", "to the secret one"]
    assert told(bob) == ["to bob"] == told(bob, f"message_id={sent.pk}") and told(bob, "q=secret") == []
    assert told(mallory) == [] == told(mallory, f"message_id={sent.pk}")
    User.objects.filter(pk=bob.pk).update(is_organization_admin=True)
    bob.refresh_from_db()
    assert told(bob) == ["to bob", "to the secret one"]


def test_without_credentials_nothing_is_told(db: None) -> None:
    assert Client().get("/api/v1/events").status_code == 401
    assert Client().get("/api/v1/events/1").status_code == 401


@pytest.mark.parametrize("path", ["/api/v1/events", "/api/v1/events/"])
def test_the_path_works_with_a_slash_and_without(root: User, path: str) -> None:
    found = event("here")
    assert len(ask(root, path=path)["items"]) == 1
    assert ask(root, path=f"{path.rstrip('/')}/{found.pk}{'/' if path.endswith('/') else ''}")["summary"] == "here"


@pytest.mark.parametrize("event_id", ["0", "x", "-1", "99999999999999999999", "9223372036854775808", "٣", "1%00"])
def test_an_event_that_is_not_there_is_a_404(root: User, event_id: str) -> None:
    assert status_of(root, f"/api/v1/events/{event_id}") == 404
