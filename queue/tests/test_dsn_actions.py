"""Reports of anything but failure: what they tell people and programs (RFC 3464 §2.3, RFC 3461 §6, RFC 2852 §5)."""

from __future__ import annotations

import datetime as dt
import email.utils
from dataclasses import replace
from typing import Any

import pytest

from queue.dsn import compose
from queue.dsn_facts import Action, DsnFacts, RecipientFacts
from queue.outcome import Kind, Outcome, deferred, from_reply
from queue.tests.test_dsn import ATTEMPTED_AT, CONTENT, HEADER, HOP, NOW, assert_7bit, facts, report

UNTIL = NOW + dt.timedelta(days=4)
DEADLINE = NOW - dt.timedelta(seconds=5)
FILED = Outcome(Kind.DELIVERED, "filed in secret.account@example.com/INBOX", "local", 250, "2.0.0", "secret/INBOX")
TAKEN = from_reply(250, "2.6.0 Queued", transport="smtp", next_hop=HOP)
ITS_OWN = replace(TAKEN, announced=frozenset({"DSN"}))
GREYLISTED = from_reply(451, "4.7.1 Greylisted, come back", transport="smtp", next_hop=HOP)


def of(action: Action, outcome: Outcome, address: str = "bob@example.net", **changes: Any) -> DsnFacts:
    retry_until = UNTIL if action is Action.DELAYED else None
    expired = changes.pop("expired", False)
    attempted_at = changes.pop("attempted_at", ATTEMPTED_AT)
    bob = RecipientFacts(
        address, outcome, attempted_at, expired=expired, original_recipient="rfc822;Bob@Example.NET",
        retry_until=retry_until,
    )  # fmt: skip
    return facts(bob, action=action, **changes)


@pytest.mark.parametrize(
    ("given_facts", "subject", "status", "words"),
    [
        (of(Action.DELIVERED, FILED), "Delivered: Lunch", "2.0.0", "was delivered to the mailbox below"),
        (of(Action.RELAYED, TAKEN), "Passed on: Lunch", "2.6.0", "was passed on to the next mail system"),
        (of(Action.EXPANDED, FILED), "Passed on to several recipients: Lunch", "2.0.0", "which stands for several"),
        (of(Action.DELAYED, GREYLISTED), "Delayed: Lunch", "4.7.1", "still waiting to be delivered to the recipient"),
        (of(Action.DELAYED, GREYLISTED, expired=True), "Delayed: Lunch", "4.4.7", "The time that you set for it has"),
    ],
)  # fmt: skip
def test_each_action_has_its_own_words_and_fields(given_facts: DsnFacts, subject: str, status: str, words: str) -> None:
    whole, text, (_, bob), original = report(given_facts)
    assert whole["Subject"] == subject
    assert words in " ".join(text.split())
    assert "<bob@example.net>" in text and "Received:     Fri, 20 Nov 2026" in text
    assert (bob["Action"], bob["Status"]) == (given_facts.action, status)
    assert bob["Original-Recipient"] == "rfc822; Bob@Example.NET"
    assert original.get_content_type() == "text/rfc822-headers"
    assert original.get_payload(decode=True) == HEADER
    assert not set(text) & set("{}&%")
    assert_7bit(compose(given_facts))


def test_a_report_without_a_failure_never_gives_the_whole_message_back() -> None:
    for action, outcome in ((Action.DELIVERED, FILED), (Action.RELAYED, TAKEN), (Action.DELAYED, GREYLISTED)):
        assert b"Shall we?" in CONTENT
        assert b"Shall we?" not in compose(of(action, outcome, dsn_return="FULL"))


def test_a_delivery_here_names_neither_the_account_nor_a_remote_system() -> None:
    for action in (Action.DELIVERED, Action.EXPANDED):
        octets = compose(of(action, FILED))
        assert b"secret" not in octets and b"Diagnostic-Code" not in octets and b"Remote-MTA" not in octets


def test_a_relaying_names_who_took_it_and_whether_more_will_be_heard() -> None:
    _, text, (_, bob), _ = report(of(Action.RELAYED, TAKEN))
    assert (bob["Remote-MTA"], bob["Diagnostic-Code"]) == ("dns; mx.example.net", "smtp; 250 2.6.0 Queued")
    assert "mx.example.net answered:" in text and "does not report deliveries" in text
    assert "sends reports of its own" in report(of(Action.RELAYED, ITS_OWN))[1]


def test_a_delay_says_how_long_attempts_go_on_and_what_the_last_one_met() -> None:
    _, text, (_, bob), _ = report(of(Action.DELAYED, GREYLISTED))
    assert email.utils.parsedate_to_datetime(bob["Will-Retry-Until"]) == UNTIL
    assert email.utils.parsedate_to_datetime(bob["Last-Attempt-Date"]) == ATTEMPTED_AT
    assert "451 4.7.1 Greylisted, come back" in text and "Tue, 24 Nov 2026 12:00:01 +0000 at the latest" in text
    assert "you need not send it again" in " ".join(text.split())
    assert "Will-Retry-Until" not in report(facts())[2][1]


def test_a_delay_before_any_attempt_says_so() -> None:
    nothing = deferred("", transport="local")
    _, text, (_, bob), _ = report(of(Action.DELAYED, nothing, attempted_at=None))
    assert "No attempt has been made yet." in text
    assert "Last-Attempt-Date" not in bob


def test_a_deadline_is_told_to_people_and_programs() -> None:
    late = RecipientFacts("bob@example.net", GREYLISTED, ATTEMPTED_AT, expired=True)
    _, text, (message, bob), _ = report(facts(late, deliver_by_at=DEADLINE))
    assert email.utils.parsedate_to_datetime(message["Deliver-By-Date"]) == DEADLINE
    assert "Deliver by:   Fri, 20 Nov 2026 11:59:56 +0000" in text
    assert (bob["Action"], bob["Status"]) == ("failed", "5.4.7")
    assert "Deliver-By-Date" not in report(facts())[2][0]


def test_reports_of_several_recipients_count_them() -> None:
    def two(action: Action, outcome: Outcome) -> str:
        one = of(action, outcome)
        other = replace(one.recipients[0], recipient="carol@example.org")
        return " ".join(report(replace(one, recipients=[*one.recipients, other]))[1].split())

    assert "delivered to the 2 mailboxes below" in two(Action.DELIVERED, FILED)
    assert "way to the 2 recipients below" in two(Action.RELAYED, TAKEN)
    assert "reached the 2 addresses below" in two(Action.EXPANDED, FILED)
    assert "delivered to the 2 recipients below" in two(Action.DELAYED, GREYLISTED)


def test_reports_of_different_actions_are_different_messages() -> None:
    ids = {report(of(action, TAKEN))[0]["Message-ID"] for action in Action}
    assert len(ids) == len(Action)
