"""Reads what comes back: bounces and complaints, as values (RFC 3464, RFC 6522, RFC 6533, RFC 5965); pure and bounded.

Whatever is read here is the word of a stranger. `parse` says what a mail claims; whether anything is believed, and of
which message, is for `queue.returns` to find out. It raises nothing and takes no longer than a fraction of a second
for any input.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from queue import bounce_texts as texts
from queue.bounce_class import status_in
from queue.bounce_mime import Fields, Part, every, fields_of, first, read_message, walk

MAX_FAILURES = 1000
MAX_WORDS = 500
_MAX_TEXT = 16 << 10  # of a bounce without a standard form
_MAX_MARKUP = 64 << 10
_MAX_ADDRESSES = 100
_MAX_SAID = 1000  # characters behind an address

_OUR_ID = re.compile(r"\bid (msg_[0-9a-f]{26})\b")
_MAX_OUR_IDS = 3
_STATUS = re.compile(r"\s*([245])\.(\d{1,3})\.(\d{1,3})\b")
_TAG = re.compile(r"<[^<>]{0,1000}>")
_GROUP_END = re.compile(rb"\r?\n[ \t]*\r?\n")
_HEX = re.compile(r"\\x\{([0-9A-Fa-f]{1,6})\}")
_COMPLAINTS = frozenset(["abuse", "fraud", "virus", "other", "opt-out", "opt-out-list"])
_STATUS_PARTS = ("message/delivery-status", "message/global-delivery-status")
_RETURNED_PARTS = ("message/rfc822", "message/global", "text/rfc822-headers", "message/global-headers")


class Kind(enum.StrEnum):
    BOUNCE = "bounce"
    COMPLAINT = "complaint"


@dataclass(frozen=True, slots=True)
class Failure:
    """One recipient that a report names, for good or bad (`action` as in RFC 3464 §2.3.3); empty what it leaves out.

    `status` is an enhanced code, `words` what the host said that refused, `host` its name.
    """

    recipient: str = ""
    original_recipient: str = ""
    action: str = "failed"
    status: str = ""
    words: str = ""
    host: str = ""


@dataclass(frozen=True, slots=True)
class Returned:
    """What the header section of the returned message holds: our own ids for it, the latest first, and its names."""

    our_ids: Sequence[str] = ()
    internet_message_id: str = ""
    return_paths: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """One mail that reports. `form` names the form it has; `feedback_type` and `mail_from` only for complaints."""

    kind: Kind
    form: str
    failures: Sequence[Failure] = ()
    returned: Returned = field(default_factory=Returned)
    envelope_id: str = ""
    feedback_type: str = ""
    mail_from: str = ""

    @property
    def failed(self) -> list[Failure]:
        return [failure for failure in self.failures if failure.action == "failed"]


def may_be_one(content: bytes, *, is_from_null_path: bool) -> bool:
    """Whether it is worth while to read the mail; costs a look at its header section."""
    head = content[: 64 << 10].partition(b"\r\n\r\n")[0].lower()
    return (
        is_from_null_path
        or b"multipart/report" in head
        or b"\nx-failed-recipients:" in head
        or (b"\nfrom:" in head and (b"mailer-daemon" in head or b"postmaster@" in head))
    )


def parse(content: bytes, *, is_from_null_path: bool) -> Report | None:
    """Read a mail with CRLF line ends as a report; None for every mail that is none."""
    whole = read_message(content)
    parts = list(walk(whole))
    feedback = next((part for part in parts if part.content_type == "message/feedback-report"), None)
    if feedback is not None:
        return _complaint(feedback, parts)
    status = next((part for part in parts if part.content_type in _STATUS_PARTS), None)
    if status is not None:
        return _notification(status, parts)
    return _without_form(whole, parts, is_from_null_path=is_from_null_path)


# --- by the standards -------------------------------------------------------------------------------------------------


def _complaint(feedback: Part, parts: Sequence[Part]) -> Report | None:
    """RFC 5965 §3.1: type, agent and version stand once each; what deviates is ignored (§4)."""
    fields = fields_of(feedback.octets)
    kinds = every(fields, "feedback-type")
    if len(kinds) != 1 or len(every(fields, "version")) != 1 or len(every(fields, "original-mail-from")) > 1:
        return None
    kind = kinds[0].strip().lower()
    if kind not in _COMPLAINTS:
        return None
    named = [*every(fields, "original-rcpt-to"), *every(fields, "removal-recipient")]
    return Report(
        Kind.COMPLAINT,
        "ARF",
        [Failure(_bare(address)) for address in named[:MAX_FAILURES]],
        _returned(parts),
        envelope_id=first(fields, "original-envelope-id")[:100],
        feedback_type=kind,
        mail_from=_bare(first(fields, "original-mail-from")),
    )


def _notification(status: Part, parts: Sequence[Part]) -> Report | None:
    groups = _GROUP_END.split(status.octets.strip(b"\r\n \t"), maxsplit=MAX_FAILURES + 1)[: MAX_FAILURES + 1]
    of_message = fields_of(groups[0])
    read = [fields_of(group) for group in (groups if first(of_message, "final-recipient") else groups[1:])]
    failures = [_failure(fields, of_message) for fields in read if first(fields, "final-recipient")]
    if not failures:
        return None
    return Report(
        Kind.BOUNCE,
        "RFC 3464",
        failures,
        _returned(parts),
        envelope_id=first(of_message, "original-envelope-id")[:100],
    )


def _failure(fields: Fields, of_message: Fields) -> Failure:
    diagnostic = _value(first(fields, "diagnostic-code")) or first(fields, "x-postfix-error")
    words = _squeezed(diagnostic)
    found = _STATUS.match(first(fields, "status"))
    status = f"{found[1]}.{int(found[2])}.{int(found[3])}" if found else ""
    said = status_in(words)
    if said and (not status or status.endswith(".0.0")) and (not status or said[0] == status[0]):
        status = said  # the host that refused says more than the one that reports
    return Failure(
        recipient=_bare(_value(first(fields, "final-recipient"))),
        original_recipient=_bare(_value(first(fields, "original-recipient"))),
        action=first(fields, "action").strip().lower()[:20],
        status=status,
        words=words,
        host=_squeezed(_value(first(fields, "remote-mta")) or _value(first(of_message, "reporting-mta")))[:255],
    )


def _returned(parts: Sequence[Part]) -> Returned:
    part = next((part for part in reversed(parts) if part.content_type in _RETURNED_PARTS), None)
    return _read_returned(fields_of(part.octets.lstrip(b"\r\n"))) if part is not None else Returned()


def _read_returned(fields: Fields) -> Returned:
    ids = [found for value in every(fields, "received") for found in _OUR_ID.findall(value)]
    paths = [_bare(value) for value in every(fields, "return-path")]
    return Returned(
        tuple(dict.fromkeys(ids))[:_MAX_OUR_IDS],
        first(fields, "message-id").strip()[:998],
        [path for path in paths if path][:_MAX_OUR_IDS],
    )


# --- by custom --------------------------------------------------------------------------------------------------------


def _without_form(whole: Part, parts: Sequence[Part], *, is_from_null_path: bool) -> Report | None:
    """Read what has no part for programs: qmail's form, and texts that say that something failed."""
    fields = whole.fields
    named = [_bare(one) for value in every(fields, "x-failed-recipients") for one in value.split(",")]
    named = [address for address in named if address][:MAX_FAILURES]
    by_machine = is_from_null_path or bool(named) or bool(texts.FROM.search(first(fields, "from")[:500]))
    if not by_machine or not parts:
        return None
    text, returned = _readable(parts)
    if texts.DELAYED.search(text) or texts.DELAYED.search(first(fields, "subject")[:500]):
        return None
    if text.lstrip().startswith("Hi. This is the"):
        failures = list(_of_qmail(text))
        if failures:
            return Report(Kind.BOUNCE, "QSBMF", failures, returned)
    is_told = bool(texts.FAILED.search(text))
    if not (is_told or named or texts.SUBJECT.search(first(fields, "subject")[:500])):
        return None
    failures = list(_of_text(text, named))
    if not failures and not is_told:
        return None
    return Report(Kind.BOUNCE, "text", failures or [_said(text)], returned)


def _readable(parts: Sequence[Part]) -> tuple[str, Returned]:
    """Return what stands before the copy of the message, and the names in the copy."""
    part = next((part for part in parts if part.content_type == "text/plain"), None)
    if part is None:
        part = next((part for part in parts if part.content_type == "text/html"), None)
        text = _TAG.sub(" ", part.text[:_MAX_MARKUP]) if part is not None else ""
    else:
        text = part.text
    head = text[:_MAX_MARKUP]
    copy = texts.COPY.search(head)
    returned = _returned(parts)
    if copy is not None:
        head = text[: copy.start()]
        if returned == Returned():
            section = text[copy.end() : copy.end() + _MAX_MARKUP].lstrip("\n")
            returned = _read_returned(fields_of(section.encode("utf-8", "replace")))
    return head[:_MAX_TEXT], returned


def _of_qmail(text: str) -> Iterator[Failure]:
    """Yield the paragraphs that begin with an address: `<a@b>:` and what was said below it (QSBMF §3)."""
    for paragraph in text.split("\n\n")[:MAX_FAILURES]:
        head, _, words = paragraph.strip("\n").partition("\n")
        address, colon, rest = head.strip().rpartition(":")
        if address.startswith("<") and address.endswith(">") and colon and not rest and "@" in address:
            yield _judged(_bare(address), words)


def _of_text(text: str, named: Sequence[str]) -> Iterator[Failure]:
    """Yield each address with what is said behind it: those that a header field names, else all that the text has.

    Which of the latter are recipients the message itself must tell.
    """
    wanted = {address.lower() for address in named}
    found = [match for match in texts.ADDRESS.finditer(text) if not wanted or match[0].lower() in wanted][
        :_MAX_ADDRESSES
    ]
    said: dict[str, str] = dict.fromkeys(named, "")
    spelled = {address.lower(): address for address in named}
    for number, match in enumerate(found):
        end = found[number + 1].start() if number + 1 < len(found) else len(text)
        address = spelled.setdefault(match[0].lower(), match[0])
        said[address] = said.get(address, "") + " " + text[match.end() : min(end, match.end() + _MAX_SAID)]
    whole = _said(text)
    for address, words in said.items():
        failure = _judged(address, words)
        speaks = failure.status or _tells(failure.words) or (named and failure.words)
        yield failure if speaks else Failure(address, "", "failed", whole.status, whole.words)


def _judged(address: str, words: str) -> Failure:
    squeezed = _squeezed(words).lstrip(" >)]'\",:;")
    return Failure(address, "", "failed", status_in(squeezed), squeezed)


def _said(text: str) -> Failure:
    """The part of a text that tells what was wrong, for all of its recipients."""
    for line in text.split("\n"):
        if status_in(line) or _tells(line):
            return Failure("", "", "failed", status_in(line), _squeezed(line))
    return Failure()


def _tells(words: str) -> bool:
    return any(known.search(words) for known in (texts.UNKNOWN, texts.FULL, texts.BLOCKED))


def _value(typed: str) -> str:
    """Return the text of a `type; text` field (RFC 3464 §2.1.2)."""
    kind, semicolon, text = typed.partition(";")
    text = text if semicolon else kind
    if kind.strip().lower() == "utf-8":
        text = _HEX.sub(_character, text)
    return text.strip()


def _character(match: re.Match[str]) -> str:
    number = int(match[1], 16)
    return chr(number) if number < 0x110000 and not 0xD800 <= number < 0xE000 else "\ufffd"


def _bare(path: str) -> str:
    """Return the address of a path, without brackets; empty for what can be none."""
    text = path.strip()
    start, end = text.find("<"), text.rfind(">")
    text = text[start + 1 : end].strip() if 0 <= start < end else text
    return text if "@" in text and len(text) <= 320 and text.isprintable() and " " not in text else ""


def _squeezed(text: str) -> str:
    line = " ".join(text[: 4 * MAX_WORDS].split())
    line = "".join(character if character.isprintable() else "\ufffd" for character in line)
    return line if len(line) <= MAX_WORDS else line[: MAX_WORDS - 1] + "…"
