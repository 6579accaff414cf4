"""DSN and DELIVERBY as parameters for the next hop (RFC 3461 §4, §5.2.1, RFC 6533 §3, RFC 2852 §4)."""

from __future__ import annotations

import datetime as dt
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.smtp.paths import decode_orcpt, decode_xtext
from queue.transports.base import Deadline, DsnRequest
from queue.transports.requests import (
    Requests,
    mail_parameters,
    obstacle,
    recipient_parameters,
    utf8_address,
    xtext,
)

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
BOB = "bob@example.net"
USER = "用户@例え.jp"
BOTH = {"DSN": "", "DELIVERBY": ""}
PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=40)


def by(seconds: float, mode: str) -> Requests:
    return Requests(deadline=Deadline(NOW + dt.timedelta(seconds=seconds), mode))


def rcpt(request: DsnRequest, recipient: str = BOB, *, is_smtputf8: bool = False) -> str:
    found = recipient_parameters(
        Requests(recipients={recipient: request}), [recipient], {"DSN": ""}, NOW, is_smtputf8=is_smtputf8
    )
    return found[recipient]


@given(PRINTABLE)
def test_xtext_is_read_back_as_it_was(text: str) -> None:
    encoded = xtext(text)
    assert re.fullmatch(r"([!-*,-<>-~]|\+[0-9A-F]{2})+", encoded)
    assert decode_xtext(encoded) == text


@given(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=40), st.booleans())
def test_an_address_beyond_ascii_is_read_back_as_it_was(text: str, is_smtputf8: bool) -> None:
    encoded = utf8_address(f"é{text}", is_smtputf8=is_smtputf8)
    assert is_smtputf8 or encoded.isascii()
    assert not re.search(r"[\s+=]", encoded)
    assert decode_orcpt(f"utf-8;{encoded}") == f"utf-8;é{text}"


@pytest.mark.parametrize("text", ["a\r\nb", "a\0", "é"])
def test_what_xtext_cannot_hold_is_not_sent(text: str) -> None:
    assert xtext(text) == ""


def test_the_envelopes_parameters_go_on_as_they_came_and_none_is_made_up() -> None:
    assert mail_parameters(Requests("HDRS", "QQ 314+159"), BOTH, NOW) == " RET=HDRS ENVID=QQ+20314+2B159"
    assert mail_parameters(Requests("FULL"), BOTH, NOW) == " RET=FULL"
    assert mail_parameters(Requests(recipients={BOB: DsnRequest("NEVER")}), BOTH, NOW) == ""


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (DsnRequest("SUCCESS,FAILURE"), " NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;bob@example.net"),
        (DsnRequest("NEVER", "rfc822;Bob+1@Example.NET"), " NOTIFY=NEVER ORCPT=rfc822;Bob+2B1@Example.NET"),
        (DsnRequest("", "X400;/G=B o b/"), " ORCPT=X400;/G+3DB+20o+20b/"),
        (DsnRequest("DELAY", f"utf-8;{USER}"), " NOTIFY=DELAY ORCPT=utf-8;\\x{7528}\\x{6237}@\\x{4F8B}\\x{3048}.jp"),
    ],
)
def test_a_recipients_parameters_go_on_as_they_came_with_an_orcpt_where_none_came(
    request_: DsnRequest, words: str
) -> None:
    assert rcpt(request_) == words


def test_where_utf8_may_be_written_it_is() -> None:
    assert rcpt(DsnRequest("SUCCESS"), USER, is_smtputf8=True) == f" NOTIFY=SUCCESS ORCPT=utf-8;{USER}"


def test_an_orcpt_that_grows_too_long_is_left_out() -> None:
    assert rcpt(DsnRequest("SUCCESS", f"utf-8;{'用' * 100}@x.jp")) == " NOTIFY=SUCCESS"


def test_a_host_without_the_extensions_gets_no_parameter() -> None:
    asked = Requests("FULL", "QQ", {BOB: DsnRequest("SUCCESS", "rfc822;b@x")}, Deadline(NOW, "N"))
    assert mail_parameters(asked, {"SIZE": ""}, NOW) == ""
    assert recipient_parameters(asked, [BOB], {"SIZE": ""}, NOW, is_smtputf8=False) == {}


@pytest.mark.parametrize(
    ("seconds", "mode", "words"),
    [
        (98, "R", " BY=98;R"),
        (97.1, "R", " BY=98;R"),
        (0.001, "R", " BY=1;R"),
        (-0.001, "R", " BY=1;R"),
        (0.5, "N", " BY=1;N"),
        (0, "N", " BY=0;N"),
        (-1.9, "N", " BY=-1;N"),
        (-60, "NT", " BY=-60;NT"),
        (3e9, "RT", " BY=999999999;RT"),
        (-3e9, "N", " BY=-999999999;N"),
    ],
)
def test_the_time_that_is_left_goes_on_and_is_never_too_short(seconds: float, mode: str, words: str) -> None:
    assert mail_parameters(by(seconds, mode), BOTH, NOW) == words


@pytest.mark.parametrize(
    ("seconds", "mode", "extensions", "code"),
    [
        (60, "R", BOTH, ""),
        (60, "R", {"DELIVERBY": "60,FUTURE=1"}, ""),
        (60, "RT", {"DELIVERBY": "61"}, "5.4.7"),
        (60, "R", {"DELIVERBY": "nonsense"}, ""),
        (60, "R", {"DELIVERBY": "9" * 500}, ""),
        (60, "R", {}, "5.3.3"),
        (59.001, "R", {"DELIVERBY": "60"}, ""),
        (0.98, "R", BOTH, ""),
        (0.001, "R", BOTH, ""),
        (0, "R", BOTH, "5.4.7"),
        (-5, "R", {}, "5.4.7"),
        (60, "N", {}, ""),
        (-60, "NT", {"DELIVERBY": "240"}, ""),
    ],
)
def test_mail_that_is_wanted_back_goes_only_where_its_deadline_is_kept(
    seconds: float, mode: str, extensions: dict[str, str], code: str
) -> None:
    found = obstacle(by(seconds, mode), extensions, NOW)
    assert (found.enhanced_code if found else "") == code


@pytest.mark.parametrize(
    ("notify", "asked"),
    [
        ("", " NOTIFY=FAILURE,DELAY ORCPT=rfc822;bob@example.net"),
        ("SUCCESS", " NOTIFY=SUCCESS,DELAY ORCPT=rfc822;bob@example.net"),
        ("DELAY", " NOTIFY=DELAY ORCPT=rfc822;bob@example.net"),
        ("NEVER", " NOTIFY=NEVER ORCPT=rfc822;bob@example.net"),
    ],
)
def test_a_host_that_knows_no_deadline_is_asked_to_tell_of_delays(notify: str, asked: str) -> None:
    deadline = Deadline(NOW + dt.timedelta(hours=1), "N")
    wishes = Requests(recipients={BOB: DsnRequest(notify)} if notify else {}, deadline=deadline)
    assert recipient_parameters(wishes, [BOB], {"DSN": ""}, NOW, is_smtputf8=False) == {BOB: asked}
    late = recipient_parameters(wishes, [BOB], {"DSN": ""}, deadline.at, is_smtputf8=False)
    kept = recipient_parameters(wishes, [BOB], BOTH, NOW, is_smtputf8=False)
    assert late.get(BOB, "") == kept.get(BOB, "") == (f" NOTIFY={notify} ORCPT=rfc822;{BOB}" if notify else "")
