"""ODMR secrets: made once, sealed, checked by CRAM-MD5 (RFC 2195)."""

from __future__ import annotations

import hmac
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from accounts import odmr, sealed
from accounts.addresses import Found, resolve
from accounts.models import Alias, Domain, OdmrSecret, Organization, TrailEntry, User
from accounts.names import InvalidName, parse_address, parse_next_hop

pytestmark = pytest.mark.django_db

CHALLENGE = b"<1896.697170952@postoffice.reston.mci.net>"


@pytest.fixture
def domain() -> Domain:
    organization = Organization.objects.create(name="Dial-up")
    return Domain.objects.create(
        name="dialup.example", organization=organization, is_trusted=True, delivery=Domain.Delivery.DIAL_UP
    )


def digest(secret: str, challenge: bytes = CHALLENGE) -> str:
    return hmac.digest(secret.encode(), challenge, "md5").hex()


def run(*arguments: str) -> tuple[str, str]:
    out, err = StringIO(), StringIO()
    call_command("odmrsecret", *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_the_rfcs_example_comes_out_as_it_should(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 2195 §2: the secret is "tanstaaftanstaaf"."""
    monkeypatch.setattr("accounts.odmr.secrets.token_hex", lambda _octets: "tanstaaftanstaaf")
    odmr.make(domain, actor="tests")
    assert odmr.verify("dialup.example", CHALLENGE, "b913a602c7eda7a495b4e6e7334d3890") == domain


def test_a_secret_answers_challenges_and_nothing_else_does(domain: Domain) -> None:
    secret = odmr.make(domain, actor="tests")
    assert odmr.verify("DialUp.Example.", CHALLENGE, digest(secret)) == domain
    for name, answer in (
        ("dialup.example", digest("another")),
        ("dialup.example", digest(secret, b"<2@x>")),
        ("dialup.example", digest(secret).upper()),
        ("dialup.example", secret),
        ("dialup.example", ""),
        ("dialup.example", "\udcff"),
        ("other.example", digest(secret)),
        ("not a name\0", digest(secret)),
        ("", digest("")),
    ):
        assert odmr.verify(name, CHALLENGE, answer) is None, (name, answer)


def test_it_is_kept_sealed_in_its_place_and_its_use_is_noted(domain: Domain) -> None:
    secret = odmr.make(domain, actor="tests")
    row = OdmrSecret.objects.get()
    assert secret not in row.sealed
    assert sealed.open_sealed(row.sealed, "odmr:dialup.example") == secret.encode()
    assert row.last_used_at is None
    odmr.verify("dialup.example", CHALLENGE, digest("wrong"))
    row.refresh_from_db()
    assert row.last_used_at is None
    odmr.verify("dialup.example", CHALLENGE, digest(secret))
    row.refresh_from_db()
    assert row.last_used_at is not None


def test_a_new_secret_ends_the_one_before_and_a_revoked_one_opens_nothing(domain: Domain) -> None:
    first, second = odmr.make(domain, actor="root"), odmr.make(domain, actor="root")
    assert first != second
    assert odmr.verify("dialup.example", CHALLENGE, digest(first)) is None
    assert odmr.verify("dialup.example", CHALLENGE, digest(second)) == domain
    assert odmr.holds("dialup.example")
    assert odmr.revoke(domain, actor="root")
    assert odmr.verify("dialup.example", CHALLENGE, digest(second)) is None
    assert not odmr.holds("dialup.example") and not odmr.revoke(domain, actor="root")
    kinds = list(TrailEntry.objects.order_by("pk").values_list("kind", flat=True))
    assert kinds == ["odmr_secret.created", "odmr_secret.replaced", "odmr_secret.revoked"]


def test_a_domain_or_tenant_that_is_off_cannot_log_in(domain: Domain) -> None:
    secret = odmr.make(domain, actor="tests")
    Organization.objects.update(is_active=False)
    assert odmr.verify("dialup.example", CHALLENGE, digest(secret)) is None
    Organization.objects.update(is_active=True)
    Domain.objects.update(is_active=False)
    assert odmr.verify("dialup.example", CHALLENGE, digest(secret)) is None


def test_reseal_moves_the_secrets_to_the_newest_key(domain: Domain, settings: Any) -> None:
    secret = odmr.make(domain, actor="tests")
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another-" + "y" * 40
    assert not sealed.is_current(OdmrSecret.objects.get().sealed)
    assert odmr.verify("dialup.example", CHALLENGE, digest(secret)) == domain
    out = StringIO()
    call_command("reseal", stdout=out)
    assert "ODMR secrets: 1 looked at, 1 sealed anew." in out.getvalue()
    assert sealed.is_current(OdmrSecret.objects.get().sealed)
    settings.SECRET_KEY_FALLBACKS = []
    assert odmr.verify("dialup.example", CHALLENGE, digest(secret)) == domain


def test_a_lost_key_is_no_wrong_secret(domain: Domain, settings: Any) -> None:
    secret = odmr.make(domain, actor="tests")
    settings.SECRET_KEY = "another-" + "y" * 40
    with pytest.raises(sealed.CannotOpen):
        odmr.verify("dialup.example", CHALLENGE, digest(secret))
    assert odmr.verify("other.example", CHALLENGE, digest(secret)) is None


def test_an_unknown_name_is_opened_and_digested_for_too(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    odmr.make(domain, actor="tests")
    opened: list[str] = []
    real = sealed.open_sealed

    def noted(text: str, place: str) -> bytes:
        opened.append(place)
        return real(text, place)

    monkeypatch.setattr("accounts.odmr.sealed.open_sealed", noted)
    for name in ("dialup.example", "other.example", "no name"):
        odmr.verify(name, CHALLENGE, digest("wrong"))
    assert opened == ["odmr:dialup.example", "odmr:", "odmr:"]


def test_the_command_prints_a_secret_that_works_and_takes_it_away(domain: Domain) -> None:
    out, err = run("DIALUP.example")
    assert "the login name is dialup.example" in out and err == ""
    assert odmr.verify("dialup.example", CHALLENGE, digest(out.splitlines()[-1])) == domain
    assert run("dialup.example", "--revoke")[0] == "The ODMR secret of dialup.example is revoked.\n"
    assert not OdmrSecret.objects.exists()


def test_the_command_says_where_nothing_will_wait_for_the_host(domain: Domain) -> None:
    Domain.objects.update(delivery=Domain.Delivery.LOCAL)
    assert "goes into mailboxes here" in run("dialup.example")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.example"], "There is no domain nowhere.example."),
        (["not a name"], "is no domain: the domain has a label"),
        (["dialup.example", "--revoke"], "dialup.example has no ODMR secret."),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(domain: Domain, arguments: list[str], words: str) -> None:
    with pytest.raises(CommandError, match=words):
        run(*arguments)


def test_any_address_of_a_dial_up_domain_is_its_hosts_to_know(domain: Domain) -> None:
    Domain.objects.update(next_hop="mail.dialup.example:2525")
    user = User.objects.create_user("kept", "kept@dialup.example", organization=domain.organization)
    Alias.objects.create(domain=domain, local_part="sales", targets=["a@b.example"])
    for local_part in ("kept", "sales", "anybody", "postmaster"):
        found = resolve(parse_address(f"{local_part}@dialup.example"))
        assert (found.found, found.is_local, found.next_hop) == (Found.DIAL_UP, False, "mail.dialup.example:2525")
    assert user.organization_id == found.organization_id
    Domain.objects.update(accepts_mail=False)
    assert resolve(parse_address("anybody@dialup.example")).found is Found.NO_MAIL


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail.example.com", ("mail.example.com", None)),
        ("Mail.Example.COM:2525", ("mail.example.com", 2525)),
        ("bücher.example:25", ("xn--bcher-kva.example", 25)),
        ("192.0.2.1", ("192.0.2.1", None)),
        ("192.0.2.1:25", ("192.0.2.1", 25)),
        ("[192.0.2.1]:25", ("192.0.2.1", 25)),
        ("[2001:db8::1]", ("2001:db8::1", None)),
        ("[IPv6:2001:DB8::1]:465", ("2001:db8::1", 465)),
    ],
)
def test_a_next_hop_is_a_host_with_or_without_a_port(text: str, expected: tuple[str, int | None]) -> None:
    assert parse_next_hop(text) == expected


@pytest.mark.parametrize(
    "text", ["", ":25", "host:", "host:0", "host:65536", "host:²", "a b", "[host]:25", "[::1", "::1:25x"]
)
def test_anything_else_is_none(text: str) -> None:
    with pytest.raises(InvalidName):
        parse_next_hop(text)
