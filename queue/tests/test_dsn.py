from __future__ import annotations

import datetime as dt
import email
import email.header
import email.policy
import email.utils
from dataclasses import replace
from email.message import Message
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from queue import dsn_original
from queue.dsn import compose
from queue.dsn_causes import cause_of
from queue.dsn_facts import DsnFacts, RecipientFacts
from queue.dsn_status import status_of
from queue.outcome import Kind, Outcome, deferred, failed, from_reply
from queue.transports.replies import PeerReply
from queue.transports.verdicts import Verdicts

NOW = dt.datetime(2026, 11, 20, 12, 0, 1, tzinfo=dt.UTC)
ACCEPTED_AT = NOW - dt.timedelta(hours=3)
ATTEMPTED_AT = NOW - dt.timedelta(seconds=2)
HEADER = b"Received: from a by b\r\nFrom: alice@example.com\r\nSubject: Lunch\r\n"
CONTENT = HEADER + b"\r\nShall we?\r\n"
HOP = "mx.example.net[192.0.2.1]:25"
NO_SUCH_USER = from_reply(550, "5.1.1 No such user here", transport="smtp", next_hop=HOP)


def recipient(outcome: Outcome = NO_SUCH_USER, address: str = "bob@example.net", **changes: Any) -> RecipientFacts:
    return RecipientFacts(address, outcome, ATTEMPTED_AT, **changes)


def facts(*recipients: RecipientFacts, **changes: Any) -> DsnFacts:
    base = DsnFacts(
        hostname="mx.example.com",
        message_id="msg_01kafe",
        reverse_path="alice@example.com",
        accepted_at=ACCEPTED_AT,
        recipients=recipients or (recipient(),),
        content=CONTENT,
        now=NOW,
        subject="Lunch",
        internet_message_id="<lunch.1@example.com>",
    )
    return replace(base, **changes)


def report(given_facts: DsnFacts) -> tuple[Message, str, list[Message], Message]:
    """Return the whole report, its text, the groups of its delivery-status part, and the part with the original."""
    octets = compose(given_facts)
    whole = email.message_from_bytes(octets, policy=email.policy.compat32)
    text, status, original = cast(list[Message], whole.get_payload())
    readable = cast(bytes, text.get_payload(decode=True)).decode(text.get_content_charset("us-ascii"))
    return whole, readable, cast(list[Message], status.get_payload()), original


def unfolded(message: Message, name: str) -> str:
    return str(message[name]).replace("\r\n", "").replace("\n", "")


def final_recipients(groups: list[Message]) -> list[str]:
    message, *recipients = groups
    assert "Final-Recipient" not in message
    return [str(group["Final-Recipient"]) for group in recipients]


def assert_7bit(octets: bytes) -> None:
    assert octets.isascii()
    assert b"\0" not in octets
    assert octets.count(b"\r\n") == octets.count(b"\r") == octets.count(b"\n")
    assert max(map(len, octets.split(b"\r\n"))) <= 998
    assert octets.endswith(b"\r\n")


def test_the_header_of_a_report_says_from_whom_to_whom_and_about_what() -> None:
    whole, _, _, _ = report(facts())
    assert whole["From"] == "Mail Delivery System <MAILER-DAEMON@mx.example.com>"
    assert whole["To"] == "<alice@example.com>"
    assert whole["Subject"] == "Not delivered: Lunch"
    assert email.utils.parsedate_to_datetime(whole["Date"]) == NOW
    assert whole["Message-ID"].startswith("<dsn.")
    assert whole["Message-ID"].endswith("@mx.example.com>")
    assert whole["Auto-Submitted"] == "auto-replied"
    assert whole["In-Reply-To"] == whole["References"] == "<lunch.1@example.com>"
    assert whole["MIME-Version"] == "1.0"


def test_a_report_is_a_multipart_report_of_three_parts() -> None:
    whole, _, _, _ = report(facts())
    assert whole.get_content_type() == "multipart/report"
    assert whole.get_param("report-type") == "delivery-status"
    parts = cast(list[Message], whole.get_payload())
    kinds = [part.get_content_type() for part in parts]
    assert kinds == ["text/plain", "message/delivery-status", "text/rfc822-headers"]
    assert all(not part.defects for part in whole.walk())


def test_the_part_for_programs_holds_the_fields_of_rfc_3464() -> None:
    _, _, (message, bob), _ = report(facts())
    assert message["Reporting-MTA"] == "dns; mx.example.com"
    assert email.utils.parsedate_to_datetime(message["Arrival-Date"]) == ACCEPTED_AT
    assert message["X-Mailproj-Message-ID"] == "msg_01kafe"
    assert "Original-Envelope-Id" not in message
    assert bob["Final-Recipient"] == "rfc822; bob@example.net"
    assert bob["Action"] == "failed"
    assert bob["Status"] == "5.1.1"
    assert bob["Remote-MTA"] == "dns; mx.example.net"
    assert bob["Diagnostic-Code"] == "smtp; 550 5.1.1 No such user here"
    assert email.utils.parsedate_to_datetime(bob["Last-Attempt-Date"]) == ATTEMPTED_AT


def test_each_recipient_has_its_own_group() -> None:
    full = from_reply(552, "5.2.2 Full", transport="smtp", next_hop=HOP)
    _, text, groups, _ = report(facts(recipient(), recipient(full, "carol@example.org")))
    assert final_recipients(groups) == ["rfc822; bob@example.net", "rfc822; carol@example.org"]
    assert [group["Status"] for group in groups[1:]] == ["5.1.1", "5.2.2"]
    assert "the 2 recipients below" in text
    assert "<bob@example.net>" in text
    assert "<carol@example.org>" in text


def test_the_text_tells_what_happened_what_it_means_and_what_to_do() -> None:
    _, text, _, _ = report(facts())
    assert "mx.example.net answered:\r\n    550 5.1.1 No such user here\r\n" in text
    words = " ".join(text.split())
    assert cause_of("5.1.1").meaning in words
    assert cause_of("5.1.1").remedy in words
    assert "msg_01kafe" in words
    assert "&" not in words


def text_about(outcome: Outcome, **changes: Any) -> str:
    return " ".join(report(facts(recipient(outcome, **changes)))[1].split())


LET_IN = "ask the recipient to let your mail in"


@pytest.mark.parametrize(
    ("code", "rule", "words"),
    [
        ("4.3.0", "", ["This mail system could not deal", "your postmaster"]),
        ("4.3.5", "", ["cannot use a key or a password", "The recipient can do nothing", "your postmaster"]),
        ("4.4.3", "", ["DNS", "your postmaster"]),
        ("4.7.0", "", ["smarthost", "The recipient can do nothing", "your postmaster"]),
        ("4.7.4", "required", ["did not offer an encrypted line", "your postmaster"]),
        ("4.7.4", "mta-sts", ["MTA-STS", "did not offer", "let the recipient know"]),
        ("4.7.4", "dane-unusable", ["DANE", "did not offer", "let the recipient know"]),
        ("4.7.5", "required", ["certificate", "The recipient can do nothing", "your postmaster"]),
        ("4.7.5", "dane", ["DANE", "which hosts take its mail", "let the recipient know"]),
        ("4.7.5", "mta-sts", ["MTA-STS", "which hosts take its mail", "let the recipient know"]),
        ("4.7.8", "required", ["smarthost", "password", "The recipient can do nothing", "your postmaster"]),
        ("5.7.10", "requiretls", ["You asked", "REQUIRETLS", "send it again without it"]),
        ("4.7.11", "never", ["smarthost", "send them safely", "your postmaster"]),
        ("5.7.30", "requiretls", ["You asked", "REQUIRETLS", "does not promise", "send it again without it"]),
    ],
)
@pytest.mark.parametrize("expired", [False, True])
def test_what_we_found_ourselves_is_not_said_to_be_the_recipients_refusal(
    code: str, rule: str, words: list[str], expired: bool
) -> None:
    make = failed if code.startswith("5") else deferred
    outcome = replace(make("in our words", transport="smtp", enhanced_code=code, next_hop=HOP), tls_policy=rule)
    text = text_about(outcome, expired=expired)
    assert all(word in text for word in words) and LET_IN not in text


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((550, "5.3.5 misconfigured"), ["The other mail system says", "ask the recipient"]),
        ((451, "4.4.3 no directory"), ["could not look up", "ask the recipient"]),
        ((550, "5.7.4 lacking"), ["The other mail system lacks", "your postmaster"]),
        ((550, "5.7.5 no key"), ["a key, a certificate or a signature", "your postmaster"]),
        ((550, "5.7.8 who are you"), ["wants a login", "your postmaster"]),
        ((550, "5.7.10 TLS please"), ["wants an encrypted line", "your postmaster"]),
        ((550, "5.7.11 TLS please"), ["wants an encrypted line", "your postmaster"]),
        ((550, "5.7.30 DKIM did not pass"), ["REQUIRETLS", "DKIM", "your postmaster"]),
        ((530, "5.7.0 Must issue STARTTLS first"), ["wants an encrypted line or a login", "your postmaster"]),
        ((550, "5.7.1 spam"), [LET_IN]),
        ((550, "5.7.26 unauthenticated"), [LET_IN]),
    ],
)
def test_the_same_codes_of_another_host_are_its_own_words(reply: tuple[int, str], words: list[str]) -> None:
    text = text_about(from_reply(*reply, transport="smtp", next_hop=HOP))
    assert all(word in text for word in words)
    assert "You asked" not in text and "smarthost" not in text


def test_a_smarthost_that_wants_a_login_first_is_no_refusal_of_the_recipient() -> None:
    outcome = Verdicts(HOP, is_relay=True).of(PeerReply(530, ("5.7.0 Authentication required",)))
    assert outcome.kind is Kind.DEFERRED
    text = text_about(outcome)
    assert "wants an encrypted line or a login" in text and LET_IN not in text


def test_an_answer_of_several_lines_is_quoted_line_by_line() -> None:
    outcome = from_reply(554, "5.7.1 Refused\nsee https://example.net/why", transport="smtp", next_hop=HOP)
    _, text, (_, bob), _ = report(facts(recipient(outcome)))
    assert "    554 5.7.1 Refused\r\n    554 see https://example.net/why\r\n" in text
    assert unfolded(bob, "Diagnostic-Code") == "smtp; 554 5.7.1 Refused see https://example.net/why"


def test_a_failure_that_we_found_ourselves_names_no_other_system() -> None:
    outcome = failed("example.net takes no mail", transport="smtp", enhanced_code="5.1.10", next_hop=HOP)
    _, text, (_, bob), _ = report(facts(recipient(outcome)))
    assert "Remote-MTA" not in bob
    assert bob["Diagnostic-Code"] == "X-Mailproj; example.net takes no mail"
    assert bob["Status"] == "5.1.10"
    assert "What happened:" in text


@pytest.mark.parametrize(
    ("hop", "shown"),
    [
        ("mx.example.net[192.0.2.1]:25", "dns; mx.example.net"),
        ("192.0.2.1:25", "dns; [192.0.2.1]"),
        ("2001:db8::1:25", "dns; [IPv6:2001:db8::1]"),
        ("user@example.com", None),
        ("", None),
        ("evil\r\nX: y[1]:25", None),
    ],
)
def test_the_remote_system_is_named_where_one_answered(hop: str, shown: str | None) -> None:
    outcome = from_reply(550, "no", transport="smtp", next_hop=hop)
    _, _, (_, bob), _ = report(facts(recipient(outcome)))
    assert bob["Remote-MTA"] == shown


@pytest.mark.parametrize(
    ("outcome", "expired", "status"),
    [
        (from_reply(550, "5.7.26 policy", transport="smtp"), False, "5.7.26"),
        (from_reply(550, "no enhanced code", transport="smtp"), False, "5.0.0"),
        (from_reply(550, "5.01.1 leading zero", transport="smtp"), False, "5.0.0"),
        (failed("x", transport="smtp", enhanced_code="4.4.4"), False, "5.0.0"),
        (from_reply(452, "4.2.2 full", transport="smtp"), False, "5.2.2"),
        (from_reply(451, "later", transport="smtp"), False, "5.0.0"),
        (deferred("connection refused", transport="smtp", enhanced_code="4.4.1"), False, "5.4.1"),
        (deferred("connection refused", transport="smtp", enhanced_code="4.4.1"), True, "5.4.7"),
        (from_reply(452, "4.2.2 full", transport="smtp"), True, "5.4.7"),
    ],
)
def test_the_status_is_always_permanent(outcome: Outcome, expired: bool, status: str) -> None:
    assert status_of(recipient(outcome, expired=expired)) == status


def test_the_text_says_whether_attempts_or_time_ran_out() -> None:
    outcome = from_reply(451, "4.3.0 later", transport="smtp", next_hop=HOP)
    assert "every attempt allowed was used up" in report(facts(recipient(outcome)))[1]
    assert "until the time allowed had passed" in report(facts(recipient(outcome, expired=True)))[1]


def test_the_original_header_is_given_back_unchanged() -> None:
    original = report(facts())[3]
    assert original.get_payload(decode=True) == HEADER


@pytest.mark.parametrize("content", [HEADER, HEADER.removesuffix(b"\r\n"), HEADER + b"\r\n"])
def test_a_message_without_a_body_gives_its_header(content: bytes) -> None:
    assert report(facts(content=content))[3].get_payload(decode=True) == HEADER


@pytest.mark.parametrize("content", [b"", b"\r\n", b"\r\nbody only\r\n"])
def test_a_message_without_a_header_gives_nothing_back(content: bytes) -> None:
    octets = compose(facts(content=content))
    assert_7bit(octets)
    assert b"body only" not in octets


def test_a_header_with_raw_octets_is_encoded_and_comes_back() -> None:
    head = "Subject: Größe\r\nX-Long: ".encode("latin-1") + b"x" * 5000 + b"\r\n"
    given_facts = facts(content=head + b"\r\nbody\r\n")
    original = report(given_facts)[3]
    assert original["Content-Transfer-Encoding"] == "quoted-printable"
    assert original.get_payload(decode=True) == head
    assert_7bit(compose(given_facts))


def test_a_huge_header_is_cut_after_a_whole_field_line() -> None:
    line = b"X-Filler: " + b"y" * 100 + b"\r\n"
    head = report(facts(content=line * 10_000 + b"\r\nbody\r\n"))[3].get_payload(decode=True)
    assert isinstance(head, bytes)
    assert dsn_original.MAX_HEADER_OCTETS - len(line) < len(head) <= dsn_original.MAX_HEADER_OCTETS
    assert head == line * (len(head) // len(line))


def test_a_header_of_one_endless_line_is_cut_and_encoded() -> None:
    octets = compose(facts(content=b"X: " + b"y" * 500_000))
    assert_7bit(octets)
    assert len(octets) < 2 * dsn_original.MAX_HEADER_OCTETS


def test_the_whole_message_is_given_back_where_the_sender_asked_for_it() -> None:
    octets = compose(facts(dsn_return="FULL"))
    original = report(facts(dsn_return="FULL"))[3]
    assert original.get_content_type() == "message/rfc822"
    assert b"\r\n\r\n" + CONTENT + b"\r\n--" in octets
    assert_7bit(octets)


@pytest.mark.parametrize(
    ("content", "dsn_return"),
    [
        (CONTENT, ""),
        (CONTENT, "HDRS"),
        (HEADER + b"\r\n" + b"x" * 70 + b"\r\n" * 2**19, "FULL"),
        (HEADER + b"\r\n\xff\r\n", "FULL"),
        (HEADER + b"\r\n" + b"x" * 999 + b"\r\n", "FULL"),
        (HEADER + b"\r\nbare\nline feed\r\n", "FULL"),
    ],
)
def test_otherwise_only_the_header_is_given_back(content: bytes, dsn_return: str) -> None:
    original = report(facts(content=content, dsn_return=dsn_return))[3]
    assert original.get_content_type() == "text/rfc822-headers"
    assert original.get_payload(decode=True) == HEADER


@pytest.mark.parametrize(
    "message_id",
    [
        "",
        "lunch@example.com",
        "<a b@example.com>",
        "<a@b>\r\nBcc: x@y",
        "<a@b> <c@d>",
        "<é@b>",
        "<a@b>\n",
        f"<{'a' * 990}@b>",
    ],
)
def test_a_message_id_that_is_not_one_is_not_referred_to(message_id: str) -> None:
    whole = report(facts(internet_message_id=message_id))[0]
    assert "In-Reply-To" not in whole
    assert "References" not in whole
    assert "Bcc" not in whole


def test_a_subject_of_any_language_is_carried() -> None:
    whole, text, _, _ = report(facts(subject="Příliš žluťoučký kůň " * 20))
    subject = str(email.header.make_header(email.header.decode_header(whole["Subject"])))
    assert subject.startswith("Not delivered: Příliš žluťoučký kůň Příliš")
    assert "Příliš žluťoučký" in text


def test_a_foreign_answer_is_shown_as_it_is_and_escaped_for_programs() -> None:
    outcome = from_reply(550, "5.1.1 Nikdo takový: žluťoučký", transport="smtp", next_hop=HOP)
    _, text, (_, bob), _ = report(facts(recipient(outcome)))
    assert "550 5.1.1 Nikdo takový: žluťoučký" in text
    assert unfolded(bob, "Diagnostic-Code").endswith("takov\\x{FD}: \\x{17E}lu\\x{165}ou\\x{10D}k\\x{FD}")


def test_an_envelope_id_is_given_back() -> None:
    assert report(facts(envelope_id="QQ314159"))[2][0]["Original-Envelope-Id"] == "QQ314159"


def test_the_null_path_gets_no_report() -> None:
    with pytest.raises(ValueError, match="null path"):
        compose(facts(reverse_path=""))


def test_equal_facts_give_equal_reports_and_other_facts_another_id() -> None:
    assert compose(facts()) == compose(facts())
    other = report(facts(message_id="msg_01other"))[0]
    assert other["Message-ID"] != report(facts())[0]["Message-ID"]
    assert other.get_boundary() != report(facts())[0].get_boundary()


HOSTILE = (
    "5.1.1 no\r\n\r\n--=_x\r\nContent-Type: text/html\r\n\r\n"
    "<script>\0\x1b[31m\u202e\u2028\ud800 &amp; {{ settings.SECRET_KEY }}"
)


@example(HOSTILE, "Subject: x\r\nBcc: y")
@example("x" * 3000, "y" * 3000)
@example("\r\n" * 1000, "")
@example(".\r\n.\r\nFrom me\r\nFinal-Recipient: rfc822; eve@example.com", "\udc80")
@given(st.text(st.characters(), max_size=300), st.text(st.characters(), max_size=300))
def test_no_remote_text_breaks_the_report(answer: str, subject: str) -> None:
    hostile = from_reply(550, answer, transport="smtp", next_hop=HOP)
    own = deferred(answer, transport="smtp", next_hop=answer)
    given_facts = facts(recipient(hostile), recipient(own, "carol@example.org", expired=True), subject=subject)
    octets = compose(given_facts)
    assert_7bit(octets)
    whole, text, groups, original = report(given_facts)
    usual = report(facts(recipient(), recipient()))
    assert sorted(whole.keys()) == sorted(usual[0].keys())
    assert final_recipients(groups) == ["rfc822; bob@example.net", "rfc822; carol@example.org"]
    assert set(groups[1].keys()) == set(usual[2][1].keys())
    assert unfolded(groups[1], "Diagnostic-Code").startswith("smtp; 550 ")
    assert original.get_payload(decode=True) == HEADER
    assert all(char.isprintable() or char in "\r\n\u200c\u200d" for char in text)
    assert all(line.startswith(" ") for line in text.split("\r\n") if "550" in line)
    assert len(octets) < 64 * 1024
