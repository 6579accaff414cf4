"""`manage.py createapikey`: prints a key that works, or one clear line."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from accounts import keys
from accounts.models import ApiKey, Domain, Organization, User

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("createapikey", *arguments, stdout=out)
    return out.getvalue()


def test_the_printed_key_works_and_is_the_first_superusers() -> None:
    root = User.objects.create_superuser("root", "root@example.com")
    key = keys.authenticate(run("--name", "production", "--limit", "100").splitlines()[-1])
    assert key is not None and (key.name, key.daily_limit, key.user) == ("production", 100, root)


def test_the_limit_is_15_unless_given_and_the_user_may_be_named_by_address() -> None:
    alice = User.objects.create_user("alice", "alice@example.com")
    text = run("--name", "n", "--user", "alice@example.com", "--test").splitlines()[-1]
    key = keys.authenticate(text)
    assert text.startswith("sk_test_") and key is not None and (key.daily_limit, key.user) == (15, alice)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--name", "n", "--limit", "0"], "--limit must be from 1"),
        (["--name", "n", "--limit", "99999999999"], "--limit must be from 1"),
        (["--name", " "], "--name must have"),
        (["--name", "n" * 101], "--name must have"),
        (["--name", "n", "--user", "nobody"], "no user 'nobody'"),
        (["--name", "n"], "no superuser yet"),
        (["--limit", "5"], "--name"),
        (["--name", "n", "--limit", "many"], "--limit"),
        (["--name", "n", "--scope", "all"], "--scope"),
        (["--name", "n", "--user", "alice", "--domain", "a..b"], "--domain 'a..b' is not"),
        (["--name", "n", "--user", "alice", "--address", "nobody"], "--address 'nobody' is not"),
        (["--name", "n", "--user", "alice", "--expires-in-days", "0"], "--expires-in-days must be from 1"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: list[str], words: str) -> None:
    User.objects.create_user("alice", "alice@example.com")
    with pytest.raises(CommandError) as error:
        run(*arguments)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_scopes_senders_and_an_end_may_be_given() -> None:
    User.objects.create_superuser("root", "root@example.com")
    senders = ("--domain", "Shop.example", "--domain", "b.example", "--address", "Jane@C.example")
    text = run("--name", "n", "--scope", "read", "--scope", "send", *senders, "--expires-in-days", "30").splitlines()[
        -1
    ]
    key = keys.authenticate(text)
    assert key is not None and key.scopes == ["send", "read"]
    assert (key.allowed_domains, key.allowed_addresses) == (["shop.example", "b.example"], ["jane@c.example"])
    assert key.expires_at is not None and 29 <= (key.expires_at - timezone.now()).days <= 30


@pytest.mark.parametrize(
    ("sender", "words"),
    [
        (["--domain", "example.com", "--domain", "Other.org"], "--domain: other.org is not a domain of its user's "),
        (["--address", "alice@example.com", "--address", "x@other.org"], "--address: Its user may not send from x@o"),
    ],
)
def test_a_key_is_not_made_for_senders_that_its_user_does_not_hold(sender: list[str], words: str) -> None:
    organization = Organization.objects.create(name="Example")
    Domain.objects.create(name="example.com", organization=organization, is_trusted=True)
    Domain.objects.create(name="other.org", organization=Organization.objects.create(name="Other"), is_trusted=True)
    User.objects.create_user("alice", "alice@example.com", organization=organization)
    with pytest.raises(CommandError, match=words):
        run("--name", "n", "--user", "alice", *sender)
    assert not ApiKey.objects.exists()
    run("--name", "n", "--user", "alice", *sender[:2])
    assert ApiKey.objects.exists()


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call_command("createapikey", "--help")
    assert "manage.py createapikey --name production --limit 100" in capsys.readouterr().out


def test_help_says_where_mail_of_a_test_key_goes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call_command("createapikey", "--help")
    assert "sk_test_; its mail goes to the simulated internet alone" in " ".join(capsys.readouterr().out.split())
