"""The admin's page of events: a refusal is found by who, what and rule, and told readably."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.models import Organization, User
from mailflow import events
from mailflow.events import NewEvent
from mailflow.models import Event
from mailflow.policy.decision import Decision, Verdict
from mailflow.smtp.reply import Reply

pytestmark = pytest.mark.django_db
LIST = "admin:mailflow_event_changelist"


@pytest.fixture
def browser(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("root", "root@example.com", "x"))
    return client


@pytest.fixture
def refusals(browser: Client) -> Client:
    """Two refusals of one connection, and one of another."""
    relay = Decision(
        "recipient", "relay_denied", Verdict.REJECT, "far.example is not ours", "victim@far.example",
        Reply(550, "7.1", "Relaying denied"),
    )  # fmt: skip
    events.record([
        NewEvent("refused", "First.", sender="spam@bad.example", recipient="victim@far.example", decisions=[relay],
                 reply="550 5.7.1 Relaying denied", client_address="192.0.2.7", trace_id="aaaa"),
        NewEvent("auth_failed", "Second.", stage="auth", rule="credentials", actor="alice",
                 client_address="192.0.2.7", trace_id="aaaa"),
        NewEvent("refused", "Third.", stage="greeting", rule="early_talker", client_address="2001:db8::9",
                 trace_id="bbbb"),
    ])  # fmt: skip
    return browser


def listed(browser: Client, query: dict[str, str]) -> list[str]:
    answer = browser.get(reverse(LIST), query)
    assert answer.status_code == 200
    return sorted(event.summary for event in answer.context["cl"].result_list)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"stage": "recipient"}, ["First."]),
        ({"stage": "auth"}, ["Second."]),
        ({"rule": "early_talker"}, ["Third."]),
        ({"rule": "never_heard_of"}, []),
        ({"q": "spam@bad.example"}, ["First."]),
        ({"q": "victim@far"}, ["First."]),
        ({"q": "relay_denied"}, ["First."]),
        ({"q": "2001:db8::9"}, ["Third."]),
        ({"q": "192.0.2.0/24"}, ["First.", "Second."]),
        ({"q": "2001:db8::/32"}, ["Third."]),
        ({"q": "not/a network"}, []),
        ({"trace_id__exact": "aaaa"}, ["First.", "Second."]),
        ({"kind__exact": "auth_failed", "stage": "recipient"}, []),
    ],
)
def test_refusals_are_found(refusals: Client, query: dict[str, str], expected: list[str]) -> None:
    assert listed(refusals, query) == expected


def test_the_list_offers_the_rules_that_lately_refused(refusals: Client) -> None:
    page = refusals.get(reverse(LIST)).content.decode()
    for rule in ("relay_denied", "credentials", "early_talker"):
        assert f"rule={rule}" in page


def test_an_events_page_tells_who_what_rule_and_reply_and_leads_to_the_trace(refusals: Client) -> None:
    organization = Organization.objects.create(name="Ours <i>& co</i>")
    event = Event.objects.get(summary="First.")
    Event.objects.filter(pk=event.pk).update(organization_id=organization.pk)
    page = refusals.get(reverse("admin:mailflow_event_change", args=[event.pk])).content.decode()
    for text in ("spam@bad.example", "victim@far.example", "192.0.2.7", "550 5.7.1 Relaying denied", "Ours &lt;i&gt;"):
        assert text in page
    assert ">relay_denied</td>" in page and ">far.example is not ours<br>" in page and "saw: victim@far.example" in page
    assert "Refused" in page and "(&#x27;refused&#x27;" not in page
    assert "?trace_id__exact=aaaa" in page and "<i>& co</i>" not in page


def test_hostile_text_stays_text(browser: Client) -> None:
    evil = '<script>alert(1)</script>"&trace_id__exact='
    decision = Decision("sender", "r", Verdict.REJECT, evil, saw=evil + "\u202egnp.exe")
    events.record([
        NewEvent("refused", evil, sender=evil, recipient=evil, rule="<img src=x>", reply=evil, decisions=[decision],
                 actor=evil, trace_id='"><b>x&y=1')
    ])  # fmt: skip
    event = Event.objects.get()
    for path in (reverse(LIST), reverse("admin:mailflow_event_change", args=[event.pk])):
        page = browser.get(path).content.decode()
        assert "<script>alert" not in page and "<img src=x>" not in page and "<b>x" not in page
    assert "trace_id__exact=%22%3E%3Cb%3Ex%26y%3D1" in page and "\u202e" not in page.partition("decisions")[2]


def test_old_decisions_of_any_shape_are_shown(browser: Client) -> None:
    events.record([NewEvent("refused", "Odd.")])
    Event.objects.update(decisions=[{"rule": "known"}, {"unheard": "of"}])
    page = browser.get(reverse("admin:mailflow_event_change", args=[Event.objects.get().pk])).content.decode()
    assert ">known</td>" in page


def test_a_filtered_list_takes_as_many_queries_for_one_as_for_thirty(refusals: Client) -> None:
    counts = set()
    for _ in range(2):
        with CaptureQueriesContext(connection) as queries:
            listed(refusals, {"stage": "auth", "rule": "credentials"})
        counts.add(len(queries))
        events.record([NewEvent("auth_failed", "More.", stage="auth", rule="credentials")] * 30)
    assert len(counts) == 1
