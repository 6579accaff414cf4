"""What the simulated internet sends back: complaints of readers (RFC 5965), reports of delivery (RFC 3461 §6.2).

Handed in by the front door in the transaction that writes the delivery down: it is there if, and only if, the delivery
is. It goes to the reverse path that the mail left with, from the null path, so that nothing can come of it in turn, and
is a test as the mail was that it is about.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import hashlib
from collections.abc import Sequence

from accounts.names import InvalidName, parse_address
from mailflow import content, receiver
from mailflow.errors import Refused
from mailflow.models import Message
from mailflow.smtp.envelope import Envelope, Recipient
from mailflow.spool.accepted import Origin
from queue import return_paths
from queue.claim import Parcel
from queue.dsn import compose
from queue.dsn_facts import Action, DsnFacts, RecipientFacts
from queue.dsn_original import original_part
from queue.dsn_text import field_text, fields
from queue.outcome import Kind, Outcome
from queue.simulation import personas
from queue.simulation.internet import HOPS
from queue.simulation.personas import DOMAIN
from queue.transports.requests import DSN

READER = f"fbl@{DOMAIN}"
_READ = Outcome(Kind.DELIVERED, "delivered to the simulated mailbox", "local", 250, "2.0.0")


def is_due(parcel: Parcel, outcome: Outcome) -> bool:
    """Whether something comes back of this delivery."""
    return _is_simulated(parcel, outcome) and (_complains(parcel) or _wants_report(parcel, outcome))


def hand_in(deliveries: Sequence[tuple[Parcel, Outcome, dt.datetime]], *, is_test: Sequence[bool]) -> list[int]:
    """Accept what comes back of deliveries at their times, in the caller's transaction; return the new entries' ids."""
    new_ids: list[int] = []
    for (parcel, outcome, at), test in zip(deliveries, is_test, strict=True):
        head = content.read_head(parcel.message_id)
        answers = [_complaint(parcel, head, at)] if _complains(parcel) else []
        answers += [_report(parcel, head, at)] if _wants_report(parcel, outcome) else []
        for octets in answers:
            new_ids += _accept(parcel, outcome, octets, is_test=test)
    return new_ids


def _is_simulated(parcel: Parcel, outcome: Outcome) -> bool:
    is_taken = outcome.kind is Kind.DELIVERED and outcome.transport == "smtp"
    return is_taken and parcel.is_sandbox and bool(parcel.reverse_path) and personas.find(parcel.recipient) is not None


def _complains(parcel: Parcel) -> bool:
    persona = personas.find(parcel.recipient)
    return persona is not None and persona.complains


def _wants_report(parcel: Parcel, outcome: Outcome) -> bool:
    """A host that announces DSN answers for it from there on."""
    return DSN in outcome.announced and "SUCCESS" in parcel.notify.split(",")


def _accept(parcel: Parcel, outcome: Outcome, octets: bytes, *, is_test: bool) -> list[int]:
    host = outcome.next_hop.partition("[")[0]
    address = next((hop.address for hop in HOPS.values() if hop.host == host), "")
    try:
        recipient = Recipient(parse_address(return_paths.reverse_path_of([parcel])), notify="NEVER")
        submission = receiver.Submission(
            source=Message.Source.RECEPTION.value,
            envelope=Envelope(None, [recipient], is_smtputf8=not parcel.reverse_path.isascii()),
            origin=Origin("ESMTP", parcel.trace_id, address, host, is_test=is_test),
            content=octets,
        )
        return receiver.accept_within([submission])
    except (InvalidName, Refused):
        return []  # as of any host that cannot get rid of its report


def _complaint(parcel: Parcel, head: bytes, at: dt.datetime) -> bytes:
    """Compose what a feedback loop sends: a text, a part for programs, the header section of what was complained of."""
    original = original_part(head, wants_full=False, is_smtputf8=parcel.is_smtputf8, allow_8bit=False)
    boundary = _name(parcel, "complaint")
    who, sender = field_text(parcel.recipient), field_text(return_paths.reverse_path_of([parcel]))
    parts = [
        (
            "text/plain; charset=us-ascii",
            "7bit",
            f"{who} reported this message as spam. It is a simulation: nobody read it.\r\n".encode(),
        ),
        (
            "message/feedback-report",
            "7bit",
            fields(
                "Feedback-Type: abuse",
                "User-Agent: mailproj-simulation/1.0",
                "Version: 1",
                f"Original-Mail-From: <{sender}>",
                f"Original-Rcpt-To: <{who}>",
                f"Arrival-Date: {email.utils.format_datetime(at)}",
                f"Reporting-MTA: dns; {HOPS[personas.Host.MX].host}",
            ),
        ),
        (original.content_type, original.transfer_encoding, original.octets),
    ]
    top = fields(
        f"From: Feedback loop <{READER}>",
        f"To: <{sender}>",
        "Subject: Reported as spam",
        f"Date: {email.utils.format_datetime(at)}",
        f"Message-ID: <{boundary}@{DOMAIN}>",
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
        "Content-Type: multipart/report; report-type=feedback-report;",
        f' boundary="{boundary}"',
    )
    body = b"".join(
        b"--%s\r\n%s\r\n%s\r\n"
        % (boundary.encode(), fields(f"Content-Type: {kind}", f"Content-Transfer-Encoding: {encoding}"), octets)
        for kind, encoding, octets in parts
    )
    return top + b"\r\n" + body + b"--%s--\r\n" % boundary.encode()


def _report(parcel: Parcel, head: bytes, at: dt.datetime) -> bytes:
    """Compose the report of the host that took it: delivered."""
    return compose(
        DsnFacts(
            hostname=HOPS[personas.Host.MX].host,
            message_id=parcel.message_id,
            reverse_path=parcel.reverse_path,
            accepted_at=at,
            recipients=[RecipientFacts(parcel.recipient, _READ, at, original_recipient=parcel.original_recipient)],
            content=head,
            now=at,
            action=Action.DELIVERED,
            envelope_id=parcel.envelope_id,
            dsn_return="HDRS",
            is_smtputf8=parcel.is_smtputf8,
        )
    )


def _name(parcel: Parcel, what: str) -> str:
    return hashlib.sha256(f"{what}\0{parcel.message_id}\0{parcel.recipient}".encode()).hexdigest()[:32]
