"""Which recipients are taken, and what the client hears of it (contract §2, RFC 5321 §3.4, RFC 7504 §4)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from accounts.addresses import FOREIGN, Found, Resolution, Way
from accounts.names import parse_address
from mailflow.policy.decision import Decision, Verdict
from mailflow.policy.recipient import check_recipient, check_room

BOX = Resolution(Found.MAILBOX, used_octets=99, quota_octets=100)
ALIAS = Resolution(Found.ALIAS, targets=("new@foreign.example",))
TOLD = replace(ALIAS, announcement="told")
MOVED = replace(ALIAS, announcement="moved")
PAIR = ("a@foreign.example", "b@foreign.example")


def check(resolution: Resolution, *, may_relay: str = "", octets: int = 0, is_smtputf8: bool = False) -> Decision:
    return check_recipient(
        parse_address("bob@example.com"),
        resolution,
        may_relay=may_relay,
        auth_possible=True,
        declared_octets=octets,
        is_smtputf8=is_smtputf8,
    )


@pytest.mark.parametrize(
    ("resolution", "rule", "reply"),
    [
        (FOREIGN, "relay_denied", "550 5.7.1 Relaying to <bob@example.com> is not allowed; authenticate to send"),
        (Resolution(Found.UNKNOWN_USER), "unknown_user", "550 5.1.1 <bob@example.com> is unknown here"),
        (Resolution(Found.NO_MAIL), "domain_takes_no_mail", "556 5.1.10 Domain does not accept mail"),
        (Resolution(Found.DISABLED), "mailbox_disabled", "450 4.2.1 The mailbox of <bob@example.com> is disabled"),
        (replace(BOX, used_octets=105), "quota.over", "452 4.2.2"),
        (replace(BOX, used_octets=111), "quota.far_over", "552 5.2.2"),
        (MOVED, "alias.moved", "551 5.1.6 User not local; please try <new@foreign.example>"),
        (replace(MOVED, targets=PAIR), "alias.moved", "550 5.1.6 <bob@example.com> has moved"),
        (replace(MOVED, targets=("no address",)), "alias.moved", "550 5.1.6"),
        (replace(MOVED, targets=()), "alias.moved", "550 5.1.6"),
    ],
)
def test_a_recipient_that_is_not_taken_hears_why(resolution: Resolution, rule: str, reply: str) -> None:
    decision = check(resolution)
    assert decision.stops
    assert decision.rule == rule
    assert str(decision.reply).startswith(reply)
    expected = Verdict.DEFER if reply.startswith("4") else Verdict.REJECT
    assert decision.verdict is expected


@pytest.mark.parametrize(
    ("resolution", "rule"),
    [
        (BOX, "mailbox"),
        (Resolution(Found.RETURN_PATH), "return_path"),
        (ALIAS, "alias"),
        (replace(ALIAS, targets=PAIR), "alias"),
        (replace(TOLD, targets=PAIR), "alias"),  # a sender can be told of one target only
        (replace(TOLD, targets=("<script>@x.example",)), "alias"),
    ],
)
def test_a_recipient_that_is_taken_gets_the_listeners_own_reply(resolution: Resolution, rule: str) -> None:
    decision = check(resolution)
    assert (decision.verdict, decision.rule, decision.reply) == (Verdict.ACCEPT, rule, None)


@pytest.mark.parametrize(
    ("resolution", "rule", "reason"),
    [
        (ALIAS, "alias", "an alias of ours"),
        (MOVED, "alias.moved", "an alias of ours that says moved"),
        (replace(ALIAS, way=Way.CATCH_ALL), "catch_all", "but example.com has a catch-all"),
        (replace(TOLD, way=Way.CATCH_ALL), "catch_all.told", "has a catch-all that tells where it leads"),
        (replace(ALIAS, way=Way.POSTMASTER), "postmaster", "whose mail an administrator reads"),
    ],
)
def test_the_reason_says_what_takes_it(resolution: Resolution, rule: str, reason: str) -> None:
    decision = check(resolution)
    assert decision.rule == rule and decision.reason.endswith(reason)


def test_an_alias_that_tells_is_taken_with_a_reply_of_its_own() -> None:
    decision = check(TOLD)
    assert (decision.verdict, decision.stops, decision.rule) == (Verdict.ACCEPT, False, "alias.told")
    assert str(decision.reply) == "251 2.1.5 User not local; will forward to <new@foreign.example>"


def test_a_target_is_shown_in_the_form_that_goes_on_the_wire() -> None:
    told = check(replace(TOLD, targets=("new@b\u00fccher.example",)))
    assert "<new@xn--bcher-kva.example>" in str(told.reply)


def test_who_may_relay_may_send_anywhere() -> None:
    decision = check(FOREIGN, may_relay="authenticated as alice")
    assert (decision.verdict, decision.rule) == (Verdict.ACCEPT, "relay")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("a@sales", "554 5.1.2 The domain of <a@sales> is not fully qualified"),
        ("a@xn--p1ai", "554 5.1.2"),
        ("a@sales.example", ""),
        ("a@[192.0.2.1]", ""),
        ("a@[IPv6:2001:db8::1]", ""),
    ],
)
def test_who_may_relay_names_domains_in_full(address: str, expected: str) -> None:
    """RFC 6409 §4.2, RFC 5321 §2.3.5."""
    decision = check_recipient(parse_address(address), FOREIGN, may_relay="authenticated as alice", auth_possible=True)
    assert (decision.rule, decision.stops) == (("unqualified_domain", True) if expected else ("relay", False))
    assert str(decision.reply or "").startswith(expected)


def test_a_domain_of_ours_may_have_one_label() -> None:
    box = check_recipient(parse_address("bob@intranet"), BOX, may_relay="authenticated as alice", auth_possible=True)
    assert box.rule == "mailbox"


@pytest.mark.parametrize("found", [Found.UNKNOWN_USER, Found.NO_MAIL, Found.DISABLED])
def test_the_right_to_relay_opens_no_address_of_ours(found: Found) -> None:
    assert check(Resolution(found), may_relay="authenticated as alice").stops


def test_the_size_that_was_declared_counts_against_the_quota() -> None:
    assert check(BOX, octets=1).verdict is Verdict.ACCEPT
    assert check(BOX, octets=2).verdict is Verdict.DEFER


@pytest.mark.parametrize("found", list(Found))
def test_every_answer_of_the_directory_leads_to_a_decision(found: Found) -> None:
    assert check(Resolution(found)).stage == "recipient"


def test_a_reply_with_the_longest_names_stays_within_a_line() -> None:
    longest = parse_address("l" * 64 + "@" + ".".join(["d" * 60] * 3) + ".com")
    for resolution in (TOLD, MOVED, *(Resolution(found) for found in Found)):
        decision = check_recipient(
            longest, replace(resolution, targets=(str(longest),)), may_relay="", auth_possible=True
        )
        if decision.reply is not None:
            assert len(decision.reply.encode()) <= 512  # RFC 5321 §4.5.3.1.5


def test_a_target_with_utf8_is_named_to_a_client_that_declared_smtputf8_only() -> None:
    """RFC 6531 §3.7.4.1."""
    told, moved = (replace(resolution, targets=("j\u00f6rg@b\u00fccher.example",)) for resolution in (TOLD, MOVED))
    assert check(told).reply is None
    assert str(check(moved).reply) == "550 5.1.6 <bob@example.com> has moved"
    assert "<j\u00f6rg@xn--bcher-kva.example>" in str(check(told, is_smtputf8=True).reply)
    assert str(check(moved, is_smtputf8=True).reply).startswith("551 5.1.6 User not local; please try <j\u00f6rg@")


def test_a_message_that_is_there_has_room_where_somebody_takes_it() -> None:
    full, far_over, free = parse_address("full@x.test"), parse_address("far@x.test"), parse_address("free@x.test")
    over = Resolution(Found.MAILBOX, used_octets=1000, quota_octets=100)
    assert check_room({full: BOX, free: Resolution(Found.MAILBOX)}, 5) is None
    assert check_room({full: BOX, free: Resolution(Found.ALIAS)}, 5) is None
    assert check_room({full: BOX}, 1) is None and check_room({}, 5) is None
    decision = check_room({far_over: over, full: BOX}, 5)
    assert decision is not None and decision.verdict is Verdict.DEFER and decision.saw == "<full@x.test>"
    decision = check_room({far_over: over}, 5)
    assert decision is not None and str(decision.reply).startswith("552 5.2.2")
