"""Hostile messages as the accept leg's scan and the API's reader see them: bounded, and nothing raised."""

from __future__ import annotations

import json

import pytest

from mailflow.api import reading
from mailflow.message import headers
from mailflow.tests import hostile_mail
from mailflow.tests.hostile_mail import EVERY, HostileMail

every_hostile_message = pytest.mark.parametrize("mail", EVERY, ids=[mail.name for mail in EVERY])


@every_hostile_message
def test_a_hostile_message_is_within_smtp(mail: HostileMail) -> None:
    content = mail.make()
    assert content.endswith(b"\r\n")
    assert content.count(b"\r\n") == content.count(b"\r") == content.count(b"\n")
    assert content == mail.make()


@every_hostile_message
def test_what_the_scan_finds_in_a_hostile_message_is_short_printable_text(mail: HostileMail) -> None:
    facts = headers.scan(mail.make())
    for text in (facts.subject, facts.header_from, facts.message_id):
        assert len(text) <= headers.MAX_DECODED_OCTETS
        assert text.isprintable()
    assert facts.received_count == 0


@every_hostile_message
def test_a_hostile_message_can_be_shown(mail: HostileMail) -> None:
    shown = reading.read(mail.make())
    assert len(shown.preview) <= reading.PREVIEW_CHARACTERS
    text = json.dumps([shown.sender, shown.subject, shown.body, shown.headers], ensure_ascii=False)
    assert text.encode()  # no surrogate that no client could take


def test_the_sizes_that_were_asked_for_are_there() -> None:
    assert hostile_mail.addresses_in_cc().count(b"@cc.example") == 100_000
    assert hostile_mail.parts().count(b"Content-Type: text/plain") == 10_000
    assert hostile_mail.nested_multiparts().count(b"multipart/mixed") == 1_001
    assert hostile_mail.nested_messages().count(b"message/rfc822") == 1_001
    assert hostile_mail.parameter_pieces().count(b"name*") == 10_000
    assert max(map(len, hostile_mail.long_header_lines().split(b"\r\n"))) > 200_000
    assert max(map(len, hostile_mail.long_body_lines().split(b"\r\n"))) == 1 << 20
    assert hostile_mail.tiny_fields().count(b"a:\r\n") == 100_000
    assert len(hostile_mail.zip_bomb()) < 20_000
