"""The part of a report that people read, from the templates in `templates/dsn/` (RFC 3464 §2, RFC 6522 §3)."""

from __future__ import annotations

import email.utils
import re
import textwrap

from django.template.loader import render_to_string

from queue.dsn_causes import KEPT_BACK, cause_of
from queue.dsn_facts import Action, DsnFacts, RecipientFacts
from queue.dsn_status import MAX_ANSWER, remote_host, shown, status_of
from queue.dsn_text import MAX_NAME, Part, clean, encoded
from queue.outcome import LIST, Kind, Outcome
from queue.transports.requests import DSN

MAX_SUBJECT = 150
_MAX_ANSWER_LINES = 12
_WIDTH = 76
_TEMPLATES = {
    Action.FAILED: "dsn/failure.txt",
    Action.DELAYED: "dsn/delayed.txt",
    Action.DELIVERED: "dsn/delivered.txt",
    Action.RELAYED: "dsn/relayed.txt",
    Action.EXPANDED: "dsn/expanded.txt",
}


def text_part(facts: DsnFacts, *, full: bool) -> Part:
    """Return the text; `full`: the whole message is given back, and not just its header section."""
    text = re.sub(r"\n{3,}", "\n\n", _readable(facts, full=full).strip() + "\n")
    octets = text.replace("\n", "\r\n").encode("utf-8")
    charset = "us-ascii" if octets.isascii() else "utf-8"
    return Part(f"text/plain; charset={charset}", *encoded(octets, allow_8bit=False))


def _readable(facts: DsnFacts, *, full: bool) -> str:
    return render_to_string(
        _TEMPLATES[facts.action],
        {
            "hostname": clean(facts.hostname, MAX_NAME),
            "subject": clean(facts.subject, MAX_SUBJECT),
            "accepted_at": email.utils.format_datetime(facts.accepted_at),
            "deliver_by_at": email.utils.format_datetime(facts.deliver_by_at) if facts.deliver_by_at else "",
            "message_id": facts.message_id,
            "recipients": [_recipient(recipient, facts.action) for recipient in facts.recipients],
            "is_late": all(recipient.expired for recipient in facts.recipients),
            "full": full,
        },
    )


def _recipient(recipient: RecipientFacts, action: Action) -> dict[str, object]:
    outcome, retry_until = recipient.outcome, recipient.retry_until
    code = status_of(recipient, action) if action is Action.FAILED else outcome.enhanced_code
    cause = KEPT_BACK if outcome.transport == LIST else cause_of(code, outcome)
    return {
        "recipient": shown(recipient.recipient),
        "remote_host": remote_host(outcome),
        "has_code": outcome.code is not None,
        "answer": _quoted_answer(outcome),
        "gave_up": _gave_up(recipient),
        "meaning": textwrap.fill(cause.meaning, _WIDTH, initial_indent="  ", subsequent_indent="  "),
        "remedy": textwrap.fill(cause.remedy, _WIDTH, initial_indent="  ", subsequent_indent="  "),
        "retry_until": email.utils.format_datetime(retry_until) if retry_until else "",
        "answers_itself": DSN in outcome.announced,
        "was_tried": recipient.attempted_at is not None,
    }


def _gave_up(recipient: RecipientFacts) -> str:
    if recipient.outcome.kind is not Kind.DEFERRED or recipient.attempted_at is None:
        return ""
    if recipient.expired:
        return "  The message was tried again until the time allowed had passed."
    return "  This may have been temporary, but every attempt allowed was used up."


def _quoted_answer(outcome: Outcome) -> str:
    """Return the answer in its own words and lines, indented, so that nothing in it can pass for our own words."""
    lines = [clean(line, MAX_ANSWER) for line in outcome.reply.splitlines()[:_MAX_ANSWER_LINES]]
    if outcome.code is not None:
        lines = [f"{outcome.code} {line}" for line in lines or [""]]
    indent = "    "
    wrapped = [
        textwrap.fill(line, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
        for line in lines
        if line
    ]
    return "\n".join(wrapped) or f"{indent}(no answer)"
