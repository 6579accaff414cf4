"""Numbered messages that vouch for themselves: made here, and known again wherever a copy of one turns up. Pure.

The field `X-Chaos` holds the number, what the digest covers, and the digest. Of a message sent by SMTP it covers all
below that field, header lines included; of one sent by HTTP the body, since there the server writes the header section.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

_DIGEST_LENGTH = 40  # hexadecimal digits: with them the field fits one line, and nobody has a reason to fold it
_MARK = re.compile(rb"^X-Chaos: (\d+) (rest|body) ([0-9a-f]{40})\r\n", re.MULTILINE | re.IGNORECASE)
_FINAL_RECIPIENT = re.compile(rb"^Final-Recipient: rfc822; (\S+)\r\n", re.MULTILINE)
_LARGE_OCTETS = 1_300_000  # over 1 MiB: such content is committed in pieces, ahead of its message


@dataclass(frozen=True, slots=True)
class Copy:
    """A message as it was found somewhere; `is_intact`: its octets are those that its digest was made of."""

    number: int
    digest: str
    is_intact: bool


@dataclass(frozen=True, slots=True)
class Report:
    """A delivery status notification: who did not get the message of that number."""

    number: int
    recipients: tuple[str, ...]


def for_smtp(number: int, sender: str, recipients: Sequence[str], body: bytes) -> bytes:
    rest = (
        f"From: <{sender}>\r\nTo: {', '.join(f'<{recipient}>' for recipient in recipients)}\r\n"
        f"Subject: chaos {number}\r\nDate: Thu, 01 Jan 2026 00:00:00 +0000\r\n\r\n"
    ).encode("ascii") + body
    return b"X-Chaos: " + mark(number, "rest", rest).encode("ascii") + b"\r\n" + rest


def mark(number: int, covers: str, octets: bytes) -> str:
    """Return the field's value; `covers` is `rest` or `body`."""
    return f"{number} {covers} {_digest(octets)}"


def read(octets: bytes) -> Copy | Report | None:
    """Say what this is: a copy of ours, a report about one, or neither (None)."""
    head, empty_line, body = octets.partition(b"\r\n\r\n")
    found = _MARK.search(head + b"\r\n")
    if found is not None:
        covered = octets[found.end() :] if found[2] == b"rest" else body
        digest = found[3].decode("ascii")
        return Copy(int(found[1]), digest, bool(empty_line) and digest == _digest(covered))
    found = _MARK.search(body)
    if found is None or b"report-type=delivery-status" not in head:
        return None
    failed = tuple(match.decode("ascii") for match in _FINAL_RECIPIENT.findall(body))
    return Report(int(found[1]), failed)


def hostile_body(random_source: random.Random) -> bytes:
    """Lines that try a mail system: dots in front, eight bits, none at all, many; now and then more than 1 MiB."""
    kinds = (b".", b"..", b".\xe4rger", b"", b"From here", b" \t ", bytes(range(128, 250)), b"x" * 900)
    size = _LARGE_OCTETS if random_source.random() < 0.01 else int(200 * 2 ** random_source.uniform(0, 8))
    block = b"".join(random_source.choice(kinds) + b"%x" % random_source.getrandbits(200) + b"\r\n" for _ in range(20))
    return (block * (size // len(block) + 1))[:size].rstrip(b"\r\n") + b"\r\n"


def plain_text(random_source: random.Random) -> str:
    """Text that an HTTP client sends and that goes on the wire as it is: short ASCII lines."""
    lines = random_source.randrange(1, 400)
    return "".join(f"{random_source.getrandbits(200):x}\n" for _ in range(lines))


def _digest(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()[:_DIGEST_LENGTH]
