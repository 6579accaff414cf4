"""Bodies: whatever text and files there are, a reader gets them back, and every line can be sent anywhere."""

from __future__ import annotations

import re
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailflow import mime
from mailflow.mime import Attachment, InvalidAttachment

PNG = bytes(range(256)) * 5


def read(octets: bytes) -> EmailMessage:
    assert octets.isascii()
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", octets)
    assert max(map(len, octets.split(b"\r\n"))) <= mime.MAX_LINE
    message = message_from_bytes(octets, policy=policy.default)
    assert not any(part.defects for part in message.walk())
    return message


def lines_of(text: str) -> str:
    found = re.sub(r"\r\n|\r|\n", "\r\n", text)
    return found if found.endswith("\r\n") else f"{found}\r\n"


@given(st.text(max_size=3000))
def test_any_text_comes_back_as_it_was(text: str) -> None:
    part = read(mime.body(text, None))
    assert part.get_payload(decode=True) == lines_of(text).encode()


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("plain", "7bit"), ("x" * 998, "7bit"), ("x" * 999, "quoted-printable"),
        ("Žluťoučký kůň, dlouhá řádka psaná", "base64"), ("Short words, and one that is žlutý", "quoted-printable"),
        ("日本語だけ", "base64"), ("a\0b", "quoted-printable"), ("From here\n.\nend ", "7bit"),
    ],
)  # fmt: skip
def test_the_plainest_encoding_that_can_be_sent_is_used(text: str, encoding: str) -> None:
    part = read(mime.body(text, None))
    assert part["Content-Transfer-Encoding"] == encoding
    assert part.get_payload(decode=True) == lines_of(text).encode()


def test_everything_together_has_the_shape_that_readers_expect() -> None:
    files = [Attachment("příloha.pdf", b"%PDF", "application/pdf"), Attachment("logo.png", PNG, "image/png", "logo@x")]
    message = read(mime.body("text", '<img src="cid:logo@x">', files))
    shape = [part.get_content_type() for part in message.walk()]
    assert shape == [
        "multipart/mixed", "multipart/alternative", "text/plain", "multipart/related", "text/html", "image/png",
        "application/pdf",
    ]  # fmt: skip
    pdf = next(iter(message.iter_attachments()))
    image = next(part for part in message.walk() if part["Content-ID"])
    assert pdf.get_filename() == "příloha.pdf" and pdf.get_content() == b"%PDF"
    assert (
        image["Content-ID"] == "<logo@x>" and image.get_content_disposition() == "inline" and image.get_content() == PNG
    )


def test_without_html_an_inline_file_is_an_attachment_like_others() -> None:
    message = read(mime.body("text", None, [Attachment("logo.png", PNG, "image/png", "logo")]))
    assert [part.get_content_type() for part in message.walk()] == ["multipart/mixed", "text/plain", "image/png"]


@example(name=" ", content=b"")
@example(name="a ", content=b"")
@example(name="<>", content=b"")
@given(name=st.text(min_size=1, max_size=255), content=st.binary(max_size=300))
def test_any_file_that_passes_the_check_comes_back(name: str, content: bytes) -> None:
    attachment = Attachment(name, content)
    try:
        mime.check(attachment)
    except (InvalidAttachment, UnicodeEncodeError):
        return
    found = next(read(mime.body("text", None, [attachment])).iter_attachments())
    assert found.get_payload(decode=True) == content
    assert found.get_filename() == unquote(name)  # it takes brackets off, which the field itself has
