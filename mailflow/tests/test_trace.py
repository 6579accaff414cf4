"""Trace fields (RFC 5321 §4.4, RFC 6531 §3.7.3, RFC 8314 §4.3)."""

from __future__ import annotations

import datetime as dt
import re
import ssl

import pytest

from accounts.names import parse_address
from mailflow.message.trace import received_line, return_path_line
from mailflow.smtp.envelope import Envelope, Recipient
from mailflow.spool.accepted import Origin

AT = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)


def received(*recipients: str, is_smtputf8: bool = False, protocol: str = "ESMTP", tls: str = "") -> str:
    envelope = Envelope(None, [Recipient(parse_address(one)) for one in recipients], is_smtputf8=is_smtputf8)
    origin = Origin(protocol=protocol, trace_id="t", client_address="192.0.2.1", helo="client.example", tls=tls)
    line = received_line(message_id="msg_1", hostname="mx.example.com", origin=origin, envelope=envelope, at=AT)
    assert line.endswith(b"\r\n") and b"\n" not in line.replace(b"\r\n", b"")
    return line.decode().replace("\r\n\t", " ").rstrip("\r\n")


@pytest.mark.parametrize("protocol", ["UTF8SMTP", "UTF8SMTPS", "UTF8SMTPA", "UTF8SMTPSA"])
def test_an_internationalised_message_tells_its_protocol_and_recipient(protocol: str) -> None:
    assert received("用户@例え.jp", is_smtputf8=True, protocol=protocol) == (
        f"Received: from client.example ([192.0.2.1]) by mx.example.com (mailproj) with {protocol} "
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
    ("tls", "clause"),
    [
        ("TLSv1.3 TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384 (TLSv1.3)"),
        ("TLSv1.2 ECDHE-RSA-AES128-GCM-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 (TLSv1.2)"),
        ("TLSv1.2 ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 (TLSv1.2)"),
        ("TLSv1.2 ECDHE-ECDSA-AES256-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384 (TLSv1.2)"),
        ("TLSv1.2 DHE-RSA-AES128-SHA256", "TLS_DHE_RSA_WITH_AES_128_CBC_SHA256 (TLSv1.2)"),
    ],
)
def test_the_cipher_suite_is_told_by_its_registered_name(tls: str, clause: str) -> None:
    """RFC 8314 §4.3."""
    line = received("a@example.com", protocol="ESMTPSA", tls=tls)
    assert line.partition(" with ")[2].startswith(f"ESMTPSA id msg_1 for <a@example.com> tls {clause}; ")


def test_every_suite_that_a_listener_may_agree_on_has_its_name() -> None:
    for suite in ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).get_ciphers():
        assert re.search(r" tls TLS_[A-Z0-9_]+ \(TLSv", received("a@b.example", tls=f"TLSv1.2 {suite['name']}")), suite


def test_a_suite_without_a_name_stays_a_comment() -> None:
    line = received("a@example.com", protocol="ESMTPS", tls="TLSv1.2 GOST2012-KUZNYECHIK(-KUZNYECHIKOMAC")
    assert " with ESMTPS (TLSv1.2 GOST2012-KUZNYECHIK -KUZNYECHIKOMAC) id msg_1 for <a@example.com>; " in line


def test_what_was_made_here_came_by_no_protocol() -> None:
    assert " by mx.example.com (mailproj) id msg_1 for" in received("a@example.com", protocol="INTERNAL")


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
