"""Who may use which reverse path, From and Sender (contract §2, RFC 6409 §6.1)."""

from __future__ import annotations

import pytest

from accounts import addresses
from accounts.models import User
from accounts.names import parse_address
from mailflow.message.originators import scan
from mailflow.policy.decision import Decision, Verdict
from mailflow.policy.sender import check_header_from, check_sender

MINE = parse_address("alice@example.com")


def check(header: str, *, authenticated_as: str = "alice") -> Decision:
    found = scan(header.encode() + b"\r\nSubject: x\r\n\r\nbody\r\n")
    return check_header_from(found, authenticated_as=authenticated_as, holds=[MINE])


@pytest.mark.parametrize(
    ("reverse_path", "authenticated_as", "may_use", "verdict", "rule"),
    [
        (None, "alice", False, Verdict.ACCEPT, "null_path"),
        ("a@b.example", "", False, Verdict.ACCEPT, "reception"),
        ("alice@example.com", "alice", True, Verdict.ACCEPT, "owned"),
        ("a@b.example", "alice", False, Verdict.REJECT, "not_owned"),
    ],
)
def test_a_reverse_path_belongs_to_who_uses_it(
    reverse_path: str | None, authenticated_as: str, may_use: bool, verdict: Verdict, rule: str
) -> None:
    path = parse_address(reverse_path) if reverse_path else None
    decision = check_sender(path, authenticated_as=authenticated_as, may_use=may_use)
    assert (decision.verdict, decision.rule) == (verdict, rule)


@pytest.mark.parametrize(
    "header",
    [
        "From: alice@example.com",
        "From: A <alice@example.com>\r\nSender: alice@example.com",
        "from : <alice@example.com>",
    ],
)
def test_an_account_writes_under_names_that_it_holds(header: str) -> None:
    decision = check(header)
    assert (decision.verdict, decision.rule, decision.reply) == (Verdict.ACCEPT, "owned", None)


@pytest.mark.parametrize(
    ("header", "named"),
    [
        ("From: ceo@bank.example", "ceo@bank.example"),
        ("From: alice@example.com, ceo@bank.example", "ceo@bank.example"),
        ("From: team: alice@example.com, ceo@bank.example;", "ceo@bank.example"),
        ("From: ceo@bank.example <alice@example.com>", "ceo@bank.example"),
        ("From: alice@example.com\r\nSender: boss@example.com", "boss@example.com"),
        ("Sender: boss@example.com", "boss@example.com"),
        ("From: alice@example.com(\r\n <alice@example.com>), ceo@bank.example", "ceo@bank.example"),
    ],
)
def test_a_name_that_the_account_does_not_hold_is_refused_and_named(header: str, named: str) -> None:
    decision = check(header)
    assert (decision.verdict, decision.rule) == (Verdict.REJECT, "from_not_owned")
    assert str(decision.reply) == f"550 5.7.1 alice may not write as <{named}>"
    assert f"<{named}>" in decision.reason


@pytest.mark.parametrize(
    ("header", "rule", "reply"),
    [
        ("From: alice@example.com\r\nFrom: ceo@bank.example", "from_twice", "554 5.6.0"),
        ("From: alice@example.com\r\nFrom: alice@example.com", "from_twice", "554 5.6.0"),
        ("From: alice@example.com\r\nSender: alice@example.com\r\nSENDER: x", "from_twice", "554 5.6.0"),
        ("From: alice", "from_unparsable", "554 5.6.0"),
        ("From: nobody:;", "from_unparsable", "554 5.6.0"),
        (" From: ceo@bank.example", "from_unparsable", "554 5.6.0"),
        ("From: <@bank.example:alice@example.com>", "from_unparsable", "554 5.6.0"),
        ("From: " + ",".join(["alice@example.com"] * 51), "from_too_many", "550 5.7.0"),
    ],
)
def test_a_field_that_is_wrong_whoever_sends_it_is_refused(header: str, rule: str, reply: str) -> None:
    decision = check(header)
    assert (decision.verdict, decision.rule) == (Verdict.REJECT, rule)
    assert str(decision.reply).startswith(reply)


def test_a_submission_without_a_from_is_taken_and_noted() -> None:
    decision = check("To: bob@example.net")
    assert (decision.verdict, decision.stops, decision.rule) == (Verdict.NOTE, False, "from_missing")


@pytest.mark.parametrize("header", ["From: ceo@bank.example", "From: a\r\nFrom: b", "From: \0", "To: x"])
def test_reception_takes_any_from(header: str) -> None:
    decision = check(header, authenticated_as="")
    assert (decision.verdict, decision.rule) == (Verdict.ACCEPT, "reception")


def test_a_reply_with_the_longest_names_stays_within_a_line() -> None:
    longest = "l" * 64 + "@" + ".".join(["d" * 60] * 3) + ".com"
    decision = check(f"From: {longest}", authenticated_as="u" * 150)
    assert decision.reply is not None
    assert len(decision.reply.encode()) <= 512  # RFC 5321 §4.5.3.1.5


@pytest.mark.parametrize(
    ("header", "is_taken"),
    [
        ("From: Alice <ALICE+news@Example.COM>, shop@example.com", True),
        ('From: "alice"@example.com\r\nSender: anybody@example.com', True),
        ("From: \u00e4lice@example.com", True),
        ("From: \u00e4lice@foreign.example", False),
        ("From: alice@sub.example.com", False),
        ("From: alice@[192.0.2.1]", False),
    ],
)
def test_what_the_directory_says_decides(alice: User, header: str, is_taken: bool) -> None:
    found = scan(header.encode() + b"\r\n\r\n")
    holds = addresses.may_send_as_each(alice, found.addresses)
    assert check_header_from(found, authenticated_as="alice", holds=holds).stops is not is_taken
