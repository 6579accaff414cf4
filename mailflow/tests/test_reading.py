"""What the API shows of a message's octets, honest or hostile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.api import reading

MIXED = b"""From: =?utf-8?q?=C5=BDofie?= <zofie@example.com>
Subject: =?utf-8?b?UMWZw61sacWh?= news
Received: one
Received: two
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=b

--b
Content-Type: text/html; charset=utf-8

<p>html</p>
--b
Content-Type: text/plain; charset=iso-8859-2
Content-Transfer-Encoding: quoted-printable

P=F8=EDteli
--b
Content-Type: application/pdf
Content-Disposition: attachment; filename=a.pdf

x
--b--
""".replace(b"\n", b"\r\n")


def test_the_plain_text_is_preferred_and_decoded() -> None:
    shown = reading.read(MIXED)
    assert (shown.sender, shown.subject) == ("zofie@example.com", "Příliš news")
    assert shown.body.strip() == "Příteli" == shown.preview
    assert shown.has_attachments
    assert shown.headers["Received"] == "one\ntwo"


def test_the_preview_is_short_and_on_one_line() -> None:
    shown = reading.read(b"Subject: x\r\n\r\n" + b"one\r\n  two   three\r\n" * 1000)
    assert len(shown.preview) <= 200 and "  " not in shown.preview and "\n" not in shown.preview


@pytest.mark.parametrize(
    "octets",
    [
        b"", b"\r\n", b"\0\0", b"no header at all", b"Subject: =?utf-8?b?!!!?=\r\n\r\n",
        b"Subject: =?nonsense?q?a?=\r\n\r\n",
        b"Content-Type: text/plain; charset=nonsense\r\n\r\n\xff", b"Content-Type: multipart/mixed\r\n\r\nx",
        b"Content-Transfer-Encoding: base64\r\n\r\n!!!", b"Subject: \xff\xfe\r\n\r\n\xff", b"From: \r\nFrom\r\n\r\n",
        b"Content-Type: message/rfc822\r\n\r\n" * 2000,
        b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(1500)),
    ],
)  # fmt: skip
def test_nothing_raises_whatever_it_is(octets: bytes) -> None:
    shown = reading.read(octets)
    for text in (shown.sender, shown.subject, shown.body, *shown.headers.values()):
        text.encode()
        assert "\0" not in text


@given(st.binary(max_size=500))
def test_random_octets_do_not_raise_either(octets: bytes) -> None:
    reading.read(octets)
