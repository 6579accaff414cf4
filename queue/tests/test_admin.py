"""The admin pages of messages, the queue and attempts, and the dashboard."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable

import pytest
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts.models import User
from mailflow import content, events, ids, runtime
from mailflow.models import ContentChunk, Event, Message
from queue.admin import message_page
from queue.models import Attempt, Entry

Accept = Callable[..., list[int]]

CHANGELISTS = ["mailflow_message", "queue_entry", "queue_attempt"]
HOSTILE = b"</pre><script>alert(1)</script>\xff\x00 \xe2\x80\xae end\r\n"


@pytest.fixture
def browser(client: Client, db: None) -> Client:
    client.force_login(User.objects.create_superuser("root", "root@example.com", "x"))
    return client


@pytest.fixture
def message(accept: Accept) -> Message:
    accept("anna@x.example", "bob@y.example", body=HOSTILE)
    return Message.objects.get()


def _attempt(entry: Entry, transport: str = "smtp") -> None:
    now = timezone.now()
    Attempt.objects.create(
        id=ids.new_row_id(), entry=entry, number=1, started_at=now, ended_at=now, outcome="delivered",
        transport=transport, reply="fine",
    )  # fmt: skip


def _page(browser: Client, message: Message) -> str:
    answer = browser.get(reverse("admin:mailflow_message_change", args=[message.pk]))
    assert answer.status_code == 200
    return answer.content.decode()


def test_a_forward_leads_to_the_message_that_carries_it_on(browser: Client, message: Message, accept: Accept) -> None:
    other = Entry.objects.get(pk=accept("c@x.example")[0]).message_id
    events.record([events.NewEvent("forwarded", "It goes on.", message_id=message.pk, led_to=other)])
    assert f'href="{reverse("admin:mailflow_message_change", args=[quote(other)])}"' in _page(browser, message)


@pytest.mark.parametrize("model", CHANGELISTS)
def test_a_list_of_thirty_needs_no_more_queries_than_a_list_of_one(browser: Client, accept: Accept, model: str) -> None:
    address = reverse(f"admin:{model}_changelist")
    accept("anna@x.example")
    _attempt(Entry.objects.get())
    browser.get(address)
    with CaptureQueriesContext(connection) as one:
        assert browser.get(address).status_code == 200
    for number in range(29):
        _attempt(Entry.objects.get(pk=accept(f"r{number}@x.example")[0]))
    with CaptureQueriesContext(connection) as thirty:
        assert browser.get(address).status_code == 200
    assert len(thirty) == len(one)


@pytest.mark.parametrize(
    "term", ["{id}", "bob@y.example", "alice@example", "test", "192.0.2.77", "trace", "<m@example.com>"],
    ids=["id", "recipient", "sender", "subject", "client address", "trace id", "Message-ID"],
)  # fmt: skip
def test_a_message_is_found_by(browser: Client, message: Message, term: str) -> None:
    Message.objects.update(client_address="192.0.2.77")
    address = reverse("admin:mailflow_message_changelist")
    answer = browser.get(address, {"q": term.format(id=message.pk)})
    assert list(answer.context["cl"].result_list) == [message]
    nothing = browser.get(address, {"q": "msg_zzz" if term == "{id}" else "no such thing"})
    assert list(nothing.context["cl"].result_list) == []


@pytest.mark.parametrize("model", ["queue_entry", "queue_attempt"])
def test_a_message_id_finds_its_entries_and_attempts(browser: Client, message: Message, model: str) -> None:
    _attempt(Entry.objects.earliest("pk"))
    answer = browser.get(reverse(f"admin:{model}_changelist"), {"q": message.pk})
    assert answer.context["cl"].result_count >= 1


def test_the_message_page_tells_envelope_entries_events_and_source(browser: Client, message: Message) -> None:
    Entry.objects.filter(recipient="bob@y.example").update(
        status="retry", attempts=1, next_attempt_at=timezone.now() + dt.timedelta(minutes=5), last_reply="451 later"
    )
    page = _page(browser, message)
    for words in ("alice@example.com", "anna@x.example", message.pk, "trace", "Waiting to retry", "451 later"):
        assert words in page
    assert "waits for attempt 2 of 5" in page
    assert "Accepted" in page
    assert "Subject: test" in page


def test_hostile_content_stays_text(browser: Client, message: Message) -> None:
    Message.objects.update(subject="<script>alert(2)</script>", error_message="<img src=x onerror=alert(3)>")
    page = _page(browser, message)
    assert "&lt;/pre&gt;&lt;script&gt;alert(1)&lt;/script&gt;\ufffd" in page
    assert "<script>alert" not in page
    assert "<img src=x" not in page


def test_a_list_leaves_out_marks_that_turn_the_writing_direction(browser: Client, message: Message) -> None:
    Message.objects.update(subject="photo\u202egnp.exe")
    page = browser.get(reverse("admin:mailflow_message_changelist")).content.decode()
    assert "photognp.exe" in page
    assert "\u202e" not in page


def test_the_message_page_asks_no_other_host(browser: Client, message: Message) -> None:
    page = _page(browser, message)
    assert re.findall(r"(?:src|href)=[\"'](?:https?:)?//", page) == []


def test_the_number_of_recipients_does_not_change_the_number_of_queries(browser: Client, accept: Accept) -> None:
    counts = []
    for recipients in (1, 40):
        accept(*(f"r{number}@x.example" for number in range(recipients)))
        message = Message.objects.latest("pk")
        for entry in Entry.objects.filter(message=message):
            _attempt(entry)
            events.record([events.NewEvent(Event.Kind.DEFERRED, "x", message.pk, entry.pk, entry.recipient)])
        _page(browser, message)
        with CaptureQueriesContext(connection) as captured:
            _page(browser, message)
        counts.append(len(captured))
    assert counts[0] == counts[1]


def test_a_message_that_the_sandbox_captured_says_so(browser: Client, message: Message) -> None:
    words = "Captured by the sandbox: nothing left this machine."
    assert words not in _page(browser, message)
    _attempt(Entry.objects.earliest("pk"), "sandbox")
    assert words in _page(browser, message)
    captured = browser.get(reverse("admin:queue_attempt_changelist"), {"transport": "sandbox"})
    assert captured.context["cl"].result_count == 1


@pytest.mark.parametrize(
    ("statuses", "words"),
    [
        (["pending", "delivered"], "To be delivered in the simulated internet: nothing leaves this machine."),
        (["retry", "retry"], "To be delivered in the simulated internet: nothing leaves this machine."),
        (["delivered", "delivered"], "Delivered in the simulated internet: nothing left this machine."),
        (["bounced", "failed"], "Refused in the simulated internet: nothing left this machine."),
        (
            ["bounced", "delivered"],
            "Delivered to some recipients in the simulated internet: nothing left this machine.",
        ),
    ],
)
def test_what_the_simulated_internet_has_to_do_with_it_is_said_by_its_state(
    browser: Client, message: Message, statuses: list[str], words: str
) -> None:
    for entry, status in zip(Entry.objects.all(), statuses, strict=True):
        ended = None if status in Entry.OPEN else timezone.now()
        Entry.objects.filter(pk=entry.pk).update(is_sandbox=True, status=status, finished_at=ended)
    assert "simulated internet" not in _page(browser, message)
    _attempt(Entry.objects.earliest("pk"))
    assert words in _page(browser, message)
    Entry.objects.filter(pk=Entry.objects.latest("pk").pk).update(is_sandbox=False)
    assert "simulated internet" not in _page(browser, message)


def test_of_many_recipients_those_that_wait_come_first_and_the_rest_is_on_further_pages(
    browser: Client, accept: Accept
) -> None:
    accept(*(f"r{number}@x.example" for number in range(120)))
    message, now = Message.objects.get(), timezone.now()
    ended = {"finished_at": now, "next_attempt_at": None}
    Entry.objects.update(status="delivered", **ended)
    Entry.objects.filter(recipient="r118@x.example").update(status="bounced", **ended)
    Entry.objects.filter(recipient="r119@x.example").update(status="retry", finished_at=None)
    address, seen = reverse("admin:mailflow_message_change", args=[message.pk]), []
    for number in ("1", "2", "3"):
        answer = browser.get(address, {"recipients": number})
        seen += [row.entry.recipient for row in answer.context["page"].recipients]
    assert seen[:3] == ["r119@x.example", "r118@x.example", "r0@x.example"]
    assert len(seen) == len(set(seen)) == 120
    first = browser.get(address).content.decode()
    assert "1 to 50 of 120" in first and "?recipients=2" in first
    assert "101 to 120 of 120" in browser.get(address, {"recipients": "99"}).content.decode()


def test_a_message_of_which_a_part_did_leave_does_not_claim_that_nothing_did(browser: Client, message: Message) -> None:
    first, second = Entry.objects.all()
    _attempt(first, "sandbox")
    _attempt(second, "smtp")
    assert message_page.build(message).is_captured is False


def test_a_large_source_is_cut_and_the_download_is_whole(browser: Client, accept: Accept) -> None:
    accept("anna@x.example", body=b"0123456789abcde\r\n" * 90_000)
    message = Message.objects.get()
    page = message_page.build(message)
    assert page.is_source_cut
    assert page.source is not None
    assert len(page.source) == message_page.SHOWN_OCTETS
    assert "Only the first 256 KiB are shown" in _page(browser, message)
    answer = browser.get(reverse("admin:mailflow_message_raw", args=[message.pk]))
    assert b"".join(answer.streaming_content) == content.read(message.pk)  # type: ignore[attr-defined]


def test_the_raw_message_is_a_file_and_never_a_page(browser: Client, message: Message) -> None:
    answer = browser.get(reverse("admin:mailflow_message_raw", args=[message.pk]))
    assert answer.headers["Content-Type"] == "message/rfc822"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{message.pk}.eml"'
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert HOSTILE in b"".join(answer.streaming_content)  # type: ignore[attr-defined]


def test_a_message_whose_content_is_gone_still_has_its_page(browser: Client, message: Message) -> None:
    ContentChunk.objects.all().delete()
    assert "is not kept any more" in _page(browser, message)
    assert browser.get(reverse("admin:mailflow_message_raw", args=[message.pk])).status_code == 404


def test_an_unknown_message_is_not_found(browser: Client) -> None:
    assert browser.get(reverse("admin:mailflow_message_raw", args=["msg_nothing"])).status_code == 404
    assert browser.get(reverse("admin:mailflow_message_change", args=["msg_nothing"])).status_code == 302


def test_staff_without_the_permission_see_no_message(client: Client, message: Message) -> None:
    client.force_login(User.objects.create_user("clerk", "clerk@example.com", "x", is_staff=True))
    for name in ("change", "raw"):
        assert client.get(reverse(f"admin:mailflow_message_{name}", args=[message.pk])).status_code == 403


def test_the_dashboard_counts_the_last_day_with_few_queries(
    browser: Client, message: Message, accept: Accept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "POLL_SECONDS", 60)  # the configuration is read once a second, by whoever asks then
    address = reverse("admin:index")
    events.record([events.NewEvent(Event.Kind.REFUSED, "Relaying was refused.", client_address="192.0.2.7")])
    browser.get(address)
    with CaptureQueriesContext(connection) as few:
        answer = browser.get(address)
    figures = {figure["title"]: figure["number"] for figure in answer.context["figures"]}
    assert figures == {
        "Delivered": 0, "Processing": 1, "Bounced": 0, "Failed": 0, "Pending": 2, "Waiting to retry": 0, "Refused": 1,
        "Failed log-ins": 0,
    }  # fmt: skip
    assert "Relaying was refused." in answer.content.decode()
    for number in range(10):
        accept(f"r{number}@x.example")
    with CaptureQueriesContext(connection) as more:
        browser.get(address)
    assert len(more) == len(few) <= 8


def test_the_dashboard_and_the_side_bar_show_only_what_one_may_see(client: Client, message: Message) -> None:
    clerk = User.objects.create_user("clerk", "clerk@example.com", "x", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename="view_domain"))
    client.force_login(clerk)
    page = client.get(reverse("admin:index")).content.decode()
    assert reverse("admin:accounts_domain_changelist") in page
    assert reverse("admin:mailflow_message_changelist") not in page
    assert "alice@example.com" not in page
