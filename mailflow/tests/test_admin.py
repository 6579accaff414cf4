"""The admin pages of mailflow: events, mailboxes and counters."""

from __future__ import annotations

import datetime as dt
import re

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts.models import User
from mailflow import events, ids
from mailflow.admin import columns
from mailflow.models import Counter, Event, FiledMessage, Mailbox
from mailflow.policy.decision import Decision, Verdict

pytestmark = pytest.mark.django_db

CHANGELISTS = ["event", "mailbox", "filedmessage", "counter"]


@pytest.fixture
def browser(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("root", "root@example.com", "x"))
    return client


def _rows(start: int, stop: int) -> None:
    for number in range(start, stop):
        user = User.objects.create(username=f"user{number}", email=f"user{number}@example.com")
        mailbox = Mailbox.objects.create(user=user, name="INBOX", uid_validity=1)
        FiledMessage.objects.create(
            mailbox=mailbox, uid=1, modseq=1, message_id=ids.new_message_id(), recipient=user.email, flags=["\\Seen"],
            internal_date=timezone.now(), size_octets=5, digest="d", storage="database", storage_key="1",
        )  # fmt: skip
        Counter.objects.create(name=f"counter{number}", value=number)
        events.record([_refusal(f"192.0.2.{number}", f"nobody{number}@elsewhere.example")])


def _refusal(client_address: str, recipient: str) -> events.NewEvent:
    decision = Decision("recipient", "relay.denied", Verdict.REJECT, "The domain is <b>not</b> ours.", saw=recipient)
    return events.NewEvent(
        kind=Event.Kind.REFUSED.value,
        summary="Relaying was refused.",
        recipient=recipient,
        reply="550 5.7.1 Relaying denied",
        client_address=client_address,
        decisions=[decision],
    )


@pytest.mark.parametrize("model", CHANGELISTS)
def test_a_list_of_thirty_needs_no_more_queries_than_a_list_of_one(browser: Client, model: str) -> None:
    address = reverse(f"admin:mailflow_{model}_changelist")
    _rows(0, 1)
    browser.get(address)
    with CaptureQueriesContext(connection) as one:
        assert browser.get(address).status_code == 200
    _rows(1, 30)
    with CaptureQueriesContext(connection) as thirty:
        assert browser.get(address).status_code == 200
    assert len(thirty) == len(one)


@pytest.mark.parametrize("model", CHANGELISTS)
def test_no_link_of_a_list_is_within_another(browser: Client, model: str) -> None:
    _rows(0, 1)
    page = browser.get(reverse(f"admin:mailflow_{model}_changelist")).content.decode()
    cells = re.findall(r"<t[hd][^>]*field-.*?</t[hd]>", page, re.DOTALL)
    assert cells and not [cell for cell in cells if re.search(r"<a\b(?:(?!</a>).)*<a\b", cell, re.DOTALL)]


@pytest.mark.parametrize("kind", Event.Kind)
def test_the_list_of_events_calls_each_kind_by_its_name(browser: Client, kind: Event.Kind) -> None:
    events.record([events.NewEvent(kind.value, "x", actor="root")])
    page = browser.get(reverse("admin:mailflow_event_changelist")).content.decode()
    label = re.findall(r'field-kind_label.*?<span class="inline-block[^>]*>(.*?)</span>', page, re.DOTALL)
    assert [" ".join(text.split()) for text in label] == [kind.label]


def test_a_long_cell_is_one_line_with_the_whole_text_at_hand_and_the_time_is_short(browser: Client) -> None:
    Event.objects.create(
        id=ids.new_row_id(), created_at=timezone.now(), kind="refused", summary="A <b>long</b> story. " * 20
    )
    page = browser.get(reverse("admin:mailflow_event_changelist")).content.decode()
    assert 'title="A &lt;b&gt;long&lt;/b&gt; story. A' in page and "text-overflow: ellipsis" in page
    assert "<b>long" not in page
    assert f">{timezone.now():%m-%d}" in page
    assert str(columns.short_moment(dt.datetime(2020, 2, 3, 4, 5, 6, tzinfo=dt.UTC))).endswith(
        ">2020-02-03 04:05</time>"
    )


@pytest.mark.parametrize(
    "term", ["192.0.2.7", "nobody7@elsewhere.example"], ids=["by the client's address", "by the recipient"]
)
def test_a_refusal_is_found(browser: Client, term: str) -> None:
    events.record([_refusal("192.0.2.7", "nobody7@elsewhere.example"), _refusal("198.51.100.1", "other@x.example")])
    page = browser.get(
        reverse("admin:mailflow_event_changelist"), {"kind__exact": "refused", "q": term}
    ).content.decode()
    assert "nobody7@elsewhere.example" in page
    assert "other@x.example" not in page


def test_the_time_filter_leaves_out_what_is_older(browser: Client) -> None:
    old = timezone.now() - dt.timedelta(days=2)
    row_id = ids.first_row_id(old)
    Event.objects.create(id=row_id, created_at=old, kind="refused", summary="Long ago.")
    address = reverse("admin:mailflow_event_changelist")
    assert "Long ago." not in browser.get(address, {"since": "24h"}).content.decode()
    assert "Long ago." in browser.get(address, {"since": "7d"}).content.decode()


def test_an_events_page_shows_its_decisions_escaped(browser: Client) -> None:
    events.record([_refusal("192.0.2.7", "a@b.example")])
    page = browser.get(reverse("admin:mailflow_event_change", args=[Event.objects.get().pk])).content.decode()
    assert "relay.denied" in page
    assert "&lt;b&gt;not&lt;/b&gt;" in page
    assert "<b>not</b>" not in page


@pytest.mark.parametrize("model", CHANGELISTS)
def test_nothing_can_be_added_or_changed(browser: Client, model: str) -> None:
    assert browser.get(reverse(f"admin:mailflow_{model}_add")).status_code == 403


def test_a_list_counts_no_further_than_its_cap(browser: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accounts.admin.base.CappedPaginator.CAP", 3)
    events.record([_refusal("192.0.2.7", "a@b.example")] * 5)
    answer = browser.get(reverse("admin:mailflow_event_changelist"))
    assert answer.context["cl"].result_count == 3
