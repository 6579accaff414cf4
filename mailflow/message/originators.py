"""Who a message says it is from: the From and Sender fields (RFC 5322 §3.6.2, §3.4); pure, one pass, linear.

It is read for submissions, which must not bear a name that the account does not hold. So what two readers could
understand differently counts as a flaw (a field that stands twice, a route, a control character, text around an
address), and of a display name that is an address itself, both are returned. An event loop waits for this: a value is
read up to `MAX_FIELD_OCTETS` and `MAX_ADDRESSES`, which no honest one reaches.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from accounts.names import Address, InvalidName, parse_address
from mailflow.message.headers import header_section_end

MAX_FIELD_OCTETS = 8 << 10
MAX_ADDRESSES = 50
MAX_ADDRESS_CHARACTERS = 1024  # before IDNA, whose cost grows with the square, shortens it

_SLICE_OCTETS = 64 << 10
_FIELD = re.compile(rb"\n(from|sender)([\x00-\x09\x0b-\x20]*):")  # on lower-cased octets
_BODY = re.compile(rb"[^\n]*(?:\n[ \t][^\n]*)*")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)")

_SPACE, _ATOM, _QUOTED, _LITERAL, _COMMENT = "space", "atom", "quoted", "literal", "comment"
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    | (?P<atom>[^ \t\r\n()<>\[\]:;@\\,."]+)
    | (?P<quoted>"[^"\\]*(?:\\.[^"\\]*)*")
    | (?P<literal>\[[^\[\]\\]*\])
    | (?P<special>[<>:;@,.])
    | (?P<comment>\()""",
    re.VERBOSE | re.DOTALL,
)
_COMMENT_PART = re.compile(r"[^()\\]+|\\.|[()]", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)

Token = tuple[str, str]  # kind, text; a special is its own kind


class _Flaw(ValueError):
    """The value breaks the grammar; the text says how, without quoting it."""


@dataclass(frozen=True, slots=True)
class Originators:
    """What the two fields say. The counts stop at 2: more than one of a kind is wrong however many there are.

    `flaw` says in words what is wrong with the fields' form; the addresses are then not all there.
    """

    from_count: int = 0
    sender_count: int = 0
    from_addresses: tuple[Address, ...] = ()
    sender_addresses: tuple[Address, ...] = ()
    flaw: str = ""

    @property
    def is_well_formed(self) -> bool:
        return not self.flaw

    @property
    def has_too_many(self) -> bool:
        return len(self.from_addresses) > MAX_ADDRESSES

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Each address once, the From field's first."""
        return tuple(dict.fromkeys(self.from_addresses + self.sender_addresses))


def scan(content: bytes) -> Originators:
    """Read the fields from a message, or from its header section, whose lines end with CRLF."""
    fields = _find(content, header_section_end(content))
    froms, senders = fields[b"from"], fields[b"sender"]
    from_addresses: tuple[Address, ...] = ()
    sender_addresses: tuple[Address, ...] = ()
    flaw = ""
    try:
        if content[:1] in (b" ", b"\t"):
            raise _Flaw("the header section begins with a folded line")
        if froms:
            from_addresses = _addresses_of("From", froms[0])
            if not from_addresses:
                raise _Flaw("the From field holds no address")
        if senders:
            sender_addresses = _addresses_of("Sender", senders[0])
            if len(set(sender_addresses)) != 1:
                raise _Flaw("the Sender field does not hold one address")
    except _Flaw as error:
        flaw = str(error)
    return Originators(len(froms), len(senders), from_addresses, sender_addresses, flaw)


def _find(content: bytes, end: int) -> dict[bytes, list[bytes | None]]:
    """Return the values of the fields, None where one is too long; what stands before the colon begins the value.

    Goes by slices that end with a line, so that in a thread the search lets an event loop's run; ends when a field was
    seen twice.
    """
    found: dict[bytes, list[bytes | None]] = {b"from": [], b"sender": []}
    start = 0
    while start < end:
        stop = content.find(b"\n", start + _SLICE_OCTETS, end) + 1 or end
        for match in _FIELD.finditer(b"\n" + content[start:stop].lower()):
            values = found[match[1]]
            values.append(_value(match[2].strip(b" \t"), content, start + match.end() - 1, end))
            if len(values) > 1:
                return found
        start = stop
    return found


def _value(before_colon: bytes, content: bytes, start: int, end: int) -> bytes | None:
    body = _BODY.match(content, start, min(end, start + MAX_FIELD_OCTETS + 2))
    value = before_colon + body[0].removesuffix(b"\r") if body else b""
    return value if len(value) <= MAX_FIELD_OCTETS else None


def _addresses_of(name: str, value: bytes | None) -> tuple[Address, ...]:
    try:
        if value is None:
            raise _Flaw(f"it is longer than {MAX_FIELD_OCTETS} octets")
        text = value.decode("utf-8", "surrogateescape")  # a display name in an old character set harms nobody
        if _CONTROL.search(text):
            raise _Flaw("a control character")
        return tuple(_AddressList().read(text))
    except _Flaw as error:
        raise _Flaw(f"the {name} field cannot be read: {error}") from None


class _AddressList:
    """Reads an address-list of RFC 5322 §3.4, with the groups that RFC 6854 allows in From; for one value."""

    def __init__(self) -> None:
        self._found: list[Address] = []
        self._words: list[Token] = []  # of the element so far, outside of angle brackets
        self._angle: list[Token] | None = None  # what stands in angle brackets that are open
        self._is_complete = False  # nothing but a separator may follow
        self._in_group = False

    def read(self, text: str) -> list[Address]:
        """Return the addresses; one more than `MAX_ADDRESSES` where there are too many, whatever follows."""
        for token in _tokens(text):
            if self._angle is None:
                self._take(token)
            elif token[0] == ">":
                self._found.append(_address(self._angle))
                self._angle, self._is_complete = None, True
            else:
                self._angle.append(token)
            if len(self._found) > MAX_ADDRESSES:
                return self._found[: MAX_ADDRESSES + 1]
        if self._angle is not None:
            raise _Flaw("an angle bracket is not closed")
        if self._in_group:
            raise _Flaw("a group is not closed")
        self._end_element()
        return self._found

    def _take(self, token: Token) -> None:
        match token[0]:
            case ",":
                self._end_element()
            case ";":
                self._end_group()
            case _ if self._is_complete:
                raise _Flaw("text behind an address")
            case "<":
                self._begin_angle()
            case ":":
                self._begin_group()
            case _:
                self._words.append(token)

    def _begin_angle(self) -> None:
        if _has_at(self._words):  # a display name that some reader may take for the address
            self._found.append(_address(self._words))
        self._angle = []

    def _begin_group(self) -> None:
        if self._in_group or not self._words or _has_at(self._words):
            raise _Flaw("a misplaced colon")
        self._words, self._in_group = [], True

    def _end_group(self) -> None:
        if not self._in_group:
            raise _Flaw("a misplaced semicolon")
        self._end_element()
        self._in_group, self._is_complete = False, True

    def _end_element(self) -> None:
        if self._words and not self._is_complete:
            self._found.append(_address(self._words))
        self._words, self._is_complete = [], False


def _tokens(text: str) -> Iterator[Token]:
    """Yield the tokens without white space and comments."""
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _Flaw("a quoted string that is not closed, or a character out of place")
        kind, at = str(match.lastgroup), match.end()
        if kind == _COMMENT:
            at = _comment_end(text, at)
        elif kind != _SPACE:
            yield (kind if kind in (_ATOM, _QUOTED, _LITERAL) else match[0], match[0])


def _comment_end(text: str, at: int) -> int:
    """Return where the comment ends that is open at `at`; comments nest, this does not."""
    depth = 1
    while depth:
        match = _COMMENT_PART.match(text, at)
        if match is None:
            raise _Flaw("a comment is not closed")
        at = match.end()
        if match[0] == "(":
            depth += 1
        elif match[0] == ")":
            depth -= 1
    return at


def _has_at(tokens: Sequence[Token]) -> bool:
    return any(kind == "@" for kind, _ in tokens)


def _address(tokens: Sequence[Token]) -> Address:
    """Return the addr-spec that the tokens are; a route before it (RFC 5322 §4.4) nobody may generate any more."""
    kinds = [kind for kind, _ in tokens]
    if kinds.count("@") != 1:
        raise _Flaw("what should be an address has no @, or more than one")
    at = kinds.index("@")
    local_part, domain = tokens[:at], tokens[at + 1 :]
    is_local_part = _are_dotted(kinds[:at], (_ATOM, _QUOTED))
    if not is_local_part or not (kinds[at + 1 :] == [_LITERAL] or _are_dotted(kinds[at + 1 :], (_ATOM,))):
        raise _Flaw("what should be an address is none")
    text = f"{_local_part(local_part)}@{''.join(value for _, value in domain)}"
    if len(text) > MAX_ADDRESS_CHARACTERS:
        raise _Flaw("an address is too long")
    try:
        return parse_address(text)
    except InvalidName as error:
        raise _Flaw(str(error)) from None


def _are_dotted(kinds: Sequence[str], words: Sequence[str]) -> bool:
    """Whether words stand with single dots between them."""
    return (
        len(kinds) % 2 == 1 and all(kind in words for kind in kinds[::2]) and all(kind == "." for kind in kinds[1::2])
    )


def _local_part(tokens: Sequence[Token]) -> str:
    if all(kind != _QUOTED for kind, _ in tokens):
        return "".join(value for _, value in tokens)
    text = "".join(_unquoted(value) if kind == _QUOTED else value for kind, value in tokens)
    escaped = re.sub(r'(["\\])', r"\\\1", text)
    return f'"{escaped}"'


def _unquoted(quoted: str) -> str:
    return _ESCAPED.sub(r"\1", quoted[1:-1].replace("\r\n", ""))  # a fold is no part of the text
