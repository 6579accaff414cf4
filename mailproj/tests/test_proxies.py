"""Clients behind proxies: whose word is taken, which address is the client's, and what it is used for."""

from __future__ import annotations

import base64
import ipaddress
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from hypothesis import given
from hypothesis import strategies as st

from accounts.models import TrailEntry
from mailproj.api.throttling import is_exempt
from mailproj.proxies import client_address, client_of, parse_entry

TRUSTED = [ipaddress.ip_network(text) for text in ("10.0.0.0/8", "127.0.0.0/8", "::1", "2001:db8:f::/48")]


@pytest.fixture
def trusted(settings: Any) -> None:
    settings.HTTP_TRUSTED_PROXIES = TRUSTED


def seen(peer: str, **headers: str) -> HttpRequest:
    """Return the request as everything behind the middleware sees it."""
    found: list[HttpRequest] = []

    def view(request: HttpRequest) -> HttpResponse:
        found.append(request)
        return HttpResponse()

    client_address(view)(RequestFactory().get("/", REMOTE_ADDR=peer, headers=headers))
    return found[0]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"), (" 192.0.2.1:4711 ", "192.0.2.1"), ("2001:DB8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"), ("[2001:db8::1]:4711", "2001:db8::1"), ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", None), ("unknown", None), ("_hidden", None), ("192.0.2.1:", None), ("192.0.2.1:port", None),
        ("[192.0.2.1]", None), ("[2001:db8::1", None), ("[2001:db8::1]4711", None), ("fe80::1%eth0", None),
        ("192.0.2.1:999999", None), ("192.0.2.1\0", None), ("for=192.0.2.1", None), ("192.0.2.1 192.0.2.2", None),
    ],
)  # fmt: skip
def test_an_entry_is_an_address_with_or_without_a_port(text: str, address: str | None) -> None:
    assert parse_entry(text) == (ipaddress.ip_address(address) if address else None)


@given(st.text(alphabet="0123456789abcdef:.[]%, x", max_size=60))
def test_no_header_breaks_the_search(text: str) -> None:
    client_of(text, TRUSTED)


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("203.0.113.7", "203.0.113.7"), ("198.51.100.1, 203.0.113.7", "203.0.113.7"),
        ("203.0.113.7, 10.0.0.9", "203.0.113.7"), ("203.0.113.7,10.0.0.9:443 , [2001:db8:f::2]:443", "203.0.113.7"),
        ("127.0.0.1, 203.0.113.7", "203.0.113.7"), ("rubbish, 203.0.113.7", "203.0.113.7"),
        ("10.0.0.8, 10.0.0.9", "10.0.0.8"), ("2001:db8::7", "2001:db8::7"),
        ("", "10.0.0.1"), ("rubbish", "10.0.0.1"), ("203.0.113.7, rubbish", "10.0.0.1"), ("203.0.113.7,", "10.0.0.1"),
        ("203.0.113.7, rubbish, 10.0.0.9", "10.0.0.1"), ("127.0.0.1", "10.0.0.1"), ("::1", "10.0.0.1"),
    ],
)  # fmt: skip
def test_the_client_is_the_rightmost_address_that_is_no_proxy(trusted: None, forwarded: str, client: str) -> None:
    request = seen("10.0.0.1", **{"X-Forwarded-For": forwarded})
    assert request.META["REMOTE_ADDR"] == client


@pytest.mark.parametrize("peer", ["192.0.2.9", "", "unix:"])
def test_what_others_forward_is_not_believed(trusted: None, peer: str) -> None:
    request = seen(peer, **{"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"})
    assert request.META["REMOTE_ADDR"] == peer and "HTTP_X_FORWARDED_PROTO" not in request.META


def test_by_default_nobody_is_believed(settings: Any) -> None:
    assert settings.HTTP_TRUSTED_PROXIES == []
    assert seen("127.0.0.1", **{"X-Forwarded-For": "203.0.113.7"}).META["REMOTE_ADDR"] == "127.0.0.1"


@pytest.mark.parametrize(("peer", "is_secure"), [("10.0.0.1", True), ("192.0.2.9", False)])
def test_only_a_trusted_proxy_says_that_the_client_came_by_tls(
    trusted: None, settings: Any, peer: str, is_secure: bool
) -> None:
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    assert seen(peer, **{"X-Forwarded-Proto": "https"}).is_secure() is is_secure


@pytest.mark.parametrize(
    ("peer", "headers", "exempt"),
    [
        ("127.0.0.1", {}, True), ("127.0.0.1", {"X-Forwarded-For": "203.0.113.7"}, False),
        ("127.0.0.1", {"X-Forwarded-For": "rubbish"}, False), ("127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, False),
        ("127.0.0.1", {"X-Forwarded-Proto": "https"}, False), ("127.0.0.1", {"Via": "1.1 proxy"}, False),
        ("127.0.0.1", {"X-Real-IP": "127.0.0.1"}, False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_named", [True, False])
def test_a_proxy_on_loopback_exempts_nobody(
    settings: Any, is_named: bool, peer: str, headers: dict[str, str], exempt: bool
) -> None:
    settings.HTTP_TRUSTED_PROXIES = TRUSTED if is_named else []
    assert is_exempt(seen(peer, **headers)) is exempt


def test_a_network_that_staff_exempted_is_so_behind_a_proxy_too(trusted: None, settings: Any) -> None:
    settings.SMTP_RATE_LIMIT_EXEMPT = [ipaddress.ip_network("203.0.113.0/24")]
    assert is_exempt(seen("10.0.0.1", **{"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}))


@pytest.mark.django_db
def test_the_trail_has_the_client(trusted: None) -> None:
    word = base64.b64encode(b"alice:wrong").decode()
    headers = {"X-Forwarded-For": "203.0.113.7", "Authorization": f"Basic {word}"}
    assert Client(REMOTE_ADDR="10.0.0.1").get("/api/v1/messages", headers=headers).status_code == 401
    assert TrailEntry.objects.get(kind="auth.failed").client_address == "203.0.113.7"


@pytest.mark.django_db
@pytest.mark.parametrize(("client", "status"), [("203.0.113.7", 200), ("198.51.100.1", 403), ("127.0.0.1", 403)])
def test_metrics_are_for_the_client_not_for_its_proxy(trusted: None, settings: Any, client: str, status: int) -> None:
    settings.METRICS_ALLOWED_NETWORKS = [ipaddress.ip_network("203.0.113.0/24")]
    browser = Client(REMOTE_ADDR="127.0.0.1", headers={"X-Forwarded-For": client, "Forwarded": "for=127.0.0.1"})
    assert browser.get("/metrics").status_code == status
