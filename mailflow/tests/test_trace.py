"""Trace fields (RFC 5321 §4.4, RFC 6531 §3.7.3)."""

from __future__ import annotations

import datetime as dt

import pytest

from accounts.names import parse_address
from mailflow.message.trace import received_line, return_path_line
from mailflow.smtp.envelope import Envelope, Recipient
from mailflow.spool.accepted import Origin

AT = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)


def received(*recipients: str, is_smtputf8: bool = False, protocol: str = "ESMTP") -> str:
    envelope = Envelope(None, [Recipient(parse_address(one)) for one in recipients], is_smtputf8=is_smtputf8)
    origin = Origin(protocol=protocol, trace_id="t", client_address="192.0.2.1", helo="client.example", tls="TLSv1.3 X")
    line = received_line(message_id="msg_1", hostname="mx.example.com", origin=origin, envelope=envelope, at=AT)
    assert line.endswith(b"\r\n") and b"\n" not in line.replace(b"\r\n", b"")
    return line.decode().replace("\r\n\t", " ").rstrip("\r\n")


@pytest.mark.parametrize("protocol", ["UTF8SMTP", "UTF8SMTPS", "UTF8SMTPA", "UTF8SMTPSA"])
def test_an_internationalised_message_tells_its_protocol_and_recipient(protocol: str) -> None:
    assert received("用户@例え.jp", is_smtputf8=True, protocol=protocol) == (
        f"Received: from client.example ([192.0.2.1]) by mx.example.com (mailproj) with {protocol} (TLSv1.3 X) "
        "id msg_1 for <用户@例え.jp>; Fri, 20 Nov 2026 12:00:00 +0000"
    )


def test_what_can_be_said_in_ascii_is_said_in_ascii() -> None:
    for is_smtputf8 in (False, True):
        line = received("user@例え.jp", is_smtputf8=is_smtputf8)
        assert line.isascii() and " for <user@xn--r8jz45g.jp>;" in line


def test_a_recipient_beyond_ascii_is_left_out_where_smtputf8_was_not_declared() -> None:
    line = received("用户@例え.jp")
    assert line.isascii() and " for " not in line


def test_several_recipients_are_never_named() -> None:
    assert " for " not in received("a@example.com", "用户@例え.jp", is_smtputf8=True)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("", "Return-Path: <>\r\n"),
        ("a@xn--r8jz45g.jp", "Return-Path: <a@xn--r8jz45g.jp>\r\n"),
        ("用户@xn--r8jz45g.jp", "Return-Path: <用户@例え.jp>\r\n"),
    ],
)
def test_the_return_path_is_in_utf8_where_it_must_be(path: str, line: str) -> None:
    assert return_path_line(path) == line.encode()
