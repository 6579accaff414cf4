"""What an SMTP dialogue must come to, octet by octet (RFC 5321 §4.1.4, §4.3.2, RFC 3030 §2, RFC 4954 §4).

A second, slow and simple listener: it reads what the client has sent and names, for each command, the codes that may
answer it in this state. Where the answer depends on policy it takes the real one and goes on from there.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from mailflow.tests.reply_form import check_form

MAX_BAD = 10
MAX_AUTH_FAILURES = 3
MAX_LINE = 12288
LONGEST = {b"AUTH": MAX_LINE, b"MAIL": 2048, b"RCPT": 2048}
VERBS = {
    b"HELO", b"EHLO", b"STARTTLS", b"AUTH", b"RSET", b"NOOP", b"HELP", b"QUIT", b"MAIL", b"RCPT", b"DATA", b"BDAT",
    b"VRFY", b"EXPN", b"ETRN", b"ATRN",
}  # fmt: skip
IN_UTF8 = {b"MAIL", b"RCPT", b"VRFY", b"EXPN"}
HTTP_REQUEST = re.compile(rb"[A-Z]{3,8} \S+ HTTP/\d")
CHUNK = re.compile(r"([0-9]{1,19})(?:[ \t]+(LAST))?\Z", re.IGNORECASE)

REFUSED_SENDER = {501, 550, 552, 553, 555}
REFUSED_RECIPIENT = {450, 452, 501, 550, 551, 552, 553, 555, 556}

Judge = Callable[[Collection[int]], int]


@dataclass
class Transaction:
    is_binary: bool
    has_recipient: bool = False
    content: bytes | None = None  # once BDAT has begun
    has_failed: bool = False


@dataclass
class Model:
    """`take` what the client sends, then `run` as often as you like; `read_reply` waits for the next real reply.

    `accepted` has, by message id, the content of what was answered 250; `rest` is what no answer is due to yet.
    """

    read_reply: Callable[[], str]
    max_octets: int
    credentials: Collection[tuple[bytes, bytes]]
    known: dict[bytes, Callable[[Model], int]] = field(default_factory=dict)
    accepted: dict[str, bytes] = field(default_factory=dict)
    rest: bytes = b""
    is_over: bool = False
    helo: bytes = b""  # the verb
    is_authenticated: bool = False
    transaction: Transaction | None = None
    _challenge: list[bytes] | None = None  # AUTH is under way: the answers so far, behind the mechanism
    _is_in_data: bool = False
    _bad: int = 0
    _auth_failures: int = 0
    _last: str = ""

    @property
    def is_extended(self) -> bool:
        return self.helo == b"EHLO"

    def take(self, octets: bytes) -> None:
        self.rest += octets

    def run(self) -> None:
        """Expect an answer to all that is complete."""
        while not self.is_over and self._step():
            pass

    def _step(self) -> bool:
        if self._is_in_data:
            return self._take_data()
        line, newline, rest = self.rest.partition(b"\n")
        if not newline:
            return False
        line += newline
        chunk = None if self._challenge is not None else _chunk(line)
        if chunk is None:
            self.rest = rest
            self._obey(line)
            return True
        octets = int(chunk[1])
        if len(rest) < octets:  # the answer comes behind the chunk
            return False
        self.rest = rest[octets:]
        self._take_chunk(rest[:octets], is_last=chunk[2] is not None)
        return True

    # --- lines --------------------------------------------------------------------------------------------------------

    def _obey(self, line: bytes) -> None:
        verb = line.partition(b" ")[0] if _is_whole(line) else b"".join(line.split(None, 1)[:1])
        if verb.rstrip(b"\r\n").upper() == b"BDAT" and self.transaction is not None:
            self.transaction.has_failed = True  # well formed chunks do not come here
        if not _is_whole(line) or (len(line) > MAX_LINE and self._challenge is None):
            self._challenge = None
            self._expect({500})
        elif self._challenge is not None:
            self._answer_challenge(line[:-2])
        else:
            self._obey_command(line[:-2])

    def _obey_command(self, line: bytes) -> None:
        verb, _, argument = line.partition(b" ")
        verb = verb.upper()
        if verb not in VERBS:
            self._expect({421} if HTTP_REQUEST.match(line) else {500})
            return
        if len(line) + 2 > LONGEST.get(verb, 512):
            self._expect({500})
            return
        try:
            text = argument.decode("utf-8" if verb in IN_UTF8 else "ascii").strip()
        except UnicodeDecodeError:
            self._expect({501})
            return
        known = self.known.get(line)
        getattr(self, f"_{verb.decode().lower()}")(text, {known(self)} if known else None)

    def _ehlo(self, text: str, known: set[int] | None, verb: bytes = b"EHLO") -> None:
        if self._expect(known or ({250, 501} if text else {501}), is_greeting=True) == 250:
            self.helo, self.transaction = verb, None

    def _helo(self, text: str, known: set[int] | None) -> None:
        self._ehlo(text, known, b"HELO")

    def _starttls(self, _text: str, _known: set[int] | None) -> None:
        self._expect({502})  # without a certificate

    _atrn = _expn = _starttls

    def _noop(self, _text: str, _known: set[int] | None) -> None:
        self._expect({250})

    def _help(self, _text: str, _known: set[int] | None) -> None:
        self._expect({214})

    def _vrfy(self, text: str, _known: set[int] | None) -> None:
        self._expect({252} if text else {501})

    def _rset(self, text: str, _known: set[int] | None) -> None:
        if self._expect({501} if text else {250}) == 250:
            self.transaction = None

    def _quit(self, text: str, _known: set[int] | None) -> None:
        self._expect({501} if text else {221})

    def _etrn(self, _text: str, _known: set[int] | None) -> None:
        if not self.is_extended or self.transaction is not None:
            self._expect({503})
        else:
            self._expect({250, 251, 458, 459, 501} if self.is_authenticated else {458, 501, 530})

    def _mail(self, text: str, known: set[int] | None) -> None:
        if not self.helo or self.transaction is not None:
            self._expect({503})
        elif self._expect(known or {250} | REFUSED_SENDER) == 250:
            self.transaction = Transaction("BODY=BINARYMIME" in text.upper())

    def _rcpt(self, _text: str, known: set[int] | None) -> None:
        transaction = self.transaction
        if transaction is None or transaction.content is not None or transaction.has_failed:
            self._expect({503})
        elif self._expect(known or {250, 251} | REFUSED_RECIPIENT) in (250, 251):
            transaction.has_recipient = True

    # --- content ------------------------------------------------------------------------------------------------------

    def _no_recipients(self) -> set[int]:
        return {554} if self.is_extended else {503}

    def _data(self, text: str, _known: set[int] | None) -> None:
        transaction = self.transaction
        if text:
            self._expect({501})
        elif transaction is None or transaction.content is not None or transaction.has_failed or transaction.is_binary:
            self._expect({503})
        elif not transaction.has_recipient:
            self._expect(self._no_recipients())
        else:
            self._expect({354})
            self._is_in_data = True

    def _bdat(self, _text: str, _known: set[int] | None) -> None:
        self._expect({501})  # what is well formed goes to `_take_chunk`

    def _take_data(self) -> bool:
        raw, end, rest = (b"\r\n" + self.rest).partition(b"\r\n.\r\n")
        if not end:
            return False
        self._is_in_data, self.rest = False, rest
        self._end_content(unstuffed(raw[2:] + b"\r\n") if raw else b"")
        return True

    def _take_chunk(self, octets: bytes, *, is_last: bool) -> None:
        transaction = self.transaction
        if transaction is None or transaction.has_failed:
            self._expect({503})
        elif not transaction.has_recipient:
            transaction.has_failed = True
            self._expect(self._no_recipients())
        else:
            transaction.content = (transaction.content or b"") + octets
            if is_last:
                self._end_content(transaction.content)
            else:
                transaction.has_failed = len(transaction.content) > self.max_octets
                self._expect({552} if transaction.has_failed else {250})

    def _end_content(self, content: bytes) -> None:
        assert self.transaction is not None
        lines = content.replace(b"\r\n", b"")
        if len(content) > self.max_octets:
            allowed = {552}
        elif not self.transaction.is_binary and (b"\r" in lines or b"\n" in lines):
            allowed = {554}
        else:
            allowed = {250}
        if self.is_authenticated:
            allowed |= {550, 554}  # for the From field, which is judged first
        self.transaction = None
        if self._expect(allowed) == 250:
            self.accepted[self._last.rpartition(" ")[2]] = content

    # --- AUTH ---------------------------------------------------------------------------------------------------------

    def _auth(self, text: str, _known: set[int] | None) -> None:
        mechanism, _, initial = text.partition(" ")
        if self.is_authenticated or not self.helo or self.transaction is not None:
            self._expect({503})
        elif mechanism.upper() not in ("PLAIN", "LOGIN"):
            self._expect({504} if mechanism else {501})
        else:
            self._challenge = [mechanism.upper().encode()]
            if initial:
                self._answer_challenge(initial.encode())
            else:
                self._expect({334})

    def _answer_challenge(self, line: bytes) -> None:
        assert self._challenge is not None
        so_far, self._challenge = self._challenge, None
        answer = _decoded(line)
        if answer is None:  # `*`, too, is no base64
            self._expect({501} if len(line) < MAX_LINE else {500, 501})
        elif so_far == [b"LOGIN"]:
            if self._expect({334, 500, 501}) == 334:
                self._challenge = [b"LOGIN", answer]
        else:
            self._verify(answer if so_far[0] == b"PLAIN" else b"\0".join([b"", *so_far[1:], answer]))

    def _verify(self, plain: bytes) -> None:
        identity, _, pair = plain.partition(b"\0")
        is_right = tuple(pair.split(b"\0")) in self.credentials and identity in (b"", pair.partition(b"\0")[0])
        code = self._expect({235} if is_right else {500, 501, 535})
        self.is_authenticated = code == 235
        if code == 535 and (not identity or identity == pair.partition(b"\0")[0]):
            self._auth_failures += 1
            if self._auth_failures == MAX_AUTH_FAILURES:
                self._expect({421})

    # --- replies ------------------------------------------------------------------------------------------------------

    def _expect(self, allowed: Collection[int], *, is_greeting: bool = False) -> int:
        """Take the next reply, which must have one of these codes; see to it that the session ends where it must."""
        self._last = self.read_reply()
        assert self._last, f"the connection has ended where one of {sorted(allowed)} was due"
        code = check_form(self._last, is_greeting=is_greeting)
        assert code in allowed, f"{self._last!r} where one of {sorted(allowed)} was due"
        self.is_over = code in (221, 421, 521)
        if code == 500:
            self._bad += 1
            if self._bad == MAX_BAD:
                self._expect({421})
        return code


def unstuffed(raw: bytes) -> bytes:
    """Take the transparency dots out of what DATA brought, line by line (RFC 5321 §4.5.2)."""
    return b"\r\n".join(line[1:] if line.startswith(b".") else line for line in raw.split(b"\r\n"))


def _is_whole(line: bytes) -> bool:
    return line.endswith(b"\r\n") and line.count(b"\r") == 1 and b"\0" not in line


def _chunk(line: bytes) -> re.Match[str] | None:
    """Return what a well-formed BDAT says, else None."""
    verb, _, argument = line.partition(b" ")
    if verb.upper() != b"BDAT" or len(line) > 512 or not (_is_whole(line) and line.isascii()):
        return None
    return CHUNK.match(argument.decode().strip())


def _decoded(line: bytes) -> bytes | None:
    if line == b"=":
        return b""
    try:
        return base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        return None
