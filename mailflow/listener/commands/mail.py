"""MAIL and RCPT: the envelope (RFC 5321 §4.1.1.2, §4.1.1.3, RFC 2852 §4)."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace

from django.utils import timezone

from accounts.addresses import Found, Resolution
from accounts.names import Address, fold_address
from mailflow.errors import Refused
from mailflow.limits.rules import WITHIN
from mailflow.limits.rules import Verdict as LimitVerdict
from mailflow.listener.auth import Account, Standing
from mailflow.listener.commands.content import CHUNK_FAILED
from mailflow.listener.commands.greeting import auth_offered
from mailflow.listener.connection import SHUTTING_DOWN, Answer
from mailflow.listener.parameters import read_envelope, read_recipient
from mailflow.listener.session import SWITCHED_OFF, Session
from mailflow.listener.transaction import Declined, Transaction
from mailflow.policy.decision import Decision, Verdict
from mailflow.policy.recipient import check_recipient
from mailflow.policy.sender import check_sender
from mailflow.smtp.envelope import Envelope, Recipient
from mailflow.smtp.paths import SYNTAX, parse_path
from mailflow.smtp.reply import Reply

SENDER_OK = Reply(250, "1.0", "Sender OK")
RECIPIENT_OK = Reply(250, "1.5", "Recipient OK")
TOO_MANY_RECIPIENTS = Reply(452, "5.3", "Too many recipients; send to the rest in another transaction")
_FOLDED = frozenset({Found.MAILBOX, Found.ALIAS})  # whose local parts are equal in any case
AUTH_REQUIRED = Reply(530, "7.0", "Authentication required")


def mail(session: Session, argument: str) -> Answer:
    listener = session.listener
    if not session.helo:
        raise Refused(Reply(503, "5.1", "Send EHLO first"))
    if session.transaction is not None:
        raise Refused(Reply(503, "5.1", "Nested MAIL command"))
    if session.port.needs_account and session.account is None:
        raise Refused(AUTH_REQUIRED, "nobody sends on this port without AUTH", rule="auth_required")
    _stay_out_if_stopping(session)
    if not listener.is_enabled:
        session.cut_off(SWITCHED_OFF, "disabled", "reception is switched off in the configuration", stage="sender")
    envelope = read_envelope(
        parse_path(argument, "FROM", null_allowed=True),
        extended=session.extended,
        auth_offered=auth_offered(session),
        is_encrypted=bool(session.tls),
        max_octets=listener.max_message_octets,
    )
    if envelope.deliver_by is not None:
        envelope.deliver_by = replace(envelope.deliver_by, asked_at=timezone.now())
    verdict = WITHIN if session.is_exempt else listener.gate.message(session, envelope.reverse_path_text)
    if session.account is not None:
        return _mail_by_account(session, session.account, envelope, verdict)
    if not isinstance(verdict, LimitVerdict):
        return _mail_later(session, envelope, verdict)
    return _begin(session, envelope, verdict, check_sender(envelope.reverse_path, authenticated_as="", may_use=False))


async def _mail_later(session: Session, envelope: Envelope, verdict: Awaitable[LimitVerdict]) -> Reply:
    decision = check_sender(envelope.reverse_path, authenticated_as="", may_use=False)
    return _begin(session, envelope, await verdict, decision)


async def _mail_by_account(
    session: Session, account: Account, envelope: Envelope, verdict: LimitVerdict | Awaitable[LimitVerdict]
) -> Reply:
    if not isinstance(verdict, LimitVerdict):
        verdict = await verdict
    standing = await session.listener.directory.standing(account, envelope.reverse_path)
    if standing is Standing.OFF:
        decision = _account_is_off(account)
    else:
        decision = check_sender(
            envelope.reverse_path, authenticated_as=account.username, may_use=standing is Standing.OWNS
        )
    return _begin(session, envelope, verdict, decision)


def _stay_out_if_stopping(session: Session) -> None:
    """Begin no transaction while the listener stops, however the command came (RFC 5321 §3.8); raises `Closed`."""
    if session.listener.is_stopping:
        session.cut_off(SHUTTING_DOWN, "shutting_down", "the listener is shutting down", stage="sender")


def _begin(session: Session, envelope: Envelope, verdict: LimitVerdict, decision: Decision) -> Reply:
    _stay_out_if_stopping(session)  # it may have been waited for
    if decision.stops:
        raise Declined(decision, sender=envelope.reverse_path_text)
    if verdict.exceeded:
        reply = Reply(450, "7.1", f"Too many messages, try again in {verdict.retry_after_seconds} s")
        limit = Decision("sender", verdict.rule, Verdict.DEFER, f"over the limit: {verdict.words}", reply=reply)
        raise Declined(limit, sender=envelope.reverse_path_text)
    session.transaction = Transaction(envelope, [*session.greeting_notes, decision])
    return SENDER_OK


def _account_is_off(account: Account) -> Decision:
    reply = Reply(550, "7.1", f"The account {account.username} is switched off")
    reason = f"{account.username} or its organization was switched off after it had authenticated"
    return Decision("sender", "account_off", Verdict.REJECT, reason, account.username, reply)


def rcpt(session: Session, argument: str) -> Answer:
    transaction = session.transaction
    if transaction is None:
        raise Refused(Reply(503, "5.1", "Send MAIL first"))
    if transaction.has_failed:
        raise Refused(CHUNK_FAILED)
    if transaction.intake is not None:
        raise Refused(Reply(503, "5.1", "The content has begun: no recipients after BDAT"))
    listener, envelope = session.listener, transaction.envelope
    parsed = parse_path(argument, "TO", null_allowed=False, bare_postmaster_domain=listener.postmaster_domain)
    if parsed.address is None:
        raise Refused(SYNTAX)
    address = _of_the_house(session, parsed.address)
    recipient = read_recipient(address, parsed, extended=session.extended, is_smtputf8=envelope.is_smtputf8)
    if recipient.address in transaction.resolutions:
        return _futile(session, RECIPIENT_OK)  # taken already, with the parameters of then
    if len(envelope.recipients) >= listener.max_recipients:
        if not transaction.is_full:  # one event tells it for all that follow
            transaction.is_full = True
            reason = f"{listener.max_recipients} recipients are taken, the limit of a transaction"
            session.note_refusal("too_many_recipients", TOO_MANY_RECIPIENTS, reason)
        return _futile(session, TOO_MANY_RECIPIENTS)
    resolution = listener.directory.resolve(recipient.address)
    if isinstance(resolution, Resolution):
        return _take_recipient(session, transaction, recipient, resolution)
    return _take_recipient_later(session, transaction, recipient, resolution)


def _of_the_house(session: Session, address: Address) -> Address:
    """Take a literal of the address that the client connected to for this host's name (RFC 1123 §5.2.17)."""
    if not address.domain.startswith("["):
        return address
    own = {f"[IPv6:{one}]" if ":" in one else f"[{one}]" for one in session.own_addresses}
    return replace(address, domain=session.listener.postmaster_domain) if address.domain in own else address


async def _take_recipient_later(
    session: Session, transaction: Transaction, recipient: Recipient, resolution: Awaitable[Resolution]
) -> Reply:
    return _take_recipient(session, transaction, recipient, await resolution)


def _take_recipient(session: Session, transaction: Transaction, recipient: Recipient, resolution: Resolution) -> Reply:
    envelope = transaction.envelope
    decision = check_recipient(
        recipient.address,
        resolution,
        may_relay=_may_relay(session),
        auth_possible=session.listener.auth_enabled,
        declared_octets=envelope.declared_octets,
        is_smtputf8=envelope.is_smtputf8,
    )
    if decision.stops:
        raise Declined(
            decision,
            sender=envelope.reverse_path_text,
            recipient=str(recipient.address),
            organization_id=resolution.organization_id,
        )
    if resolution.found in _FOLDED:
        folded = fold_address(str(recipient.address))
        if folded in transaction.folded:
            return _futile(session, RECIPIENT_OK)  # the same mailbox in other letters
        transaction.folded.add(folded)
    transaction.decisions.append(decision)
    transaction.resolutions[recipient.address] = resolution
    envelope.recipients.append(recipient)
    return decision.reply or RECIPIENT_OK


def _futile(session: Session, reply: Reply) -> Reply:
    """Answer a RCPT that changes nothing; a client that sends too long a list must not be cut off for that."""
    too_much = session.conduct.futile_recipient(session.listener.max_recipients)
    if too_much:
        session.say(reply)
        session.cut_off_for(too_much)
    return reply


def _may_relay(session: Session) -> str:
    if session.account is not None:
        return f"authenticated as {session.account.username}"
    if session.is_trusted:
        return f"{session.client_address} is in SMTP_TRUSTED_NETWORKS"
    return ""
