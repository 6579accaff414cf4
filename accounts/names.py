"""Addresses and domain names as values (RFC 5321 §4.1.2, RFC 5890); pure: no Django, no I/O.

An `Address` keeps the local part as it was written (its case belongs to its owner) and the domain in lower-case A-label
form. `str(address)` is the form that goes on the wire.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_DOT_STRING = re.compile(rf"{_ATEXT}+(?:\.{_ATEXT}+)*\Z")
_QUOTED = re.compile(r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\[\x20-\x7e])*"\Z')
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\Z")
# The shape of nearly every address on the hot path; what it does not match is looked at with more care.
_PLAIN = re.compile(
    r"[A-Za-z0-9_+=-]+(?:\.[A-Za-z0-9_+=-]+)*@[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)+\Z"
)

MAX_LOCAL_PART_OCTETS = 64  # RFC 5321 §4.5.3.1.1
MAX_DOMAIN_OCTETS = 255  # RFC 5321 §4.5.3.1.2
MAX_PATH_OCTETS = 254  # RFC 5321 §4.5.3.1.3 counts the angle brackets into 256


class InvalidName(ValueError):
    """An address or domain that no RFC allows; the text says which rule, without quoting the input."""


@dataclass(frozen=True, slots=True)
class Address:
    """A mailbox address; `domain` is an A-label domain name or an address literal such as `[192.0.2.1]`."""

    local_part: str
    domain: str

    def __str__(self) -> str:
        return f"{self.local_part}@{self.domain}"

    @property
    def base_local_part(self) -> str:
        """The local part without its subaddress: `user+tag` is delivered to `user` (RFC 5233 §1)."""
        unquoted = self.unquoted_local_part
        head = unquoted.partition("+")[0]
        return head or unquoted

    @property
    def unquoted_local_part(self) -> str:
        """The local part as a mailbox name: `"john"` and `john` are one mailbox (RFC 5321 §4.1.2)."""
        if self.local_part.startswith('"'):
            return re.sub(r"\\(.)", r"\1", self.local_part[1:-1])
        return self.local_part

    @property
    def lookup_key(self) -> str:
        """The form under which local mailboxes are kept: no subaddress, no quotes, lower case."""
        return f"{self.base_local_part.lower()}@{self.domain}"


def parse_domain(text: str) -> str:
    """Return the lower-case A-label form of a domain name, or raise `InvalidName`. A trailing dot is dropped."""
    name = text.rstrip(".") if text.endswith(".") and len(text) > 1 else text
    if not name.isascii():
        try:
            name = name.encode("idna").decode("ascii")
        except UnicodeError:
            raise InvalidName("the domain is not a valid internationalised name") from None
    name = name.lower()
    if not name:
        raise InvalidName("the domain is missing")
    if len(name) > MAX_DOMAIN_OCTETS:
        raise InvalidName(f"the domain is longer than {MAX_DOMAIN_OCTETS} octets")
    if not all(_LABEL.match(label) for label in name.split(".")):
        raise InvalidName("the domain has a label that is empty, too long or holds a character that names may not have")
    return name


def parse_address_literal(text: str) -> str:
    """Return `[192.0.2.1]` or `[IPv6:2001:db8::1]` in canonical form (RFC 5321 §4.1.3)."""
    inner = text[1:-1]
    try:
        if inner.lower().startswith("ipv6:"):
            return f"[IPv6:{ipaddress.IPv6Address(inner[5:])}]"
        return f"[{ipaddress.IPv4Address(inner)}]"
    except ValueError:
        raise InvalidName("the address literal is not an IPv4 or IPv6 address") from None


def parse_address(text: str) -> Address:
    """Parse `local@domain` (no angle brackets), or raise `InvalidName`."""
    if len(text) <= MAX_PATH_OCTETS and _PLAIN.match(text):
        local_part, _, domain = text.rpartition("@")
        if len(local_part) <= MAX_LOCAL_PART_OCTETS and max(map(len, domain.split("."))) <= 63:
            return Address(local_part, domain)
    local_part, at, domain = text.rpartition("@")
    if not at:
        raise InvalidName("the address has no @")
    if not local_part:
        raise InvalidName("the local part is missing")
    if not local_part.isascii():
        raise InvalidName("the local part holds characters that need SMTPUTF8")
    if len(local_part) > MAX_LOCAL_PART_OCTETS:
        raise InvalidName(f"the local part is longer than {MAX_LOCAL_PART_OCTETS} octets")
    if not (_DOT_STRING.match(local_part) or _QUOTED.match(local_part)):
        raise InvalidName("the local part holds a character that must be quoted, or a misplaced dot")
    if domain.startswith("[") and domain.endswith("]"):
        return Address(local_part, parse_address_literal(domain))
    address = Address(local_part, parse_domain(domain))
    if len(str(address)) > MAX_PATH_OCTETS:
        raise InvalidName(f"the address is longer than {MAX_PATH_OCTETS} octets")
    return address
