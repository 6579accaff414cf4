"""Deliver to our own addresses: copies for mailboxes, forwards for aliases (contract §3, RFC 3461 §5.2.7).

What the listener refuses at RCPT ends the same way here (`mailflow.policy.recipient`): mail by HTTP and forwards come
by no RCPT, and what an address is may have changed since.

Mail sent with a test key reaches no real mailbox (contract §7): outside of the demo it is captured here. An alias is
followed all the same, for what it sends on is a test again.

Runs in a thread. The copy is stored durably here; its place in the mailbox, or the forwarded mail, is committed
together with the end of the queue entry (`queue.settle`), so neither can be there twice or be missing.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import math
from collections.abc import Mapping, Sequence

import structlog
from django.conf import settings
from django.utils import timezone

from accounts.addresses import Found, Resolution, Way
from accounts.names import Address, InvalidName, parse_address
from mailflow.errors import Unavailable
from mailflow.ids import new_message_id
from mailflow.mailboxes import INBOX, NewFiling
from mailflow.message.headers import header_section_end
from mailflow.message.trace import return_path_line
from mailflow.policy.decision import Decision, Verdict
from mailflow.policy.recipient import check_recipient
from mailflow.smtp.envelope import DeliverBy, Envelope, Recipient
from mailflow.spool.accepted import Origin
from mailflow.storage import registry
from mailflow.storage.base import Copy, Storage
from queue.claim import Parcel
from queue.notices import notify_of_each
from queue.outcome import Kind, Outcome, deferred, failed
from queue.results import Forward, Result
from queue.transports.content import has_utf8_header
from queue.transports.sandbox import NOT_FILED

logger = structlog.get_logger(__name__)

TRANSPORT = "local"
MAX_NAMED = 5  # targets in the words of one step


def deliver(parcels: list[tuple[Parcel, Resolution]], contents: Mapping[str, bytes]) -> list[Result]:
    """Store copies and prepare forwards; answers one result for each parcel and raises nothing."""
    storage = registry.current()
    return [_deliver_one(parcel, resolution, contents[parcel.message_id], storage) for parcel, resolution in parcels]


def _deliver_one(parcel: Parcel, resolution: Resolution, content: bytes, storage: Storage) -> Result:
    started_at = timezone.now()
    filing: NewFiling | None = None
    forward: Forward | None = None
    octets = return_path_line(parcel.reverse_path) + content
    decision = check_recipient(
        parse_address(parcel.recipient),
        resolution,
        may_relay="",
        auth_possible=False,
        declared_octets=len(octets),
        is_smtputf8=True,  # only a report quotes it, and that can
    )
    if decision.stops:
        outcome = _outcome_of(decision)
    elif resolution.found is Found.RETURN_PATH:
        words = "read here; there is no mailbox that could keep it for a person"
        outcome = Outcome(Kind.DELIVERED, words, TRANSPORT, 250, "2.0.0", next_hop="the bounce reader")
    elif resolution.found is Found.MAILBOX and parcel.is_test and not settings.DEMO:
        outcome = NOT_FILED
    elif resolution.found is Found.MAILBOX:
        outcome, filing = _file(parcel, resolution, octets, storage, started_at)
    else:
        outcome, forward = _forward(parcel, resolution, content)
    return Result(parcel, outcome, started_at, timezone.now(), filing, forward)


def _outcome_of(decision: Decision) -> Outcome:
    """Return what the listener would have said as an outcome; the words are ours, no peer spoke them."""
    reply = decision.reply
    assert reply is not None
    if decision.verdict is Verdict.DEFER:
        return deferred(f"{reply.text}.", transport=TRANSPORT, enhanced_code=reply.enhanced_code)
    return failed(f"{reply.text}.", transport=TRANSPORT, enhanced_code=reply.enhanced_code)


def _file(
    parcel: Parcel, resolution: Resolution, octets: bytes, storage: Storage, now: dt.datetime
) -> tuple[Outcome, NewFiling | None]:
    assert resolution.user_id is not None
    copy = Copy(
        str(parcel.entry_id),
        parcel.message_id,
        resolution.user_address,
        INBOX,
        parcel.created_at,
        octets,
        is_new=parcel.claims == 1 and not parcel.attempts,
        is_spooled=True,
    )
    try:
        key = storage.put(copy)
    except Unavailable as trouble:
        logger.error("queue.store_unavailable", message_id=parcel.message_id, cause=trouble.cause)
        return deferred("The mail store is not available.", transport=TRANSPORT, enhanced_code="4.3.1"), None
    filing = NewFiling(
        user_id=resolution.user_id,
        message_id=parcel.message_id,
        entry_id=parcel.entry_id,
        recipient=parcel.recipient,
        internal_date=now,
        size_octets=len(octets),
        digest=hashlib.sha256(octets).hexdigest(),
        storage=storage.name,
        storage_key=key,
    )
    hop = f"{resolution.user_address}/{INBOX}"
    return Outcome(Kind.DELIVERED, f"filed in {hop}", TRANSPORT, 250, "2.0.0", next_hop=hop), filing


def _forward(parcel: Parcel, resolution: Resolution, content: bytes) -> tuple[Outcome, Forward | None]:
    top = f"Delivered-To: {parcel.recipient}\r\n".encode("utf-8", "replace")
    if _was_here(top.strip(), content):
        words = f"Mail loop: {parcel.recipient} has forwarded this message before."
        return failed(words, transport=TRANSPORT, enhanced_code="5.4.6"), None
    original = parcel.original_recipient or _original_recipient(parcel.recipient)
    try:
        notify = notify_of_each(parcel.notify, len(resolution.targets))
        targets = [Recipient(parse_address(target), notify, original) for target in resolution.targets]
        reverse_path = parse_address(parcel.reverse_path) if parcel.reverse_path else None
    except InvalidName as error:
        return failed(f"The alias cannot be followed: {error}.", transport=TRANSPORT, enhanced_code="5.1.3"), None
    forward = Forward(
        message_id=new_message_id(),
        envelope=Envelope(
            reverse_path,
            targets,
            body_type=parcel.body_type,
            dsn_return=parcel.dsn_return,
            envelope_id=parcel.envelope_id,
            is_smtputf8=parcel.is_smtputf8 or _is_smtputf8(reverse_path, targets) or has_utf8_header(content),
            deliver_by=_deliver_by(parcel, timezone.now()),
            requires_tls=parcel.requires_tls,
        ),
        origin=Origin(
            protocol="INTERNAL",
            trace_id=parcel.trace_id,
            helo=settings.SMTP_HOSTNAME,
            organization_id=resolution.organization_id,
        ),
        top=top,
    )
    # A sender of another organization reads this attempt: where the alias leads is its owner's to know.
    is_private = parcel.organization_id not in (None, resolution.organization_id)
    hop = "" if is_private else ", ".join(resolution.targets)[:300]
    words = f"Mail for {parcel.recipient} is forwarded"
    if not is_private:
        words = (
            f"{_said_of(parcel, resolution)}: its mail goes on to {_named(resolution)} as message {forward.message_id}"
        )
    return Outcome(Kind.DELIVERED, words, TRANSPORT, 250, "2.0.0", next_hop=hop), forward


def _said_of(parcel: Parcel, resolution: Resolution) -> str:
    match resolution.way:
        case Way.ALIAS:
            return f"{parcel.recipient} is an alias"
        case Way.CATCH_ALL:
            return f"{parcel.recipient} is taken by the catch-all of {parcel.domain}"
        case Way.POSTMASTER:
            return f"{parcel.recipient} has neither mailbox nor alias and is read by an administrator"


def _named(resolution: Resolution) -> str:
    more = len(resolution.targets) - MAX_NAMED
    return f"{', '.join(resolution.targets[:MAX_NAMED])}{f' and {more} more' if more > 0 else ''}"


def _deliver_by(parcel: Parcel, now: dt.datetime) -> DeliverBy | None:
    """Return a request that ends when this one does: an alias is no hop, and moves no deadline (RFC 2852 §4.1.4)."""
    if parcel.deliver_by_at is None:
        return None
    due_at = parcel.deliver_by_at - parcel.ahead
    seconds = math.ceil((due_at - now).total_seconds())
    return DeliverBy(seconds, parcel.deliver_by_mode, asked_at=due_at - dt.timedelta(seconds=seconds))


def _original_recipient(recipient: str) -> str:
    """Return what ORCPT would have been (RFC 3461 §4.2, RFC 6533 §3)."""
    return f"{'rfc822' if recipient.isascii() else 'utf-8'};{recipient}"


def _is_smtputf8(reverse_path: Address | None, targets: Sequence[Recipient]) -> bool:
    """Whether the envelope of a forwarded message needs SMTPUTF8, whatever that of the original did."""
    addresses = [target.address for target in targets] + ([reverse_path] if reverse_path else [])
    return any(address.needs_smtputf8 for address in addresses)


def _was_here(field: bytes, content: bytes) -> bool:
    """Whether the header section has this very Delivered-To already: forwarding again would never end."""
    section = content[: header_section_end(content)].lower()
    return b"\r\n" + field.lower() + b"\r\n" in b"\r\n" + section + b"\r\n"
