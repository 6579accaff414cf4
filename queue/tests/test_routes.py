"""How a next hop is written that a person chooses."""

from __future__ import annotations

import pytest

from queue.routes import InvalidRoute, parse_route


@pytest.mark.parametrize(
    ("text", "route"),
    [
        ("", ""),
        (" Relay.Example.com ", "relay.example.com"),
        ("relay.example.com:2525", "relay.example.com:2525"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:25", "192.0.2.1:25"),
        ("[192.0.2.1]:25", "192.0.2.1:25"),
        ("2001:DB8::1", "[2001:db8::1]"),
        ("[2001:db8::1]:2525", "[2001:db8::1]:2525"),
        ("[IPv6:2001:db8::1]", "[2001:db8::1]"),
        ("localhost:1025", "localhost:1025"),
    ],
)
def test_a_route_has_one_form(text: str, route: str) -> None:
    assert parse_route(text) == route
    assert parse_route(route) == route


@pytest.mark.parametrize(
    "text",
    ["a b", "host:", "host:0", "host:65536", "host:x", "[192.0.2.1", "[192.0.2.1]x", "192.0.2.300", "1:2:3", "ho\0st",
     "-x.example", "http://relay.example", "a" * 300, "[]", ":25"],
)  # fmt: skip
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(InvalidRoute):
        parse_route(text)
