"""Messages that mean harm, or might as well (RFC 5322 §2, RFC 2045 §5, RFC 2231 §3, RFC 2047 §2); pure.

Each is what stands between DATA and the final dot, before dots are doubled: every line ends with CRLF, so that it must
be taken in and stored whole. What it attacks is whoever reads it: a parser that recurses, a loop over the square of
something, a buffer that grows with what a few octets promise.
"""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

CRLF = b"\r\n"
SENDER = "hostile@source.example"


@dataclass(frozen=True, slots=True)
class HostileMail:
    """One of them. `may_be_refused`: RFC 5322 forbids its octets, so to say 5xx is as good as to store it."""

    name: str
    make: Callable[[], bytes]
    may_be_refused: bool = False


def _message(*fields: bytes, body: bytes = b"Hello.\r\n", subject: bytes = b"hostile") -> bytes:
    head = (b"From: " + SENDER.encode(), b"To: user@example.com", b"Subject: " + subject, *fields)
    return CRLF.join(head) + CRLF + CRLF + body


def _mime(content_type: bytes, body: bytes, *fields: bytes) -> bytes:
    return _message(b"MIME-Version: 1.0", b"Content-Type: " + content_type, *fields, body=body)


# --- addresses --------------------------------------------------------------------------------------------------------


def addresses_in_cc(count: int = 100_000) -> bytes:
    """Attack whoever makes an object, or a row, of every address: folded as it should be, and far too many."""
    listed = b",\r\n ".join(b"Name %d <a%d@cc.example>" % (number, number) for number in range(count))
    return _message(b"Cc: " + listed)


def comments_in_an_address(depth: int = 50_000) -> bytes:
    """Attack parsers of addresses that recurse for each level of a comment (RFC 5322 §3.2.2)."""
    return _message(b"Reply-To: " + b"(" * depth + b")" * depth + b" a@b.example")


def quotes_in_an_address(octets: int = 200_000) -> bytes:
    """Attack regular expressions that try every way to pair quotes and backslashes."""
    return _message(b"Reply-To: " + b'"\\' * (octets // 2) + b"@b.example")


# --- MIME structure ---------------------------------------------------------------------------------------------------


def parts(count: int = 10_000) -> bytes:
    """Attack whoever keeps something for every part of a message."""
    part = b"--b\r\nContent-Type: text/plain; name=part\r\n\r\nx\r\n"
    return _mime(b"multipart/mixed; boundary=b", part * count + b"--b--\r\n")


def nested_multiparts(depth: int = 1_000) -> bytes:
    """Attack parsers that recurse, or that hold every line against the boundary of every open level."""
    opened = (
        b"--b%d\r\nContent-Type: multipart/mixed; boundary=b%d\r\n\r\n" % (level, level + 1) for level in range(depth)
    )
    lines = b"a line that is held against every boundary\r\n" * 1_000
    body = b"".join(opened) + b"--b%d\r\n\r\n" % depth + lines
    return _mime(b"multipart/mixed; boundary=b0", body)


def nested_messages(depth: int = 1_000) -> bytes:
    """Attack the same by messages within messages, which need no boundary."""
    return _mime(b"message/rfc822", b"Content-Type: message/rfc822\r\n\r\n" * depth + b"\r\nx\r\n")


def near_boundaries(lines: int = 50_000) -> bytes:
    """Attack the search for boundaries: lines that begin like a long one, and a multipart that never ends."""
    boundary = b"b" * 69
    near = b"--" + boundary + b"x\r\n"
    return _mime(b'multipart/mixed; boundary="' + boundary + b'"', b"--" + boundary + b"\r\n\r\n" + near * lines)


# --- parameters and encoded words -------------------------------------------------------------------------------------


def parameter_pieces(count: int = 10_000) -> bytes:
    """Attack whoever puts the pieces of a parameter together one by one, or sorts and searches them for each."""
    pieces = b";\r\n ".join(b"name*%d*=utf-8''%%41" % number for number in reversed(range(count)))
    return _mime(b"text/plain;\r\n " + pieces, b"x\r\n")


def encoded_words_in_subject(octets: int = 128 << 10) -> bytes:
    """Attack decoders that join what they decoded anew for every word."""
    word = b"=?utf-8?b?" + base64.b64encode("schön".encode()) + b"?="
    return _message(subject=b"\r\n ".join([word] * (octets // (len(word) + 3))))


def slow_charset_in_subject(octets: int = 60_000) -> bytes:
    """Attack decoders that take any codec by its name: punycode's costs the square of its length."""
    return _message(subject=b"=?punycode?q?" + b"a" * octets + b"?=")


def half_encoded_words(count: int = 50_000) -> bytes:
    """Attack regular expressions that look for the end of an encoded word from each beginning."""
    return _message(b"Comments: " + b"=?utf-8?q?" * count)


# --- lines and fields -------------------------------------------------------------------------------------------------


def long_header_lines(octets: int = 200 << 10, count: int = 3) -> bytes:
    """Attack line buffers, and columns of a database that hold a header."""
    return _message(*(b"X-Long-%d: " % number + b"x" * octets for number in range(count)), subject=b"s" * octets)


def long_body_lines(octets: int = 1 << 20, count: int = 5) -> bytes:
    """Attack line buffers, and readers that hand over line by line (RFC 5321 §4.5.3.1.6 allows 1,000 octets)."""
    return _message(body=(b"y" * octets + CRLF) * count)


def tiny_fields(count: int = 100_000) -> bytes:
    """Attack whoever makes an object of every field, or looks for a field by going through all of them."""
    return _message(b"a:\r\n" * (count - 1) + b"a:")


def references(count: int = 20_000) -> bytes:
    """Attack whoever looks up every id of a thread."""
    return _message(b"References:" + b"".join(b"\r\n <%d@thread.example>" % number for number in range(count)))


def dots(count: int = 500_000) -> bytes:
    """Attack the search for the end of data and the removal of dots: each line is one dot, or begins with some."""
    return _message(b". : .", body=b".\r\n..\r\n...\r\n" * (count // 3))


def no_header(octets: int = 2 << 20) -> bytes:
    """Attack scans for the end of the header section: there is none, and no field either."""
    return (b"no colon here, only words of no meaning\r\n" * (octets // 41 + 1))[:octets].rpartition(CRLF)[0] + CRLF


def garbage_in_header() -> bytes:
    """Attack databases (no NUL in a text), JSON (no lone surrogate), logs and terminals (controls)."""
    every = bytes(octet for octet in range(256) if octet not in b"\r\n")
    return _message(b"X-Every: " + every * 40, every + b": x", subject=b"\0\x1b[2J\xff\xfe\xc3\x28 \xed\xa0\x80")


# --- content ----------------------------------------------------------------------------------------------------------


def zip_bomb(octets: int = 64 << 20, copies: int = 16) -> bytes:
    """Attack scanners that unpack: a zip of zips, each of which holds `octets` of nothing."""
    inner = _zipped({"nothing": bytes(octets)})
    outer = _zipped({f"{number}.zip": inner for number in range(copies)})
    lines = base64.encodebytes(outer).replace(b"\n", CRLF)
    return _mime(
        b"application/zip; name=bomb.zip",
        lines,
        b"Content-Transfer-Encoding: base64",
        b"Content-Disposition: attachment; filename=bomb.zip",
    )


def nested_html(depth: int = 100_000) -> bytes:
    """Attack whoever makes text of HTML with a parser that recurses."""
    return _mime(b"text/html; charset=utf-8", b"<div>\r\n" * depth + b"x\r\n")


def _zipped(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, octets in files.items():
            archive.writestr(zipfile.ZipInfo(name), octets, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


EVERY = (
    HostileMail("100,000 addresses in Cc", addresses_in_cc),
    HostileMail("50,000 nested comments", comments_in_an_address),
    HostileMail("200 KB of quotes", quotes_in_an_address),
    HostileMail("10,000 parts", parts),
    HostileMail("1,000 nested multiparts", nested_multiparts),
    HostileMail("1,000 nested messages", nested_messages),
    HostileMail("50,000 near boundaries", near_boundaries),
    HostileMail("10,000 RFC 2231 pieces", parameter_pieces),
    HostileMail("128 KB of encoded words", encoded_words_in_subject),
    HostileMail("60 KB of punycode", slow_charset_in_subject),
    HostileMail("50,000 half encoded words", half_encoded_words),
    HostileMail("200 KB header lines", long_header_lines),
    HostileMail("1 MB body lines", long_body_lines),
    HostileMail("100,000 tiny fields", tiny_fields),
    HostileMail("20,000 references", references),
    HostileMail("dots everywhere", dots),
    HostileMail("2 MB without a header", no_header),
    HostileMail("NULs and 8-bit garbage", garbage_in_header, may_be_refused=True),
    HostileMail("zip bomb", zip_bomb),
    HostileMail("100,000 nested <div>", nested_html),
)
