"""The event of a refusal: whom it concerns, by which rule it was, and what the client was told."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from mailflow.errors import Refused
from mailflow.events import NewEvent, clean_text
from mailflow.listener.auth import Account
from mailflow.listener.transaction import Transaction
from mailflow.models import Event
from mailflow.policy.decision import Decision
from mailflow.smtp.reply import Reply

EVENT_RECIPIENTS = 50  # of a message that was refused get an event each
NAMED_RECIPIENTS = 5  # in the one event of a refusal that leaves the message its chance
_RULES = {500: "syntax", 501: "syntax", 502: "not_offered", 503: "sequence", 504: "syntax", 555: "syntax"}


def rule_of(refusal: Refused) -> str:
    return refusal.rule or _RULES.get(refusal.reply.code, "refused")


def concerned(
    transaction: Transaction | None, account: Account | None, is_amid_content: bool
) -> Sequence[tuple[str, int | None]]:
    """Return whom a refusal concerns: a recipient and the organization that may know of it, for each event.

    What an account sends is its own organization's business. A message is refused to its recipients once.
    """
    if transaction is None:
        return [("", None)]
    is_lost = transaction.is_over or transaction.has_failed or is_amid_content
    if not is_lost or transaction.is_noted or not transaction.resolutions:
        return [(", ".join(map(str, islice(transaction.resolutions, NAMED_RECIPIENTS))), None)]
    transaction.is_noted = True
    own = account.organization_id if account else None
    recipients = islice(transaction.resolutions.items(), EVENT_RECIPIENTS)
    return [(str(address), own or resolution.organization_id) for address, resolution in recipients]


def path_in(argument: bytes) -> str:
    """Return what a refused MAIL or RCPT named, as far as it can be made out; for people, not to be parsed."""
    path = argument.partition(b":")[2].strip()
    inner = path[1:].partition(b">")[0] if path.startswith(b"<") else path.partition(b" ")[0]
    return clean_text(inner.decode("utf-8", "replace"), 320)


def event(
    rule: str, reply: Reply, reason: str, *, stage: str, sender: str, recipient: str, decisions: Sequence[Decision],
    organization_id: int | None, client_address: str, account: Account | None, trace_id: str,
) -> NewEvent:  # fmt: skip
    return NewEvent(
        kind=Event.Kind.REFUSED.value,
        summary=f"Refused at {stage or 'connection'}: {reason}{f' (from <{sender}>)' if sender else ''}.",
        stage=stage,
        rule=rule,
        sender=sender,
        recipient=recipient[:320],
        reply=str(reply),
        decisions=decisions,
        client_address=client_address,
        actor=account.username if account else "",
        organization_id=organization_id or (account.organization_id if account else None),
        trace_id=trace_id,
    )
