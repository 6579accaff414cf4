"""DKIM signatures, made (RFC 6376, RFC 8463, RFC 8616): relaxed/relaxed, SHA-256, one field for each key; pure.

The message is read and never changed: what is returned goes on top of it. Body and header are walked in slices, so that
in a thread a large message lets an event loop's turn come, and every expression is linear in what it reads.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from accounts.key_pairs import SigningKey
from mailflow.message.headers import header_section_end

MAX_HEADER_OCTETS = 256 << 10
HEADER_TOO_LARGE = f"its header section has more than {MAX_HEADER_OCTETS >> 10} KiB"
MAX_SIGNED_FIELDS = 200
SLICE_OCTETS = 64 << 10
_LINE_LENGTH = 74

# Signed once more often than they stand there, also where they do not: nobody can add one (RFC 6376 §5.4, §8.15).
OVERSIGNED = (
    b"From", b"Reply-To", b"Subject", b"Date", b"To", b"Cc", b"Message-ID", b"In-Reply-To", b"References",
    b"MIME-Version", b"Content-Type", b"Content-Transfer-Encoding",
)  # fmt: skip
# The same where they stand there; a mailing list may add its own to a message that has none.
OVERSIGNED_IF_PRESENT = (
    b"Sender", b"List-Unsubscribe", b"List-Unsubscribe-Post", b"Content-Disposition", b"Content-ID",
    b"Content-Description", b"Content-Language", b"Auto-Submitted", b"TLS-Report-Domain", b"TLS-Report-Submitter",
    b"TLS-Required",
)  # fmt: skip
# Signed as often as they stand there: others may add theirs above (RFC 5322 §3.6.6).
SIGNED = (
    b"Resent-Date", b"Resent-From", b"Resent-Sender", b"Resent-To", b"Resent-Cc", b"Resent-Message-ID", b"List-Id",
    b"List-Help", b"List-Subscribe", b"List-Post", b"List-Owner", b"List-Archive", b"Feedback-ID", b"Autocrypt",
)  # fmt: skip

_WANTED = {name.lower(): name for name in (*OVERSIGNED, *OVERSIGNED_IF_PRESENT, *SIGNED)}
_FIELD = re.compile(rb"^([!-9;-~]+)[ \t]*:(.*(?:\n[ \t].*)*)", re.MULTILINE)
_BLANKS = re.compile(rb"[ \t]+")
_TWO_BLANKS = re.compile(rb"  ")
_BLANK_AT_END = re.compile(rb" \r")
_NO_BLANK = re.compile(rb"[^ \t\r]")
_PADDING, _HASH = PKCS1v15(), SHA256()

Fields = dict[bytes, list[bytes]]


class Unsignable(ValueError):
    """The message cannot be signed as it is; the text says why, as the end of a sentence."""


def sign(content: bytes, keys: Sequence[SigningKey], at: int) -> bytes:
    """Return a DKIM-Signature field for each key, in their order, to be put on top of the message.

    `content` is the message as it goes out, CRLF line ends; `at` is in seconds since 1970. Raises `Unsignable`.
    """
    end = header_section_end(content)
    names, header = _signed_header(content, end)
    body = base64.b64encode(body_hash(content, end + 2)).decode("ascii")
    return b"".join(_signature(key, names, header, body, at) for key in keys)


# --- the body ---------------------------------------------------------------------------------------------------------


def body_hash(content: bytes, start: int) -> bytes:
    """Return the SHA-256 of the body from `start` on, relaxed (RFC 6376 §3.4.4).

    A last line without CRLF counts as one with it, for so it is sent.
    """
    digest = hashlib.sha256()
    is_empty, held = True, 0  # line ends that count only if a line follows
    length = len(content)
    while start < length:
        stop = _slice_end(content, start)
        piece = relaxed_lines(content[start:stop] if stop < length else _with_line_end(content[start:]))
        text = _without_line_ends(piece)
        if text:
            digest.update(b"\r\n" * held + text if held else text)
            is_empty, held = False, 0
        held += (len(piece) - len(text)) // 2
        start = stop
    if not is_empty:
        digest.update(b"\r\n")
    return digest.digest()


def _slice_end(content: bytes, start: int) -> int:
    """Return where a slice may end: behind an octet that neither reduces with the next one nor belongs to it."""
    if len(content) - start <= SLICE_OCTETS:
        return len(content)
    found = _NO_BLANK.search(content, start + SLICE_OCTETS - 1)
    return found.end() if found else len(content)


def relaxed_lines(lines: bytes) -> bytes:
    """Reduce blanks within lines to one space each, and leave out those before a line's end.

    Several times as fast as one expression that does the same: its steps are searches, and most mail has little to do.
    """
    if b"\t" in lines:
        lines = lines.replace(b"\t", b" ")
    while _TWO_BLANKS.search(lines):
        lines = lines.replace(b"  ", b" ")
    return lines.replace(b" \r\n", b"\r\n") if _BLANK_AT_END.search(lines) else lines


def _with_line_end(lines: bytes) -> bytes:
    return lines if lines.endswith(b"\r\n") else lines + b"\r\n"


def _without_line_ends(lines: bytes) -> bytes:
    """Return the lines without the empty ones at the end, and without the last line end."""
    text = lines.rstrip(b"\r\n")
    odd = lines[len(text) :].replace(b"\r\n", b"")
    if not odd:
        return text
    while lines.endswith(b"\r\n"):  # a CR or LF that stands alone is no line end; no such message can be sent
        lines = lines[:-2]
    return lines


# --- the header section -----------------------------------------------------------------------------------------------


def _signed_header(content: bytes, end: int) -> tuple[tuple[bytes, ...], bytes]:
    """Return the names for `h=`, and the fields that they mean, relaxed, in the same order."""
    if end > MAX_HEADER_OCTETS:
        raise Unsignable(HEADER_TOO_LARGE)
    found = _fields(content[:end])
    if b"from" not in found:
        raise Unsignable("it has no From field")
    if sum(map(len, found.values())) > MAX_SIGNED_FIELDS:
        raise Unsignable(f"it has more than {MAX_SIGNED_FIELDS} header fields of the kinds that are signed")
    names: list[bytes] = []
    lines: list[bytes] = []
    for name, more in _wanted(found):
        values = found.get(name.lower(), ())
        names += [name] * (len(values) + more)
        lines += [relaxed_field(name, value) for value in reversed(values)]  # from the bottom up (§5.4.2)
    return tuple(names), b"".join(lines)


def _fields(section: bytes) -> Fields:
    """Return the values of the fields that are to be signed, by their lower-case names, from the top down."""
    found: defaultdict[bytes, list[bytes]] = defaultdict(list)
    for match in _FIELD.finditer(section):
        name = match[1].lower()
        if name in _WANTED:
            found[name].append(match[2])
    return found


def _wanted(found: Fields) -> Iterable[tuple[bytes, int]]:
    """Yield what is signed, with how often beyond the fields that are there."""
    yield from ((name, 1) for name in OVERSIGNED)
    yield from ((name, 1) for name in OVERSIGNED_IF_PRESENT if name.lower() in found)
    yield from ((name, 0) for name in SIGNED if name.lower() in found)


def relaxed_field(name: bytes, value: bytes) -> bytes:
    """Return a whole field in relaxed form, with its line end (RFC 6376 §3.4.2)."""
    unfolded = value.removesuffix(b"\r").replace(b"\r\n", b"")
    return name.lower() + b":" + _BLANKS.sub(b" ", unfolded).strip(b" ") + b"\r\n"


# --- the signature ----------------------------------------------------------------------------------------------------


def _signature(key: SigningKey, names: tuple[bytes, ...], header: bytes, body: str, at: int) -> bytes:
    """Return the whole field. Its own text is signed with the rest, `b=` being empty then (RFC 6376 §3.7)."""
    tags = (
        f" v=1; a={key.algorithm}; c=relaxed/relaxed; q=dns/txt;"
        f"\r\n\td={key.domain}; s={key.selector}; t={at};"
        f"\r\n\th={_name_list(names)};\r\n\tbh={body};\r\n\tb="
    ).encode("ascii")
    own = relaxed_field(b"dkim-signature", tags).removesuffix(b"\r\n")
    signature = base64.b64encode(signature_of(key, header + own)).decode("ascii")
    pieces = [signature[start : start + _LINE_LENGTH] for start in range(0, len(signature), _LINE_LENGTH)]
    return b"DKIM-Signature:" + tags + "\r\n\t".join(pieces).encode("ascii") + b"\r\n"


def signature_of(key: SigningKey, data: bytes) -> bytes:
    if isinstance(key.private_key, Ed25519PrivateKey):
        return key.private_key.sign(hashlib.sha256(data).digest())  # RFC 8463 §3: the hash is what is signed
    return key.private_key.sign(data, _PADDING, _HASH)


@lru_cache(maxsize=256)
def _name_list(names: tuple[bytes, ...]) -> str:
    """Return the value of `h=`, folded; nearly all mail has one of few."""
    lines = [""]
    for number, name in enumerate(names, start=1):
        text = name.decode("ascii") + (":" if number < len(names) else "")
        if len(lines[-1]) + len(text) > _LINE_LENGTH:
            lines.append("")
        lines[-1] += text
    return "\r\n\t".join(lines)
