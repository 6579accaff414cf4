"""A next hop that a person chose, in its one form (`queue.hops` says how one is written)."""

from __future__ import annotations

from queue.hops import InvalidHop, literal, parse_hop

WORDS = "a host such as relay.example.com, relay.example.com:2525, 192.0.2.1 or [2001:db8::1]:2525"


class InvalidRoute(ValueError):
    """What is wrong with it, as a clause."""


def parse_route(text: str) -> str:
    """Return the canonical form; empty means by the rules. Raises `InvalidRoute`."""
    text = text.strip()
    if not text:
        return ""
    try:
        host, port = parse_hop(text, 0)
    except InvalidHop as error:
        raise InvalidRoute(f"{text[:60]!r} is no host: {error}; {WORDS} is needed") from None
    if ":" in host:
        host = f"[{host}]"
    elif not literal(host) and host.rpartition(".")[2].isdigit():  # no name ends so: a mistyped address
        raise InvalidRoute(f"{text[:60]!r} is no host; {WORDS} is needed")
    return f"{host}:{port}" if port else host
