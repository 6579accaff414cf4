"""A message that is not 7bit comes back whole in a report that is, whatever its parts are (RFC 6522 §3)."""

from __future__ import annotations

import email
import email.policy
import time
from email.message import EmailMessage, Message
from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from queue.dsn import compose
from queue.dsn_seven_bit import seven_bit
from queue.tests.test_dsn import HEADER, assert_7bit, facts, report

GERMAN = "Grüße aus Köln, wo wir uns am Freitag treffen wollten.\r\n. allein\r\n"
RUSSIAN = "Привет из Москвы\r\n" * 20
MIME = HEADER + b"MIME-Version: 1.0\r\n"
PLAIN = b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"


def part(text: str, kind: str = "plain", encoding: str = "8bit") -> bytes:
    field = f"Content-Transfer-Encoding: {encoding}\r\n" if encoding else ""
    return f"Content-Type: text/{kind}; charset=utf-8\r\n{field}\r\n{text}".encode()


def multipart(*parts: bytes, kind: str = "mixed", boundary: str = "b", end: bytes = b"--\r\n") -> bytes:
    head = f'Content-Type: multipart/{kind};\r\n boundary="{boundary}"\r\nContent-Transfer-Encoding: 8bit\r\n'.encode()
    line = b"\r\n--" + boundary.encode()
    return head + b"\r\nSome words before." + b"".join(line + b"\r\n" + one for one in parts) + line + end


ATTACHED = MIME + PLAIN + GERMAN.encode()
MIXED = MIME + multipart(
    multipart(part(GERMAN), part(f"<p>{RUSSIAN}", "html"), kind="alternative", boundary="b2"),
    b"Content-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n\r\nAAEC\r\n",
    b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary\r\n\r\n\x80\x00\r\x81\n",
    b"Content-Type: message/rfc822\r\n\r\n" + ATTACHED,
    b"\r\nno header",
)


def leaves(octets: bytes) -> list[tuple[str, bytes]]:
    parts = email.message_from_bytes(octets, policy=email.policy.compat32).walk()
    single = [one for one in parts if not one.is_multipart()]
    return [(one.get_content_type(), cast(bytes, one.get_payload(decode=True)).rstrip(b"\r\n")) for one in single]


@pytest.mark.parametrize(
    "content",
    [
        MIME + PLAIN + GERMAN.encode(),
        MIME + PLAIN + RUSSIAN.encode(),
        MIME + part(GERMAN, encoding=""),
        MIME + part("x" * 2000 + "\r\n", encoding="7bit"),
        MIXED,
        MIME + multipart(part(GERMAN), end=b""),
        MIME + multipart(part(GERMAN), end=b"--\r\nand behind it\r\n"),
    ],
)
def test_the_whole_message_comes_back_in_a_report_that_any_host_takes(content: bytes) -> None:
    assert_7bit(compose(facts(content=content, dsn_return="FULL")))
    original = report(facts(content=content, dsn_return="FULL"))[3]
    assert original.get_content_type() == "message/rfc822"
    made = seven_bit(content)
    assert made is not None and leaves(made) == leaves(content)
    assert cast(list[Message], original.get_payload())[0]["Subject"] == "Lunch"


def test_what_is_7bit_already_is_left_as_it_is_and_the_rest_is_labelled() -> None:
    made = seven_bit(MIXED)
    assert made is not None
    assert b"\r\nContent-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n\r\nAAEC\r\n\r\n--b\r\n" in made
    assert b"8bit" not in made and b"binary" not in made
    assert b"Content-Transfer-Encoding: quoted-printable\r\n\r\nGr=C3=BC=C3=9Fe" in made  # readable
    assert seven_bit(HEADER + b"\r\nbody") == HEADER + b"\r\nbody"


def test_pythons_own_8bit_mail_comes_back() -> None:
    message = EmailMessage(policy=email.policy.SMTP.clone(cte_type="8bit"))
    message["From"], message["To"], message["Subject"] = "a@x.example", "b@y.example", "Größe"
    message.set_content(GERMAN, cte="8bit")
    message.add_alternative(f"<p>{GERMAN}", subtype="html", cte="8bit")
    message.add_attachment("日本語\n" * 50, filename="日本.txt", cte="8bit")
    made = seven_bit(message.as_bytes())
    assert made is not None and not message.as_bytes().isascii() and leaves(made) == leaves(message.as_bytes())


@pytest.mark.parametrize(
    "content",
    [
        HEADER + b"\r\n" + GERMAN.encode(),  # no MIME: nobody knows what the octets are
        HEADER + b"X: \xc3\xbc\r\nMIME-Version: 1.0\r\n" + PLAIN + GERMAN.encode(),
        MIME + multipart(part(GERMAN), b"Content-Type: application/pgp-signature\r\n\r\nx\r\n", kind="signed"),
        MIME + b"Content-Transfer-Encoding: 8bit\r\n" + PLAIN + GERMAN.encode(),
        MIME + part(GERMAN, encoding="base64"),
        MIME + part(GERMAN, encoding="x-new"),
        MIME + multipart(part(GERMAN)).replace(b'"b"', b'"c"'),
        MIME + multipart(part(GERMAN)).replace(b"words", b"w\xc3\xb6rter"),
        MIME + b"Content-Type: message/partial\r\n\r\n" + GERMAN.encode(),
        MIME + b"Content-Type: message/rfc822\r\n\r\n" + HEADER + b"\r\n" + GERMAN.encode(),
        MIME + GERMAN.encode(),
    ],
)
def test_what_is_not_plain_comes_back_as_its_header(content: bytes) -> None:
    assert seven_bit(content) is None
    assert_7bit(compose(facts(content=content, dsn_return="FULL")))
    assert report(facts(content=content, dsn_return="FULL"))[3].get_content_type() == "text/rfc822-headers"


@given(
    st.lists(st.sampled_from([*MIXED.split(b"\r\n"), b"", b"\xff", b"--b--", b"--b2", b"\n", b"--b \t"]), max_size=60)
)
@example([b"Content-Type: multipart/mixed; boundary=b", b"", b"--b", b"--b", b"\xff", b"--b--", b"--b"])
def test_whatever_it_is_the_report_is_7bit(lines: list[bytes]) -> None:
    content = MIME + b"\r\n".join(lines)
    made = seven_bit(content)
    assert made is None or made.isascii()
    assert_7bit(compose(facts(content=content, dsn_return="FULL")))


@pytest.mark.parametrize(
    "content",
    [
        MIME + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n" * 200_000 + b"\xff",
        MIME + b"Content-Type: message/rfc822\r\n\r\nMIME-Version: 1.0\r\n" * 15_000 + b"\r\n\xff",
        MIME + PLAIN + b"\r\n" * 400_000 + b"\xff",
        MIME + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n" * 15_000 + b"\xff",
    ],
)
def test_a_hostile_message_takes_no_long_time(content: bytes) -> None:
    began = time.process_time()
    seven_bit(content)
    assert time.process_time() - began < 2
