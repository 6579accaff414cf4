"""AUTH: who may, the exchange, and what a failure costs (RFC 4954, RFC 2645 §5.1.2, contract §2)."""

from __future__ import annotations

from mailflow import counters
from mailflow.errors import Refused
from mailflow.events import NewEvent
from mailflow.limits.rules import Verdict
from mailflow.listener.auth import PASSWORD_MECHANISMS, Account, ChallengeResponse, Credentials, Exchange, Given
from mailflow.listener.commands.greeting import mechanisms
from mailflow.listener.connection import Answer
from mailflow.listener.session import Session
from mailflow.models import Event
from mailflow.smtp.reply import Reply
from mailflow.spool import group

MAX_FAILURES = 3  # of one session

SUCCESSFUL = Reply(235, "7.0", "Authentication successful")
INVALID = Reply(535, "7.8", "Authentication credentials invalid")
TOO_MANY_FAILURES = Reply(421, "7.0", "Too many failed authentications, closing the connection")


def auth(session: Session, argument: str) -> Answer:
    """Begin an exchange, or go on with the one under way, for which `argument` is the client's line."""
    exchange = session.exchange
    if exchange is None:
        _may_begin(session, argument)
        exchange = Exchange(mechanisms(session), session.hostname)
        result = exchange.begin(argument)
    else:
        session.exchange = None
        result = exchange.go_on(argument.encode())
    if isinstance(result, Credentials | ChallengeResponse):
        return _verify(session, result)
    session.exchange = exchange
    return result


def _may_begin(session: Session, argument: str) -> None:
    if session.account is not None:
        raise Refused(Reply(503, "5.1", "Already authenticated"))
    if not session.helo or session.transaction is not None:
        raise Refused(Reply(503, "5.1", "Bad sequence of commands: AUTH comes after EHLO and before MAIL"))
    offered = mechanisms(session)
    wants_password = argument.partition(" ")[0].upper() in PASSWORD_MECHANISMS
    if offered and not (wants_password and PASSWORD_MECHANISMS[0] not in offered):
        return
    if session.listener.auth_enabled:
        reply = Reply(538, "7.11", "Encryption is required for authentication; use STARTTLS first")
        raise Refused(reply, rule="encryption_required")
    raise Refused(Reply(502, "5.1", "AUTH is not offered here"))


async def _verify(session: Session, given: Given) -> Reply:
    counters.add("smtp.auth.attempts")
    if session.is_exempt:
        account = await session.listener.directory.verify(given)
    else:
        account = await _verify_in_turn(session, given)
    if account is None:
        return _failed(session, given.username)
    counters.add("smtp.auth.successful")
    session.account = account
    return SUCCESSFUL


async def _verify_in_turn(session: Session, given: Given) -> Account | None:
    """Check a password after its client's others: at once, all of them would come before the first was counted."""
    gate, client, username = session.listener.gate, session.client_address, given.username
    async with gate.auth_turn(client):
        _stay_within(session, await gate.auth_may_be_tried(client, username))
        account = await session.listener.directory.verify(given)
        if account is None:
            await gate.auth_failed(client, username)
        return account


def _stay_within(session: Session, verdict: Verdict) -> None:
    """No password is looked at beyond the limit: a right one would tell as much as a wrong one."""
    if verdict.exceeded:
        counters.add("smtp.auth.failed")
        reply = Reply(421, "7.0", "Too many failed authentications, try again later")
        session.cut_off(reply, verdict.rule, f"over the limit: {verdict.words}", stage="auth")


def _failed(session: Session, username: str) -> Reply:
    counters.add("smtp.auth.failed")
    session.auth_failures += 1
    group.current().note(
        NewEvent(
            kind=Event.Kind.AUTH_FAILED.value,
            summary=f"Authentication as {username or '(nobody)'} failed: unknown, disabled, or a wrong password.",
            stage="auth",
            rule="credentials",
            reply=str(INVALID),
            client_address=session.client_address,
            actor=username,
            trace_id=session.trace_id,
        )
    )
    if session.auth_failures >= MAX_FAILURES:
        session.say(INVALID)
        words = f"{MAX_FAILURES} failed authentications in one session"
        session.cut_off(TOO_MANY_FAILURES, "conduct", words, stage="auth")
    return INVALID
