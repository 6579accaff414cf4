"""What bounces and complaints claim, read from the forms that hosts use, and from anything else without harm."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from queue import bounces
from queue.bounce_class import Weight, weigh
from queue.bounces import Failure, Kind, Report, parse
from queue.tests import bounce_samples as samples


def read(content: bytes) -> Report:
    report = parse(content, is_from_null_path=True)
    assert report is not None
    return report


def only(content: bytes) -> Failure:
    (failure,) = read(content).failed
    return failure


def weight(failure: Failure) -> Weight:
    return weigh(failure.status, failure.words)


# --- forms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "form", "status", "words"),
    [
        (samples.POSTFIX, "RFC 3464", "5.1.1", "550 5.1.1 <bob@dest.example>: Recipient address rejected"),
        (samples.EXIM_WITH_PARTS, "RFC 3464", "5.1.1", "550 5.1.1 No mailbox here by that name"),
        (samples.OFFICE_365, "RFC 3464", "5.1.10", "550 5.1.10 RESOLVER.ADR.RecipientNotFound"),
        (samples.GMAIL, "RFC 3464", "5.1.1", "The email account that you tried to reach does not exist."),
        (samples.EXCHANGE_AS_TEXT, "text", "5.1.1", "on 11/20/2026 12:00 PM The e-mail account does not exist"),
        (samples.SENDMAIL_AS_TEXT, "text", "5.3.0", "(reason: 553 5.3.0"),
        (samples.HTML_ALONE, "text", "", "could not be delivered: user unknown."),
    ],
    ids=["postfix", "exim", "office 365", "gmail", "exchange", "sendmail", "html"],
)
def test_a_bounce_is_read_whoever_wrote_it(content: bytes, form: str, status: str, words: str) -> None:
    report = read(content)
    (failure,) = report.failed
    assert (report.kind, report.form, failure.recipient, failure.status) == (
        Kind.BOUNCE, form, "bob@dest.example", status,
    )  # fmt: skip
    assert failure.words.startswith(words)
    assert weight(failure) is Weight.HARD
    assert bounces.may_be_one(content, is_from_null_path=True)


def test_qmails_paragraphs_are_its_recipients_and_the_copy_below_is_not_read_for_more() -> None:
    report = read(samples.QMAIL)
    assert [(one.recipient, one.status) for one in report.failed] == [
        ("bob@dest.example", ""),
        ("carol@dest.example", "5.2.2"),
    ]
    assert [weight(one) for one in report.failed] == [Weight.HARD, Weight.SOFT]
    assert report.failed[0].words.startswith("192.0.2.33 does not like recipient. Remote host said: 550 no such user")
    assert report.returned.our_ids == (samples.TRACE,) and report.form == "QSBMF"


def test_exims_text_tells_of_each_recipient_what_is_said_below_it() -> None:
    report = read(samples.EXIM_AS_TEXT)
    assert [(one.recipient, weight(one)) for one in report.failed] == [
        ("bob@dest.example", Weight.SOFT),  # "Unrouteable address" may be anybody's fault
        ("carol@dest.example", Weight.SOFT),
    ]
    assert report.failed[0].words == "Unrouteable address"


@pytest.mark.parametrize(
    "content",
    [samples.POSTFIX, samples.EXIM_WITH_PARTS, samples.EXIM_AS_TEXT, samples.OFFICE_365, samples.GMAIL,
     samples.QMAIL, samples.SENDMAIL_AS_TEXT, samples.complaint()],
)  # fmt: skip
def test_the_returned_header_section_tells_which_message_it_was(content: bytes) -> None:
    returned = read(content).returned
    assert (returned.our_ids, returned.internet_message_id) == ((samples.TRACE,), "<inv.1@example.com>")


@pytest.mark.parametrize("content", [samples.WARNING, samples.VACATION, samples.crlf("Subject: Hi\n\nuser unknown")])
def test_what_reports_no_failure_is_no_bounce(content: bytes) -> None:
    assert parse(content, is_from_null_path=False) is None
    if content != samples.VACATION:
        return
    assert parse(content, is_from_null_path=True) is None


def test_a_person_who_writes_of_an_unknown_user_is_no_host() -> None:
    content = samples.crlf("From: bob@dest.example\nSubject: mail failure\n\ncarol@dest.example: user unknown, I hear")
    assert parse(content, is_from_null_path=False) is None
    assert not bounces.may_be_one(content, is_from_null_path=False)


@pytest.mark.parametrize("action", ["delayed", "delivered", "relayed", "expanded"])
def test_a_report_of_anything_but_a_failure_fails_nobody(action: str) -> None:
    assert read(samples.rfc3464(action=action)).failed == []


def test_what_the_remote_host_said_counts_for_more_than_what_the_reporter_made_of_it() -> None:
    assert only(samples.rfc3464(status="5.0.0", diagnostic="smtp; 550 5.2.1 mailbox disabled")).status == "5.2.1"
    assert only(samples.rfc3464(status="5.2.2", diagnostic="smtp; 552 5.1.1 whatever")).status == "5.2.2"
    assert only(samples.rfc3464(status="nonsense", diagnostic="smtp; 450 4.2.2 full")).status == "4.2.2"
    assert only(samples.rfc3464(status="4.0.0", diagnostic="smtp; 192.5.1.1 said nothing")).status == "4.0.0"


def test_fields_of_a_group_are_read_however_they_are_written() -> None:
    failure = only(
        samples.rfc3464(
            final="<bob@other.example>",
            more="ORIGINAL-RECIPIENT: RFC822;bob@dest.example\n",
            diagnostic="smtp; 550-5.1.1 no\n 550 such\n\tuser",
        )
    )
    assert (failure.recipient, failure.original_recipient) == ("bob@other.example", "bob@dest.example")
    assert failure.words == "550-5.1.1 no 550 such user" and failure.host == "store.dest.example"


def test_an_internationalised_report_names_its_recipient_in_utf8() -> None:
    failure = only(samples.rfc3464().replace(b"rfc822; bob@dest.example", b"utf-8; b\\x{F6}b@dest.example"))
    assert failure.recipient == "b\u00f6b@dest.example"
    encoded = samples.rfc3464().replace(b"message/delivery-status", b"message/global-delivery-status")
    assert only(encoded).recipient == "bob@dest.example"


def test_the_part_for_programs_may_be_encoded() -> None:
    head, _, rest = samples.POSTFIX.partition(b"Content-Type: message/delivery-status\r\n\r\n")
    body, _, end = rest.partition(b"\r\n--8F21C")
    import base64  # noqa: PLC0415

    content = (
        head
        + b"Content-Type: message/delivery-status\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + base64.encodebytes(body).replace(b"\n", b"\r\n")
        + b"\r\n--8F21C"
        + end
    )
    assert only(content).status == "5.1.1"


def test_a_report_cut_off_in_the_middle_is_read_as_far_as_it_goes() -> None:
    end = samples.POSTFIX.index(b"Content-Description: Undelivered Message Headers")
    assert only(samples.POSTFIX[:end]).status == "5.1.1"


# --- complaints (RFC 5965) --------------------------------------------------------------------------------------------


def test_a_complaint_is_read() -> None:
    report = read(samples.complaint())
    assert (report.kind, report.form, report.feedback_type) == (Kind.COMPLAINT, "ARF", "abuse")
    assert [one.recipient for one in report.failures] == ["bob@dest.example"]
    assert report.mail_from == "alice@example.com"


@pytest.mark.parametrize("kind", ["not-spam", "auth-failure", "", "abuse\nFeedback-Type: fraud"])
def test_what_is_no_complaint_or_deviates_from_the_form_is_ignored(kind: str) -> None:
    assert parse(samples.complaint(kind=kind), is_from_null_path=False) is None


def test_a_complaint_needs_its_version() -> None:
    assert parse(samples.complaint().replace(b"Version: 1\r\n", b""), is_from_null_path=False) is None


# --- what a failure says of its recipient ---


@pytest.mark.parametrize(
    ("status", "words", "expected"),
    [
        ("5.1.1", "", Weight.HARD),
        ("5.1.10", "null MX", Weight.HARD),
        ("5.2.1", "disabled", Weight.HARD),
        ("5.2.2", "mailbox full", Weight.SOFT),
        ("5.2.3", "message too long for this mailbox", Weight.NONE),
        ("5.3.4", "message too big", Weight.NONE),
        ("5.4.1", "Recipient address rejected: Access denied", Weight.HARD),
        ("5.4.4", "unable to route", Weight.SOFT),
        ("5.6.3", "conversion", Weight.NONE),
        ("5.7.1", "550 user unknown", Weight.NONE),  # a block, whatever it says
        ("5.7.26", "unauthenticated", Weight.NONE),
        ("5.1.8", "your domain does not exist", Weight.NONE),
        ("4.4.7", "expired", Weight.SOFT),
        ("4.7.0", "greylisted", Weight.NONE),
        ("5.0.0", "550 No such user here", Weight.HARD),
        ("5.0.0", "550 message rejected as spam", Weight.NONE),
        ("5.0.0", "552 mailbox is full", Weight.SOFT),
        ("5.5.0", "550 Requested action not taken: mailbox unavailable", Weight.HARD),
        ("", "550 no", Weight.HARD),
        ("", "554 transaction failed", Weight.SOFT),
        ("", "421 too busy", Weight.SOFT),
        ("", "550 Blocked by our reputation service", Weight.NONE),
        ("", "Sorry, no mailbox here by that name.", Weight.HARD),
        ("", "", Weight.SOFT),
    ],
)
def test_only_what_is_about_the_address_is_hard(status: str, words: str, expected: Weight) -> None:
    assert weigh(status, words) is expected


# --- hostile input ---

FRAGMENTS = st.sampled_from(
    [
        b"Content-Type: multipart/report; boundary=b\r\n", b"Content-Type: message/delivery-status\r\n", b"\r\n",
        b"--b\r\n", b"--b--\r\n", b"\r\n--b", b"Final-Recipient: rfc822;", b"a@b.example", b"Action: failed\r\n", b"\0",
        b"Status: 5.", b"Hi. This is the qmail-send program\r\n", b"<a@b.example>:\r\n", b"X-Failed-Recipients: a@b.c,",
        b"Content-Type: message/feedback-report\r\n", b"Feedback-Type: abuse\r\n", b"Version: 1\r\n", b"\xff\xfe",
        b"Content-Transfer-Encoding: base64\r\n", b"Content-Type: text/html; charset=no-such\r\n", b"<", b" ", b"\n",
        b"--- Below this line is a copy of the message.", b"user unknown", b"\\x{110000}", b"\\x{D800}", b";", b"\t",
        b"Content-Type: multipart/mixed; boundary=\"\r\n", b"Content-Type: text/plain; charset=utf-7\r\n",
    ]
)  # fmt: skip


@settings(max_examples=300)
@given(st.lists(FRAGMENTS | st.binary(max_size=20), max_size=60).map(b"".join), st.booleans())
@example(b"Content-Type: multipart/report; boundary=b\r\n\r\n--b", True)
def test_nothing_that_comes_raises(content: bytes, is_from_null_path: bool) -> None:
    report = parse(content, is_from_null_path=is_from_null_path)
    bounces.may_be_one(content, is_from_null_path=is_from_null_path)
    for failure in report.failures if report is not None else ():
        weigh(failure.status, failure.words)
        assert len(failure.words) <= bounces.MAX_WORDS and "\0" not in failure.recipient


HEAD = b"From: MAILER-DAEMON@x.example\r\nX-Failed-Recipients: a@b.example\r\n"
MULTI = HEAD + b"Content-Type: multipart/report; boundary=b\r\n\r\n"
STATUS = b"--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; x\r\n\r\n"


def nested(depth: int) -> bytes:
    opened = b"".join(
        b"Content-Type: multipart/mixed; boundary=n%d\r\n\r\n--n%d\r\n" % (level, level) for level in range(depth)
    )
    return HEAD + opened


@pytest.mark.parametrize(
    "content",
    [
        MULTI + b"--b\r\n\r\n" * 200_000,
        MULTI + b"\r\n--bx" * 200_000,
        MULTI + STATUS + b"Final-Recipient: rfc822; a@b.example\r\n\r\n" * 25_000,
        MULTI + STATUS + b"Final-Recipient: rfc822; " + b"a" * 10**6,
        MULTI + STATUS + b"Diagnostic-Code: smtp; " + b"5." * 500_000,
        MULTI + STATUS + b"X: y\r\n " * 150_000,
        HEAD + b"X: y\r\n" * 170_000,
        HEAD + b"X: y\r\n" + b" z\r\n" * 250_000,
        nested(20_000),
        HEAD + b"\r\n" + b"user " * 200_000,
        HEAD + b"\r\n" + b"a@b." * 250_000,
        HEAD + b"\r\n" + b"a" * 10**6,
        HEAD + b"\r\n" + b"\r\n" * 500_000,
        HEAD + b"\r\n" + b"----- original " * 70_000,
        HEAD + b"\r\n" + b"Hi. This is the\r\n\r\n" + b"<a@b.example>:\r\nx\r\n\r\n" * 45_000,
        HEAD + b"Content-Type: text/html\r\n\r\n" + b"<" * 10**6,
        HEAD + b"Content-Type: text/html\r\n\r\n" + b"<a " * 333_000,
        HEAD + b"Content-Type: multipart/report; " + b"boundary = " * 90_000,
        HEAD + b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + b"=" * 10**6,
        HEAD + b"Content-Transfer-Encoding: base64\r\n\r\n" + b"=" * 10**6,
    ],
    ids=range(20),
)
def test_a_megabyte_of_malice_costs_a_moment(content: bytes) -> None:
    """A mistake of the quadratic kind would keep the whole run waiting for hours."""
    report = parse(content, is_from_null_path=True)
    assert report is None or len(report.failures) <= bounces.MAX_FAILURES
