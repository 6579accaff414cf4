"""What clients may call themselves (RFC 5321 §4.1.1.1, §4.1.3, §4.1.4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.policy.decision import Decision, Verdict
from mailflow.policy.greeting import check_greeting

OURS = ("192.0.2.1", "2001:db8::1", "::ffff:198.51.100.7")


def check(argument: str, *, is_local: bool = False, verb: str = "EHLO") -> Decision:
    return check_greeting(verb, argument, hostname="MX.example.com", own_addresses=OURS, is_local=is_local)


@pytest.mark.parametrize(
    "argument",
    [
        "mail.example.org", "MAIL.Example.ORG.", "x", "localhost", "DESKTOP_7.lan", "xn--bcher-kva.example", "3com.com",
        "[203.0.113.9]", "[IPv6:2001:db8::9]", "[ipv6:2001:DB8:0:0:0:0:0:9]", "a" * 63 + ".example",
    ],
)  # fmt: skip
def test_a_name_and_a_literal_are_taken(argument: str) -> None:
    decision = check(argument)
    assert (decision.verdict, decision.saw, decision.reply) == (Verdict.ACCEPT, argument, None)


@pytest.mark.parametrize("argument", ["mail.example.org ESMTP client", "[203.0.113.9] TCP", "  x\t y"])
def test_what_older_clients_say_behind_the_name_is_passed_over(argument: str) -> None:
    decision = check(argument)
    assert not decision.stops
    assert decision.saw == argument.split()[0]


@pytest.mark.parametrize(
    ("argument", "reply"),
    [
        ("", "501 5.5.4 Syntax: EHLO hostname"),
        ("   ", "501 5.5.4"),
        ("a..b", "501 5.5.2"),
        (".", "501 5.5.2"),
        (".example", "501 5.5.2"),
        ("-x.example", "501 5.5.2"),
        ("x-.example", "501 5.5.2"),
        ("a" * 64 + ".example", "501 5.5.2"),
        ("a." * 200 + "example", "501 5.5.2"),
        ("user@example.org", "501 5.5.2"),
        ("<script>", "501 5.5.2"),
        ("mail.example.org\0", "501 5.5.2"),
        ("2001:db8::9", "501 5.5.2"),
        ("b\u00fccher.example", "501 5.5.2 The host name must be ASCII"),
        ("mail.example.org\udcff", "501 5.5.2"),
        ("[203.0.113.9", "501 5.5.2"),
        ("[203.0.113]", "501 5.5.2"),
        ("[203.0.113.999]", "501 5.5.2"),
        ("[]", "501 5.5.2"),
        ("[", "501 5.5.2"),
        ("[IPv6:]", "501 5.5.2"),
        ("[IPv6:203.0.113.9]", "501 5.5.2"),
        ("[IPv6:fe80::1%eth0]", "501 5.5.2"),
        ("[fe80::1%eth0]", "501 5.5.2"),
        ("[x400:c=de]", "501 5.5.2"),
    ],
)
def test_what_is_no_name_is_refused(argument: str, reply: str) -> None:
    decision = check(argument)
    assert decision.verdict is Verdict.REJECT
    assert str(decision.reply).startswith(reply)


@pytest.mark.parametrize(
    ("argument", "rule"),
    [
        ("mx.example.com", "claims_our_name"),
        ("Mx.Example.Com.", "claims_our_name"),
        ("[192.0.2.1]", "claims_our_address"),
        ("192.0.2.1", "claims_our_name"),
        ("[IPv6:2001:db8:0::1]", "claims_our_address"),
        ("[198.51.100.7]", "claims_our_address"),
        ("[IPv6:::ffff:192.0.2.1]", "claims_our_address"),
        ("203.0.113.9", "bare_address"),
        ("[2001:db8::9]", "untagged_literal"),
    ],
)
def test_what_is_odd_is_noted_and_never_refused(argument: str, rule: str) -> None:
    decision = check(argument)
    assert (decision.verdict, decision.stops, decision.rule, decision.saw) == (Verdict.NOTE, False, rule, argument)


@pytest.mark.parametrize("argument", ["mx.example.com", "[192.0.2.1]"])
def test_a_client_of_ours_may_bear_our_name(argument: str) -> None:
    assert check(argument, is_local=True).verdict is Verdict.ACCEPT


def test_the_verb_is_named_in_the_syntax() -> None:
    assert str(check("", verb="HELO").reply) == "501 5.5.4 Syntax: HELO hostname"


@given(st.text(max_size=600))
def test_any_argument_gets_a_decision_that_fits_a_reply(argument: str) -> None:
    decision = check(argument)
    assert decision.stops == (decision.reply is not None)
    if decision.reply is not None:
        assert len(decision.reply.encode()) <= 512
    else:
        assert decision.saw.isascii() and decision.saw.isprintable() and len(decision.saw) <= 256
