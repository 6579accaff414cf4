"""Addresses and domain names as values (RFC 5321 §4.1.2, RFC 6531 §3.3, RFC 5890); pure: no Django, no I/O.

An `Address` keeps the local part as it was written, in normal form C (its case belongs to its owner), and the domain in
lower-case A-label form. `str(address)` is the form that goes on the wire, `address.unicode` the one for people.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from accounts import idna

# RFC 6531 §3.3 lets what is not ASCII stand unquoted and quoted; `_check_readable` says which of it.
_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]"
_DOT_STRING = re.compile(rf"{_ATEXT}+(?:\.{_ATEXT}+)*\Z")
_QUOTED = re.compile(r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e\x80-\U0010ffff]|\\[\x20-\x7e])*"\Z')
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\Z")
# The shape of nearly every address on the hot path; what it does not match is looked at with more care.
_PLAIN = re.compile(
    r"[A-Za-z0-9_+=-]+(?:\.[A-Za-z0-9_+=-]+)*@[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)+\Z"
)

MAX_LOCAL_PART_OCTETS = 64  # RFC 5321 §4.5.3.1.1
MAX_DOMAIN_OCTETS = 255  # RFC 5321 §4.5.3.1.2
MAX_PATH_OCTETS = 254  # RFC 5321 §4.5.3.1.3 counts the angle brackets into 256

# Controls, direction marks, surrogates, private and unassigned characters, spaces that look like none or like others.
_UNREADABLE = frozenset(["Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp"])
_REPLACEMENT = "\ufffd"  # stands where octets were lost: no mailbox is called that


class InvalidName(ValueError):
    """An address or domain that no RFC allows; the text says which rule, without quoting the input."""


class NeedsUtf8(InvalidName):
    """The name may be right, but holds characters beyond ASCII where only ASCII is allowed."""


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
    def folded_local_part(self) -> str:
        """The local part under which mailboxes and aliases are kept: no subaddress, no quotes, no case."""
        return fold(self.base_local_part)

    @property
    def lookup_key(self) -> str:
        """The form under which local mailboxes are kept."""
        return f"{self.folded_local_part}@{self.domain}"

    @property
    def needs_smtputf8(self) -> bool:
        """Whether the wire form is beyond ASCII; the domain never is, being in A-labels."""
        return not self.local_part.isascii()

    @property
    def unicode(self) -> str:
        """The form for people and for internationalised messages: the domain in U-labels (RFC 6531 §3.7)."""
        return f"{self.local_part}@{unicode_domain(self.domain)}"


def fold(text: str) -> str:
    """Return the one form of all texts that differ in case or normal form alone (Unicode, canonical caseless match)."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


def fold_address(text: str) -> str:
    """Return an address in the form under which it is kept and found; what is no address is folded as it is."""
    if text.isascii():
        return text.lower()
    try:
        address = parse_address(text)
    except InvalidName:
        return fold(text)
    return f"{fold(address.local_part)}@{address.domain}"


def unicode_domain(domain: str) -> str:
    """Return a domain in lower-case A-labels with U-labels where they stand for some (RFC 5890 §2.3.2.1)."""
    if idna.A_LABEL_PREFIX not in domain:
        return domain
    return ".".join(map(idna.to_u_label, domain.split(".")))


def parse_domain(text: str) -> str:
    """Return the lower-case A-label form of a domain name, or raise `InvalidName`. A trailing dot is dropped.

    A-labels are taken as they are: the DNS says whether they exist (RFC 5891 §5.3).
    """
    name = text if text.isascii() else _in_a_labels(text)
    name = name.rstrip(".") if name.endswith(".") and len(name) > 1 else name
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


def parse_next_hop(text: str) -> tuple[str, int | None]:
    """Split `host`, `host:port`, `192.0.2.1:25` or `[2001:db8::1]:25` into host and port, or raise `InvalidName`.

    The host is a domain name in A-labels or an address in canonical form, without brackets; no port gives None.
    """
    bracketed = re.fullmatch(r"\[([^\]]+)\](?::(.*))?", text)
    if bracketed:
        host, port = bracketed[1], bracketed[2]
    else:
        host, colon, rest = text.partition(":")
        port = rest if colon else None
    try:
        host = str(ipaddress.ip_address(host.lower().removeprefix("ipv6:")))
    except ValueError:
        if bracketed:
            raise InvalidName("there is no IP address in the brackets") from None
        host = parse_domain(host)
    if port is None:
        return host, None
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= 65535):
        raise InvalidName("the port is not a number from 1 to 65535")
    return host, int(port)


def _in_a_labels(text: str) -> str:
    if len(text) > MAX_DOMAIN_OCTETS:  # each character takes an octet at least
        raise InvalidName(f"the domain is longer than {MAX_DOMAIN_OCTETS} octets")
    try:
        labels = idna.mapped(text).split(".")
        return ".".join(label if label.isascii() else idna.to_a_label(label) for label in labels)
    except idna.InvalidLabel as error:
        raise InvalidName(str(error)) from None


def parse_address(text: str, *, allow_utf8: bool = True) -> Address:
    """Parse `local@domain` (no angle brackets), or raise `InvalidName`.

    Without `allow_utf8` what is not ASCII raises `NeedsUtf8`, in the domain too (RFC 6531 §3.3).
    """
    if len(text) <= MAX_PATH_OCTETS and (plain := _plain_address(text)) is not None:
        return plain
    if not (allow_utf8 or text.isascii()):
        raise NeedsUtf8("the address holds characters that need SMTPUTF8")
    local_part, at, domain = text.rpartition("@")
    if not at:
        raise InvalidName("the address has no @")
    local_part = _parse_local_part(local_part)
    if domain.startswith("[") and domain.endswith("]"):
        return Address(local_part, parse_address_literal(domain))
    address = Address(local_part, parse_domain(domain))
    if len(str(address).encode()) > MAX_PATH_OCTETS:
        raise InvalidName(f"the address is longer than {MAX_PATH_OCTETS} octets")
    return address


@lru_cache(maxsize=4096)
def _plain_address(text: str) -> Address | None:
    """Return an address that needs no closer look, as nearly all are; the same ones come again and again."""
    if not _PLAIN.match(text):
        return None
    local_part, _, domain = text.rpartition("@")
    if len(local_part) > MAX_LOCAL_PART_OCTETS or max(map(len, domain.split("."))) > 63:
        return None
    return Address(local_part, domain)


def _parse_local_part(text: str) -> str:
    if not text:
        raise InvalidName("the local part is missing")
    if len(text) <= 4 * MAX_LOCAL_PART_OCTETS and not text.isascii():
        text = unicodedata.normalize("NFC", text)  # before all else: it can turn a character into an ASCII one
        _check_readable(text)
    if len(text) > MAX_LOCAL_PART_OCTETS or len(text.encode("utf-8", "replace")) > MAX_LOCAL_PART_OCTETS:
        raise InvalidName(f"the local part is longer than {MAX_LOCAL_PART_OCTETS} octets")
    if not (_DOT_STRING.match(text) or _QUOTED.match(text)):
        raise InvalidName("the local part holds a character that must be quoted, or a misplaced dot")
    return text


def _check_readable(local_part: str) -> None:
    """Refuse what nobody could see or say: such an address is a mistake or a trap."""
    for position, character in enumerate(local_part):
        if character in (idna.ZERO_WIDTH_NON_JOINER, idna.ZERO_WIDTH_JOINER):
            is_readable = idna.joiner_may_stand(local_part, position)
        else:
            is_readable = (
                character == " "  # quoted, or the grammar refuses it
                or (unicodedata.category(character) not in _UNREADABLE and character != _REPLACEMENT)
            ) and not idna.is_invisible(character)
        if not is_readable:
            raise InvalidName("the local part holds a control, an invisible or an unassigned character")
    if idna.is_mark(local_part[0]):
        raise InvalidName("the local part begins with a combining mark")
