"""ETRN and ATRN: a client asks for the mail that waits for its domain (RFC 1985, RFC 2645)."""

from __future__ import annotations

from typing import Any

from accounts.names import InvalidName, parse_domain
from mailflow import counters
from mailflow.errors import Refused
from mailflow.handoff import Caller, Turn, Turned
from mailflow.listener.auth import Account
from mailflow.listener.commands.mail import AUTH_REQUIRED
from mailflow.listener.connection import Answer, Closed
from mailflow.listener.session import Session
from mailflow.smtp.reply import Reply

MAX_DOMAINS = 20  # of one ATRN

REVERSED = Reply(250, "0.0", "OK now reversing the connection")
UNABLE = Reply(451, "3.0", "Unable to process the ATRN request now")


def etrn(session: Session, argument: str) -> Answer:
    """Start the queue of one domain, for those who may act for it."""
    if not session.extended:
        raise Refused(Reply(503, "5.1", "Send EHLO first"))
    if session.transaction is not None:
        raise Refused(Reply(503, "5.1", "ETRN is not allowed in a transaction"))
    if not argument or " " in argument:
        raise Refused(Reply(501, "5.4", "Syntax: ETRN domain"))
    if argument[0] in "@#":  # RFC 1985 §5.1: subdomains, and queues by name: nobody asks for these
        raise Refused(Reply(458, "5.4", "Only a domain can be asked for here"), rule="option_not_offered")
    if session.account is None and not session.is_trusted:
        raise Refused(AUTH_REQUIRED, "ETRN by nobody that we know", rule="auth_required")
    return _etrn(session, _domain(argument))


async def _etrn(session: Session, domain: str) -> Reply:
    directory = session.listener.directory
    if session.account is not None and not await directory.may_act_for(session.account, [domain]):
        reply = Reply(459, "7.1", f"Node {domain} not allowed: it is no domain of yours")
        raise Refused(reply, f"{session.account.username} holds no domain {domain}", rule="domain_not_owned")
    who = session.account.username if session.account else session.client_address
    count = await directory.start_domain(domain, f"{who} (ETRN)")
    if count == 0:
        return Reply(251, "0.0", f"OK, no messages waiting for {domain}")
    return Reply(250, "0.0", f"Queuing started for {domain}")


def atrn(session: Session, argument: str) -> Answer:
    """Turn the session around. Only where the account is known: mail goes to nobody else (RFC 2645 §5.2.1)."""
    if session.transaction is not None:
        raise Refused(Reply(503, "5.1", "ATRN is not allowed in a transaction"))
    if session.account is None:
        raise Refused(AUTH_REQUIRED, "ATRN without AUTH", rule="auth_required")
    names = argument.split(",") if argument else []
    if len(names) > MAX_DOMAINS:
        raise Refused(Reply(501, "5.4", f"At most {MAX_DOMAINS} domains"))
    return _atrn(session, [_domain(name.strip()) for name in names])


async def _atrn(session: Session, domains: list[str]) -> Reply | None:
    account, directory = session.account, session.listener.directory
    assert account is not None
    owned = await directory.may_fetch(account, domains)
    if not owned:
        reason = f"{account.username} may not fetch the mail of all the domains asked for, or holds none"
        raise Refused(Reply(450, "7.1", "ATRN request refused"), reason, rule="domain_not_owned")
    if session.listener.is_stopping:
        raise Refused(UNABLE, "the listener is shutting down", rule="turn_unable")
    turned = await directory.turn(owned, _caller(session, account))
    if turned is Turn.NO_MAIL:
        return session.idle(Reply(453, "0.0", "You have no mail"))
    if isinstance(turned, Turn):
        raise Refused(UNABLE, rule="turn_unable")
    await _reverse(session, turned)
    raise Closed


def _caller(session: Session, account: Account) -> Caller:
    peer = session.transport.get_extra_info("peername") if session.transport is not None else None
    port = int(peer[1]) if isinstance(peer, tuple) else 0
    return Caller(session.helo, session.client_address, port, account.username)


async def _reverse(session: Session, turned: Turned) -> None:
    """Be the client from here on, for as long as there is mail; no deadline but the client's own holds meanwhile."""
    transport: Any = session.transport
    session.listener.turned.add(session)
    try:
        if transport is None or transport.is_closing():
            await turned.give_back()
            return
        session.turned = turned
        if session.listener.is_stopping:
            turned.wind_down()
        session.say(REVERSED)
        session.flush()
        counters.add("smtp.turned")
        await turned.run(transport, session.turn_over_to)
    finally:
        session.listener.turned.discard(session)


def _domain(text: str) -> str:
    try:
        return parse_domain(text)
    except InvalidName as error:
        raise Refused(Reply(501, "5.4", f"Invalid domain: {error}")) from None
