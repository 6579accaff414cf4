"""The e-mail backend for other Django projects, against a server on a real port."""

from __future__ import annotations

from email import message_from_bytes, policy
from typing import Any

import pytest
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMultiAlternatives, get_connection

from accounts import keys
from accounts.models import User
from mailflow import content
from mailflow.email_backend import ApiError
from mailflow.handoff import MemoryHandoff
from mailflow.models import Message

pytestmark = pytest.mark.django_db(transaction=True)
BACKEND = "mailflow.email_backend.ApiEmailBackend"


@pytest.fixture
def key(alice: User, memory_handoff: MemoryHandoff) -> str:
    return keys.create("site", alice, daily_limit=100)[1]


def test_djangos_own_mail_goes_out_by_the_api(live_server: Any, key: str, settings: Any) -> None:
    settings.EMAIL_BACKEND, settings.MAILPROJ_URL, settings.MAILPROJ_API_KEY = BACKEND, f"{live_server.url}/", key
    message = EmailMultiAlternatives(
        "Žádost", "text", "Alice <alice@example.com>", ["bob@example.org"], bcc=["blind@example.org"]
    )
    message.attach_alternative("<p>html</p>", "text/html")
    message.attach("a.txt", "attached", "text/plain")
    assert message.send() == 1
    found = Message.objects.get()
    assert message.email_id == found.pk  # type: ignore[attr-defined]
    assert (found.reverse_path, found.recipients) == ("alice@example.com", ["bob@example.org", "blind@example.org"])
    read = message_from_bytes(content.read(found.pk), policy=policy.default)
    assert read["Subject"] == "Žádost" and read["Bcc"] is None
    assert next(iter(read.iter_attachments())).get_content() == "attached"


def test_many_at_once_go_by_the_usual_functions(live_server: Any, key: str, settings: Any) -> None:
    settings.EMAIL_BACKEND, settings.MAILPROJ_URL, settings.MAILPROJ_API_KEY = BACKEND, live_server.url, key
    mails = [("one", "x", "alice@example.com", ["a@example.org"]), ("two", "x", "alice@example.com", ["b@example.org"])]
    assert mail.send_mass_mail(mails) == 2 == Message.objects.count()


def test_a_refusal_is_raised_in_the_servers_words_unless_it_is_to_be_silent(live_server: Any, key: str) -> None:
    message = mail.EmailMessage("x", "x", "root@other.test", ["a@example.org"])
    with pytest.raises(ApiError, match="raw") as caught:
        get_connection(BACKEND, url=live_server.url, api_key=key).send_messages([message])
    assert caught.value.status == 422
    assert get_connection(BACKEND, url=live_server.url, api_key=key, fail_silently=True).send_messages([message]) == 0


def test_a_server_that_is_away_is_told_as_such() -> None:
    message = mail.EmailMessage("x", "x", "alice@example.com", ["a@example.org"])
    with pytest.raises(ApiError, match="cannot be reached"):
        get_connection(BACKEND, url="http://127.0.0.1:1", api_key="sk_live_x").send_messages([message])


@pytest.mark.parametrize(("url", "key"), [("", "k"), ("http://x", ""), ("ftp://x", "k")])
def test_missing_settings_are_named(url: str, key: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="MAILPROJ_URL"):
        get_connection(BACKEND, url=url, api_key=key)
