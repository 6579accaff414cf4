"""What a client calls itself in HELO or EHLO (RFC 5321 §4.1.1.1, §4.1.3, §4.1.4); pure.

Whether the name belongs to the client's address is never a ground for refusal (RFC 5321 §4.1.4); only what is no name
is. What else is odd is noted and goes with the messages of the session.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from accounts.names import InvalidName, parse_address_literal, parse_domain
from mailflow.policy.decision import Decision, Verdict
from mailflow.smtp.reply import Reply

_STAGE = "greeting"
_IPV6_TAG = "IPv6:"


def check_greeting(
    verb: str, argument: str, *, hostname: str, own_addresses: Collection[str] = (), is_local: bool = False
) -> Decision:
    """Return the decision; where it does not stop, `saw` is the name to keep.

    Only the first word is looked at: older clients say more of themselves behind it. `own_addresses` are those that the
    connection came in at; `is_local` where the client is this machine or one of ours, and so may bear our name.
    """
    name = argument.split(None, 1)[0] if argument.strip() else ""
    if not name:
        return _refused(Reply(501, "5.4", f"Syntax: {verb} hostname"), "no name was given", "")
    if not name.isascii():
        reply = Reply(501, "5.2", "The host name must be ASCII, a name in another script in A-labels")
        return _refused(reply, "the name is not ASCII (RFC 6531 §3.7.1)", name)
    if name.startswith("["):
        return _check_literal(name, own_addresses, is_local=is_local)
    return _check_name(name, hostname, own_addresses, is_local=is_local)


def _check_name(name: str, hostname: str, own_addresses: Collection[str], *, is_local: bool) -> Decision:
    try:
        domain = parse_domain(name)
    except InvalidName as error:
        return _refused(Reply(501, "5.2", f"Invalid host name: {error}"), f"no host name: {error}", name)
    if not is_local and (domain == hostname.rstrip(".").lower() or _is_among(domain, own_addresses)):
        return _noted("claims_our_name", "a client from outside calls itself by our own name", name)
    if _ip_address(domain) is not None:
        return _noted("bare_address", "an address without the brackets of a literal", name)
    return _accepted("name", "a host name", name)


def _check_literal(name: str, own_addresses: Collection[str], *, is_local: bool) -> Decision:
    tagged = name
    if not name.lower().startswith("[ipv6:") and ":" in name:
        tagged = f"[{_IPV6_TAG}{name[1:]}"
    try:
        # a zone index (fe80::1%eth0) is the client's own affair and no part of a literal
        literal = parse_address_literal(tagged) if name.endswith("]") and "%" not in name else ""
    except InvalidName:
        literal = ""
    if not literal:
        reply = Reply(501, "5.2", "The address literal is not an IPv4 or IPv6 address in brackets")
        return _refused(reply, "no address literal", name)
    if not is_local and _is_among(literal[1:-1].removeprefix(_IPV6_TAG), own_addresses):
        return _noted("claims_our_address", "a client from outside calls itself by an address of ours", name)
    if tagged is not name:
        return _noted("untagged_literal", "an IPv6 literal without its tag", name)
    return _accepted("literal", "an address literal", name)


def _is_among(address: str, own_addresses: Collection[str]) -> bool:
    """Whether two texts mean one IP address, be it written as an IPv4-mapped IPv6 address."""
    wanted = _ip_address(address)
    return wanted is not None and any(wanted == _ip_address(own) for own in own_addresses)


def _ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _accepted(rule: str, reason: str, name: str) -> Decision:
    return Decision(_STAGE, rule, Verdict.ACCEPT, reason, name)


def _noted(rule: str, reason: str, name: str) -> Decision:
    return Decision(_STAGE, rule, Verdict.NOTE, reason, name)


def _refused(reply: Reply, reason: str, name: str) -> Decision:
    return Decision(_STAGE, "syntax", Verdict.REJECT, reason, name, reply)
