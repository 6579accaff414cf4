"""The part of a report that programs read (RFC 3464 §2, RFC 3461 §6.3, RFC 2852 §5, RFC 6533 §4.1); pure."""

from __future__ import annotations

import email.utils
import re
import textwrap
from contextlib import suppress

from accounts.names import InvalidName, parse_address
from queue.dsn_facts import Action, DsnFacts, RecipientFacts
from queue.dsn_text import MAX_NAME, Part, clean, encoded, field_text, fields
from queue.outcome import Kind, Outcome

MAX_ANSWER = 900  # a field of one word must still fit one line
_MAX_ORIGINAL_RECIPIENT = 500
_WIDTH = 76

_NEXT_HOP_HOST = re.compile(r"([A-Za-z0-9_.-]{1,255})\[")
_NEXT_HOP_ADDRESS = re.compile(r"([0-9A-Fa-f.:]{2,45}):\d+\Z")
_CODE = re.compile(r"([245])\.((?:0|[1-9]\d{0,2})\.(?:0|[1-9]\d{0,2}))\Z")
_EXPIRED = "4.7"  # RFC 3463 §3.5
_CLASS = {Action.FAILED: "5", Action.DELAYED: "4"}  # all others are successes


def status_of(recipient: RecipientFacts, action: Action = Action.FAILED) -> str:
    """Return the code of a recipient, of the class that its action has (RFC 3463).

    A temporary answer that became final because the attempts were used up keeps its subject and detail, which name the
    actual problem (RFC 3463 §3.5, X.4.7); only where the time ran out is that itself the cause.
    """
    outcome, kind = recipient.outcome, _CLASS.get(action, "2")
    if recipient.expired and outcome.kind is Kind.DEFERRED:
        return f"{kind}.{_EXPIRED}"
    found = _CODE.match(outcome.enhanced_code)
    is_fit = found is not None and found[1] == {Kind.DELIVERED: "2", Kind.DEFERRED: "4", Kind.FAILED: "5"}[outcome.kind]
    return f"{kind}.{found[2]}" if found is not None and is_fit else f"{kind}.0.0"


def delivery_status(facts: DsnFacts, *, allow_8bit: bool) -> Part:
    """Return the part: one group of fields for the message, one for each recipient (RFC 3464 §2.1).

    It is in UTF-8, under the type for that, where an address is (RFC 6533 §4.1).
    """
    is_global = any(recipient.is_beyond_ascii for recipient in facts.recipients)
    groups = [_of_message(facts)]
    groups += [_of_recipient(recipient, facts.action, is_global=is_global) for recipient in facts.recipients]
    content_type = "message/global-delivery-status" if is_global else "message/delivery-status"
    return Part(content_type, *encoded(b"\r\n".join(groups), allow_8bit=allow_8bit))


def remote_host(outcome: Outcome) -> str:
    """Return who gave the reply; empty where no other system spoke (RFC 3464 §2.3.5)."""
    if outcome.code is None:
        return ""
    host = _NEXT_HOP_HOST.match(outcome.next_hop)
    if host:
        return host[1]
    address = _NEXT_HOP_ADDRESS.match(outcome.next_hop)
    if not address:
        return ""
    return f"[IPv6:{address[1]}]" if ":" in address[1] else f"[{address[1]}]"


def shown(recipient: str) -> str:
    """Return an address for people: one beyond ASCII in UTF-8 throughout, its domain in U-labels (RFC 6531 §3.7)."""
    if not recipient.isascii():
        with suppress(InvalidName):
            return parse_address(recipient).unicode
    return clean(recipient, MAX_NAME)


def _of_message(facts: DsnFacts) -> bytes:
    envelope_id = field_text(facts.envelope_id)
    deliver_by = facts.deliver_by_at
    return fields(
        *([f"Original-Envelope-Id: {envelope_id}"] if envelope_id else []),
        f"Reporting-MTA: dns; {field_text(facts.hostname)}",
        f"Arrival-Date: {email.utils.format_datetime(facts.accepted_at)}",
        *([f"Deliver-By-Date: {email.utils.format_datetime(deliver_by)}"] if deliver_by else []),
        f"X-Mailproj-Message-ID: {facts.message_id}",
    )


def _of_recipient(recipient: RecipientFacts, action: Action, *, is_global: bool) -> bytes:
    outcome, attempted_at, retry_until = recipient.outcome, recipient.attempted_at, recipient.retry_until
    host = remote_host(outcome)
    return fields(
        *_original_recipient(recipient.original_recipient),
        f"Final-Recipient: {_typed(recipient.recipient)}",
        f"Action: {action}",
        f"Status: {status_of(recipient, action)}",
        *([f"Remote-MTA: dns; {host}"] if host else []),
        *([] if _is_ours(outcome) else [_diagnostic(outcome, is_global=is_global)]),
        *([f"Last-Attempt-Date: {email.utils.format_datetime(attempted_at)}"] if attempted_at else []),
        *([f"Will-Retry-Until: {email.utils.format_datetime(retry_until)}"] if retry_until else []),
    )


def _is_ours(outcome: Outcome) -> bool:
    """Whether it was delivered here: then nothing is to be diagnosed, and our words would name the account."""
    return outcome.kind is Kind.DELIVERED and outcome.transport == "local"


def _original_recipient(original: str) -> list[str]:
    """Tell ORCPT as the sender gave it (RFC 3464 §2.3.1); no field where none was given."""
    kind, semicolon, address = original.partition(";")
    kind, address = field_text(kind, 40), clean(address, _MAX_ORIGINAL_RECIPIENT)
    return [f"Original-Recipient: {kind}; {address}"] if kind and semicolon and address else []


def _typed(recipient: str) -> str:
    return f"rfc822; {field_text(recipient)}" if recipient.isascii() else f"utf-8; {shown(recipient)}"


def _diagnostic(outcome: Outcome, *, is_global: bool) -> str:
    """Name an SMTP reply as such; words of our own go under our own type (RFC 3464 §2.1.2)."""
    words = clean(outcome.reply, MAX_ANSWER) if is_global else field_text(outcome.reply, MAX_ANSWER)
    answer = words or "no answer"
    text = f"X-Mailproj; {answer}" if outcome.code is None else f"smtp; {outcome.code} {answer}"
    folded = textwrap.wrap(text, _WIDTH - len("Diagnostic-Code: "), break_long_words=False, break_on_hyphens=False)
    return "Diagnostic-Code: " + "\r\n ".join(folded)
