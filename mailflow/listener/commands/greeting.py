"""HELO, EHLO, STARTTLS and the commands that are no step towards a message (RFC 5321 §4.1, RFC 3207)."""

from __future__ import annotations

import ssl
from functools import lru_cache

from mailflow.errors import Refused
from mailflow.listener.auth import CRAM_MD5, PASSWORD_MECHANISMS
from mailflow.listener.connection import Answer, Closed
from mailflow.listener.session import BYE, REQUIRETLS, SIZE, Session
from mailflow.listener.transaction import Declined
from mailflow.policy.decision import Verdict
from mailflow.policy.greeting import check_greeting
from mailflow.smtp.reply import Reply

OK = Reply(250, "0.0", "OK")
_check_greeting = lru_cache(maxsize=1024)(check_greeting)  # the same clients come again and again
_BEGINS_ADDRESS = frozenset("[0123456789abcdefABCDEF:")  # to ask for our own address is a system call


def helo(session: Session, argument: str) -> Answer:
    _greet(session, "HELO", argument, extended=False)
    return session.idle(Reply(250, "", session.hostname))


def ehlo(session: Session, argument: str) -> Answer:
    _greet(session, "EHLO", argument, extended=True)
    session.say_octets(f"250-{session.hostname} greets {session.helo}\r\n".encode("ascii") + _keywords(session))
    session.flush()
    return session.idle(None)


def _greet(session: Session, verb: str, argument: str, *, extended: bool) -> None:
    decision = _check_greeting(
        verb,
        argument,
        hostname=session.hostname,
        own_addresses=session.own_addresses if argument[:1] in _BEGINS_ADDRESS else (),
        is_local=session.is_exempt or session.is_trusted,
    )
    if decision.stops:
        raise Declined(decision)
    session.helo = decision.saw
    session.extended = extended
    session.greeting_notes = [decision] if decision.verdict is Verdict.NOTE else []
    session.forget_transaction()  # RFC 5321 §4.1.4: as RSET does


def _keywords(session: Session) -> bytes:
    """Return the lines that announce what this session may use."""
    limit = session.listener.max_message_octets
    return _keyword_lines(
        session.port.keywords, limit, starttls_offered(session), mechanisms(session), bool(session.tls)
    )


@lru_cache(maxsize=64)
def _keyword_lines(
    keywords: tuple[str, ...], max_octets: int, starttls: bool, auth: tuple[str, ...], encrypted: bool
) -> bytes:
    words = [f"{SIZE} {max_octets}" if word == SIZE else word for word in keywords if encrypted or word != REQUIRETLS]
    if starttls:
        words.append("STARTTLS")
    if auth:
        words.append(f"AUTH {' '.join(auth)}")
    return Reply(250, "", "\n".join([*words, "HELP"])).encode()


def starttls_offered(session: Session) -> bool:
    return session.listener.tls_context is not None and not session.tls


def auth_offered(session: Session) -> bool:
    """Whether a password may be sent: over TLS, to loopback, or everywhere by setting (contract §2)."""
    listener = session.listener
    allowed = bool(session.tls) or not listener.auth_requires_tls or session.is_loopback
    return listener.auth_enabled and allowed


def mechanisms(session: Session) -> tuple[str, ...]:
    """What AUTH may be used with now. A challenge hides the secret from who reads along, so it needs no TLS."""
    challenge = (CRAM_MD5,) if session.port.has_challenge and session.listener.auth_enabled else ()
    return (*challenge, *PASSWORD_MECHANISMS) if auth_offered(session) else challenge


def starttls(session: Session, argument: str) -> Answer:
    context = session.listener.tls_context
    if context is None:
        raise Refused(Reply(502, "5.1", "STARTTLS is not offered here"))
    if session.tls:
        raise Refused(Reply(503, "5.1", "TLS is already active"))
    if argument:
        raise Refused(Reply(501, "5.4", "Syntax: STARTTLS"))
    session.say(Reply(220, "0.0", "Ready to start TLS"))
    return _start_tls(session, context)


async def _start_tls(session: Session, context: ssl.SSLContext) -> None:
    await session.start_tls(context)
    # RFC 3207 §4.2: nothing that the client told before counts.
    session.helo, session.extended, session.account = "", False, None
    session.forget_transaction()


def rset(session: Session, argument: str) -> Answer:
    if argument:
        raise Refused(Reply(501, "5.4", "Syntax: RSET"))
    session.forget_transaction()
    return session.idle(OK)


def noop(session: Session, _argument: str) -> Answer:
    return session.idle(OK)


def vrfy(session: Session, argument: str) -> Answer:
    if not argument:
        raise Refused(Reply(501, "5.4", "Syntax: VRFY address"))
    return session.idle(Reply(252, "5.0", "Cannot verify the user, but will take mail and try to deliver it"))


def expn(_session: Session, _argument: str) -> Answer:
    raise Refused(Reply(502, "5.1", "EXPN is not offered here"))


def help_(session: Session, _argument: str) -> Answer:
    offered = {b"STARTTLS": starttls_offered(session), b"AUTH": bool(mechanisms(session))}
    verbs = " ".join(
        sorted(
            verb.decode()
            for verb, command in session.port.commands.items()
            if offered.get(verb, command not in (expn, not_implemented))
        )
    )
    return session.idle(Reply(214, "0.0", f"Commands: {verbs}"))


def not_implemented(_session: Session, _argument: str) -> Answer:
    raise Refused(Reply(502, "5.1", "Command not implemented on this port"))


def quit_(session: Session, argument: str) -> Answer:
    if argument:
        raise Refused(Reply(501, "5.4", "Syntax: QUIT"))
    session.say(BYE)
    raise Closed
