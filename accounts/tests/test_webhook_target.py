"""Which URLs webhooks may go to, in every spelling of an address."""

from __future__ import annotations

import ipaddress

import pytest

from accounts.webhooks import target
from accounts.webhooks.target import InvalidTarget

LOOPBACK = [ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")]


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("https://example.com/webhook", "https://example.com/webhook"),
        ("HTTPS://EXAMPLE.com", "https://example.com/"),
        ("http://example.com:8080/a?b=c&d=%20e#fragment", "http://example.com:8080/a?b=c&d=%20e"),
        ("https://例え.jp/フック?名=値", "https://xn--r8jz45g.jp/%E3%83%95%E3%83%83%E3%82%AF?%E5%90%8D=%E5%80%A4"),
        ("https://example.com./x", "https://example.com/x"),
        ("https://93.184.216.34/x", "https://93.184.216.34/x"),
        ("https://[2606:2800:220:1:0:0:0:1]/x", "https://[2606:2800:220:1::1]/x"),
        ("http://hook_receiver:8000/", "http://hook_receiver:8000/"),
    ],
)
def test_a_url_is_kept_in_the_form_that_is_sent_to(written: str, kept: str) -> None:
    assert target.parse(written).url == kept


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "[::1]", "[::]", "[fe80::1]", "[fd00::1]", "[ff02::1]", "[::ffff:127.0.0.1]",
        "[::ffff:a00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::1]", "[fec0::1]", "[2001:db8::1]",
    ],
)  # fmt: skip
def test_an_address_that_is_not_public_is_refused(host: str) -> None:
    with pytest.raises(InvalidTarget, match="not a public one"):
        target.parse(f"http://{host}/")


@pytest.mark.parametrize(
    "host",
    [
        "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "127.1", "127.0.1", "127.000.000.001", "017700000001",
        "127.0.0.1.", "0x", "127.0.0.0x1", "1.2.3.4.5", "256.1.1.1", "１２７.0.0.1", "①②⑦.0.0.1", "127。0。0。1",
        "example.1", "8.8.8.8.", "0x08080808",
    ],
)  # fmt: skip
def test_an_address_in_an_unusual_spelling_is_refused_whatever_it_means(host: str) -> None:
    with pytest.raises(InvalidTarget):
        target.parse(f"http://{host}/", LOOPBACK)


@pytest.mark.parametrize(
    "url",
    [
        "", "example.com", "//example.com/", "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/",
        "javascript:alert(1)", "https://", "https:///x", "https://user@example.com/", "https://user:pass@example.com/",
        "https://example.com@127.0.0.1/", "https://127.0.0.1\\@example.com/", "https://exa mple.com/",
        "https://example.com/\r\nX: y", "https://example.com/\0", "https://example.com:0/", "https://example.com:65536/",
        "https://example.com:x/", "https://[fe80::1%25eth0]/", "https://[fe80::1%eth0]/", "https://[::1/", "https://[x]/",
        "https://[v1.a]/", "https://-.com/", "https://a..b/", "https://exam%70le.com/", "https://127.0.0.1%2f@x/",
        "https://" + "a" * 64 + ".com/", "https://example.com/" + "x" * 2000, "https://\udc80.com/",
    ],
)  # fmt: skip
def test_what_is_no_url_for_a_webhook_is_refused(url: str) -> None:
    with pytest.raises(InvalidTarget):
        target.parse(url, LOOPBACK)


def test_a_network_that_the_operator_names_is_allowed() -> None:
    assert target.parse("http://127.0.0.1:9000/", LOOPBACK).host == "127.0.0.1"
    assert target.parse("http://[::ffff:127.0.0.1]/", LOOPBACK).is_address
    with pytest.raises(InvalidTarget):
        target.parse("http://10.0.0.1/", LOOPBACK)
