"""The dialogue of one connection: which command a line is, and how a refusal is told, counted and kept.

The commands themselves are in `commands/`, the tables that say which port has which in `ports.py`.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn

import structlog

from mailflow import counters
from mailflow.errors import Refused, Unavailable
from mailflow.handoff import Turned
from mailflow.limits.rules import Verdict as LimitVerdict
from mailflow.listener import refusal_events
from mailflow.listener.auth import Account, Exchange
from mailflow.listener.conduct import Conduct
from mailflow.listener.connection import (
    LINE_TOO_LONG,
    MAX_AUTH_OCTETS,
    SHUTTING_DOWN,
    Answer,
    Closed,
    SmtpConnection,
    plain_address,
)
from mailflow.listener.transaction import INTERNAL_ERROR, Declined, Transaction
from mailflow.policy.decision import Decision
from mailflow.smtp.reply import Reply
from mailflow.spool import group

if TYPE_CHECKING:
    from mailflow.listener.server import Listener

logger = structlog.get_logger(__name__)

MAX_COMMAND_OCTETS = 512  # RFC 5321 §4.5.3.1.4, with CRLF; extensions add to MAIL and RCPT
MAX_EXTENDED_COMMAND_OCTETS = 2048
CROWDED_IDLE_SECONDS = 10.0  # of silence between commands, while the listener is nearly full
QUIT_SECONDS = 10.0  # for a client that was told 521

NOT_RECOGNIZED = Reply(500, "5.1", "Command not recognized")
ONLY_ASCII = Reply(501, "5.2", "Only ASCII is understood here")
NOT_UTF8 = Reply(501, "5.2", "Not valid UTF-8")
NO_MAIL_BEGUN = Reply(421, "4.2", "Too long without a message, closing the connection")
MAKE_ROOM = Reply(421, "3.2", "Too many connections to wait for this one, try again later")
TOO_SLOW = Reply(421, "4.2", "Timeout, closing the connection")
AUTH_TOO_LONG = Reply(500, "5.6", "Authentication exchange line is too long")
NOT_AN_SMTP_CLIENT = Reply(421, "7.0", "This is an SMTP port")
NO_MAIL_HERE = Reply(521, "3.2", "This host does not accept mail")
SWITCHED_OFF = Reply(421, "3.2", "The service takes no mail just now, try again later")
BYE = Reply(221, "0.0", "Bye")

_HTTP_REQUEST = re.compile(rb"[A-Z]{3,8} \S+ HTTP/\d")
_TLS_HELLO = b"\x16\x03"
_GROUPED = frozenset((b"MAIL", b"RCPT", b"RSET", b"BDAT"))  # their replies may wait for others (RFC 2920 §3.2)
_TAKES_UTF8 = frozenset((b"MAIL", b"RCPT", b"VRFY", b"EXPN"))  # RFC 6531 §3.4, §3.7.4
_LONGEST = {b"AUTH": MAX_AUTH_OCTETS, b"MAIL": MAX_EXTENDED_COMMAND_OCTETS, b"RCPT": MAX_EXTENDED_COMMAND_OCTETS}
# Where a refusal is a decision about somebody's mail, and so leaves an event.
_STAGES = {
    b"HELO": "greeting", b"EHLO": "greeting", b"AUTH": "auth", b"MAIL": "sender", b"RCPT": "recipient",
    b"DATA": "content", b"BDAT": "content", b"ETRN": "turn", b"ATRN": "turn", b"STARTTLS": "connection",
}  # fmt: skip

SIZE = "SIZE"  # among a port's keywords; it is announced with its limit
REQUIRETLS = "REQUIRETLS"  # announced within TLS alone

Command = Callable[["Session", str], Answer]


@dataclass(frozen=True, slots=True)
class Port:
    """What one kind of port offers. `needs_account`: nobody sends mail here without AUTH (RFC 6409 §4.3).

    `has_challenge`: hosts of domains log in here, with CRAM-MD5 (RFC 2645 §5.1.2).
    """

    commands: Mapping[bytes, Command]
    keywords: tuple[str, ...] = ()  # announced besides those that depend on the session
    implicit_tls: bool = False
    needs_account: bool = False
    has_challenge: bool = False


class Session(SmtpConnection):
    """The dialogue of one connection. Each command answers exactly once, whatever came before."""

    def __init__(self, listener: Listener, port: Port) -> None:
        super().__init__(listener, implicit_tls=port.implicit_tls)
        self.port = port
        self.helo = ""
        self.extended = False
        self.greeting_notes: Sequence[Decision] = ()  # they go with each message
        self.account: Account | None = None
        self.transaction: Transaction | None = None
        self.exchange: Exchange | None = None  # an AUTH under way
        self.turned: Turned | None = None  # mail that is given over this session, once it was turned around
        self.conduct = Conduct()
        self.auth_failures = 0
        self.begin_by = math.inf  # until then content must begin; of the loop's clock
        self.commands_in_hand = 0  # that the limits have granted already
        self._stage = "connection"
        self._verb = b""  # of the command under way
        self._argument = b""  # of the same

    # --- the beginning ------------------------------------------------------------------------------------------------

    def greet(self) -> Answer:
        """Greet at once, or as soon as the limits have answered."""
        listener = self.listener
        self.begin_by = self.loop.time() + listener.envelope_timeout
        if not listener.accepts_mail:
            counters.add("smtp.connections.rejected")
            self.note_refusal("no_mail", NO_MAIL_HERE, "SMTP_ACCEPTS_MAIL is off: this host takes no mail at all")
            self.port = replace(self.port, commands=_TURNED_AWAY)
            self.set_timeout(min(QUIT_SECONDS, listener.timeout))
            return NO_MAIL_HERE
        verdict = listener.count_connection(self)
        if not isinstance(verdict, LimitVerdict):
            return self._greet_later(verdict)
        self._greet_within(verdict)
        return None

    async def _greet_later(self, verdict: Awaitable[LimitVerdict]) -> None:
        self._greet_within(await verdict)

    def _greet_within(self, verdict: LimitVerdict) -> None:
        if verdict.exceeded:
            counters.add("smtp.connections.rejected")
        self._stay_within(verdict)
        self.say_octets(self.listener.greeting)

    def _stay_within(self, verdict: LimitVerdict) -> None:
        """Cut the session off where a limit is exceeded; raises `Closed`."""
        if verdict.exceeded:
            reply = Reply(421, "7.0", f"Too much in too short a time, try again in {verdict.retry_after_seconds} s")
            self.cut_off(reply, verdict.rule, f"over the limit: {verdict.words}")

    @property
    def own_addresses(self) -> tuple[str, ...]:
        """The address of ours that the client connected to."""
        name = self.transport.get_extra_info("sockname") if self.transport is not None else None
        return (plain_address(str(name[0])),) if isinstance(name, tuple) else ()

    # --- a line -------------------------------------------------------------------------------------------------------

    def obey(self, line: bytes) -> Answer:
        if self.exchange is not None:
            self._stage = "auth"
            return self.port.commands[b"AUTH"](self, line.decode("ascii", "replace"))
        if self.is_exempt:
            return self._obey(line)
        if self.commands_in_hand == 0:
            gate = self.listener.gate
            verdict = gate.commands(self)
            if not isinstance(verdict, LimitVerdict):
                return self._obey_later(verdict, line)
            self._stay_within(verdict)
            self.commands_in_hand = gate.command_block
        self.commands_in_hand -= 1
        return self._obey(line)

    async def _obey_later(self, verdict: Awaitable[LimitVerdict], line: bytes) -> Reply | None:
        self._stay_within(await verdict)
        self.commands_in_hand = self.listener.gate.command_block - 1
        answer = self._obey(line)
        return answer if answer is None or isinstance(answer, Reply) else await answer

    def _obey(self, line: bytes) -> Answer:
        verb, _, rest = line.partition(b" ")
        verb = verb.upper()
        self._verb, self._argument = verb, rest
        self.is_prompt = verb not in _GROUPED
        command = self.port.commands.get(verb)
        self._stage = _STAGES.get(verb, "")
        if command is None:
            return self._unknown(line)
        if len(line) + 2 > _LONGEST.get(verb, MAX_COMMAND_OCTETS):
            reply = AUTH_TOO_LONG if verb == b"AUTH" else LINE_TOO_LONG
            raise Refused(reply, f"a line of {len(line) + 2} octets", rule="line_too_long")
        try:
            argument = rest.decode("utf-8" if verb in _TAKES_UTF8 else "ascii").strip()
        except UnicodeDecodeError:
            raise Refused(NOT_UTF8 if verb in _TAKES_UTF8 else ONLY_ASCII, rule="syntax") from None
        return command(self, argument)

    def broke_the_rules(self, reply: Reply, line: bytes) -> Answer:
        """A line that is none; an AUTH under way is over with it."""
        self._leave_if_turned_away()
        self._leave_http_alone(line)
        verb = b"AUTH" if self.exchange is not None else _verb_of(line)
        self.exchange, self.is_prompt, self._stage, self._argument = None, True, _STAGES.get(verb, ""), b""
        if verb == b"BDAT" and self.transaction is not None:
            self.transaction.fail()
        if reply is not LINE_TOO_LONG:
            self._note(Refused(reply, "a line with a bare CR or LF, or a NUL", rule="syntax"))
            return self._bad(reply)
        if verb == b"AUTH":
            reply = AUTH_TOO_LONG  # RFC 4954 §6
        self._note(Refused(reply, f"a line of more than {MAX_AUTH_OCTETS} octets", rule="line_too_long"))
        return self._bad(reply)

    def _leave_if_turned_away(self) -> None:
        """Who was told 521 may say QUIT, and nothing else (RFC 7504 §3); raises `Closed`."""
        if self.port.commands is _TURNED_AWAY:
            self.say(NO_MAIL_HERE)
            self.lingers = True
            raise Closed

    def _unknown(self, line: bytes) -> Answer:
        self._leave_if_turned_away()
        self._leave_http_alone(line)
        return self._bad(NOT_RECOGNIZED)

    def _leave_http_alone(self, line: bytes) -> None:
        """Cut an HTTP client off; raises `Closed`."""
        if _HTTP_REQUEST.match(line):
            self.cut_off(NOT_AN_SMTP_CLIENT, "http", "an HTTP request on the SMTP port")

    def _next_line(self) -> bytes | None:
        """Look for a TLS hello first: it has no lines, and may have come before the greeting did."""
        if not (self.helo or self.tls or self._is_skipping) and self._buffer.startswith(_TLS_HELLO):
            self.cut_off(NOT_AN_SMTP_CLIENT, "tls_hello", "a TLS handshake on a port that begins in clear")
        return super()._next_line()

    def _wait_for_peer(self, obeyed: int) -> None:
        if self.listener.is_stopping and self.transaction is None:
            self.say(SHUTTING_DOWN)
            raise Closed
        super()._wait_for_peer(obeyed)
        if self.transaction is not None and self.transaction.intake is not None:
            self.deadline = min(self.deadline, self.transaction.until)

    @property
    def is_in_transaction(self) -> bool:
        return self.transaction is not None

    @property
    def is_committing(self) -> bool:
        return self.transaction is not None and self.transaction.is_over

    def wind_down(self) -> None:
        """End soon: the listener stops, and no dialogue is under way but that in which we are the client."""
        if self.turned is not None:
            self.turned.wind_down()

    def octets_wanted(self) -> None:
        """The disk has caught up with this session."""
        if self.taker is not None:
            self.resume_reading()

    def has_gone(self) -> None:
        self.taker = None
        self.forget_transaction()

    def forget_transaction(self) -> None:
        """End the transaction and give back what it holds; the time that its content took is no delay."""
        transaction, self.transaction = self.transaction, None
        if transaction is None:
            return
        if transaction.began_at:
            self.begin_by += self.loop.time() - transaction.began_at
        if transaction.intake is not None:
            transaction.intake.close()

    def message_accepted(self) -> None:
        """The transaction has ended well: the session may go on for another message's time."""
        self.conduct.message_accepted()
        self.transaction = None
        self.begin_by = self.loop.time() + self.listener.envelope_timeout

    # --- refusals -----------------------------------------------------------------------------------------------------

    def decline(self, decision: Decision) -> NoReturn:
        """Raise the refusal of the message under way."""
        raise Declined(decision)

    def failed(self, error: Exception) -> Answer:
        if self._verb == b"BDAT" and self.transaction is not None:
            self.transaction.fail()
        answer = self._told(error)
        if self.transaction is not None and self.transaction.is_over:
            self.forget_transaction()  # not sooner: the event of the refusal tells its envelope
        return answer

    def _told(self, error: Exception) -> Answer:
        if isinstance(error, Refused):
            self._note(error)
            if error.reply.code == 500:
                return self._bad(error.reply)
            return self._judged(error.reply, self.conduct.refused())
        if isinstance(error, Unavailable):
            logger.error("smtp.unavailable", cause=error.cause, trace_id=self.trace_id)
            self._note_trouble(error.reply, "unavailable", error.reply.text)
            return self._judged(error.reply, self.conduct.refused())
        logger.error("smtp.command_failed", client_address=self.client_address, trace_id=self.trace_id, exc_info=error)
        self._note_trouble(INTERNAL_ERROR, "internal_error", "an error of ours, see the log under the trace id")
        return self._judged(INTERNAL_ERROR, self.conduct.refused())

    def _note_trouble(self, reply: Reply, rule: str, reason: str) -> None:
        if self._stage:
            self.note_refusal(rule, reply, reason)

    def _bad(self, reply: Reply) -> Answer:
        return self._judged(reply, self.conduct.bad())

    def _judged(self, reply: Reply, too_much: str) -> Answer:
        """Say no; cut the session off where `Conduct` found a reason, and let who errs often wait for it."""
        if too_much:
            self.say(reply)
            self.cut_off_for(too_much)
        pause = self.listener.tarpit_seconds
        if pause and not self.is_exempt and self.account is None and self.conduct.is_tiresome:
            return self._say_late(reply, pause)
        return reply

    async def _say_late(self, reply: Reply, seconds: float) -> Reply:
        await asyncio.sleep(seconds)
        return reply

    def idle(self, reply: Reply | None) -> Reply | None:
        """Return the reply to a command that is no step towards a message; raises `Closed` after too many."""
        too_much = self.conduct.idle()
        if too_much:
            if reply is not None:
                self.say(reply)
            self.cut_off_for(too_much)
        return reply

    def cut_off_for(self, too_much: str) -> NoReturn:
        self.cut_off(Reply(421, "7.0", f"{too_much}, closing the connection"), "conduct", too_much)

    def cut_off(self, reply: Reply, rule: str, reason: str, *, stage: str = "connection") -> NoReturn:
        """Say why, leave the event, end; raises `Closed`."""
        self.note_refusal(rule, reply, reason, stage)
        self.say(reply)
        self.lingers = True
        raise Closed

    def is_late(self, now: float) -> bool:
        if super().is_late(now):
            return True
        if self.is_busy or self._is_closing or self._is_amid_content:
            return False
        return self.begin_by <= now or (self.listener.is_crowded and self.waits_since + CROWDED_IDLE_SECONDS <= now)

    @property
    def _is_amid_content(self) -> bool:
        """Whether the deadlines of content hold, not those of commands."""
        transaction = self.transaction
        return self.taker is not None or (
            transaction is not None and transaction.intake is not None and not transaction.has_failed
        )

    def timed_out(self) -> None:
        now, listener = self.loop.time(), self.listener
        if self.taker is not None:
            counters.add("smtp.timeouts")
            self.note_refusal("timeout", TOO_SLOW, "the message came too slowly, or not to its end")
            super().timed_out()
        elif self._is_amid_content or self.deadline <= now < self.begin_by:
            super().timed_out()
        elif self.begin_by <= now:
            reason = f"no content began within {listener.envelope_timeout:g} s (SMTP_ENVELOPE_TIMEOUT)"
            self.note_refusal("envelope_timeout", NO_MAIL_BEGUN, reason, "connection")
            self.end(NO_MAIL_BEGUN)
        else:
            silence = f"{now - self.waits_since:.0f} s without a command"
            taken = f"{listener.connections_together} of {listener.max_connections} connections were open"
            self.note_refusal("crowded", MAKE_ROOM, f"{silence} while {taken}", "connection")
            self.end(MAKE_ROOM)

    def _note(self, refusal: Refused) -> None:
        """Leave the event of a refusal, where it is about somebody's mail."""
        if not self._stage:
            return
        rule = refusal_events.rule_of(refusal)
        if not isinstance(refusal, Declined):
            named = refusal_events.path_in(self._argument)
            sender, recipient = named if self._verb == b"MAIL" else "", named if self._verb == b"RCPT" else ""
            self.note_refusal(rule, refusal.reply, refusal.reason, sender=sender, recipient=recipient)
        elif self.transaction is not None and self.transaction.is_over:
            decision = refusal.decision
            self.note_refusal(rule, refusal.reply, refusal.reason, decision.stage, decisions=[decision])
        else:
            counters.add("smtp.refused")
            self._write_event(
                rule, refusal.reply, refusal.reason, stage=refusal.decision.stage, sender=refusal.sender,
                recipient=refusal.recipient, decisions=[refusal.decision], organization_id=refusal.organization_id,
            )  # fmt: skip

    def note_refusal(
        self, rule: str, reply: Reply, reason: str, stage: str = "", *, decisions: Sequence[Decision] = (),
        sender: str = "", recipient: str = "",
    ) -> None:  # fmt: skip
        """Leave an event about what this session asks for just now; where a message is lost, one for each recipient.

        `sender` and `recipient`: as the command that is refused names them, where no transaction does.
        """
        counters.add("smtp.refused")
        transaction, account = self.transaction, self.account
        is_amid_content = self.taker is not None
        sender = transaction.envelope.reverse_path_text if transaction else sender
        concerned = (
            [(recipient, None)] if recipient else refusal_events.concerned(transaction, account, is_amid_content)
        )
        for one, organization_id in concerned:
            self._write_event(
                rule, reply, reason, stage=stage or self._stage, sender=sender, recipient=one, decisions=decisions,
                organization_id=organization_id,
            )  # fmt: skip

    def _write_event(
        self, rule: str, reply: Reply, reason: str, *, stage: str, sender: str, recipient: str,
        decisions: Sequence[Decision], organization_id: int | None,
    ) -> None:  # fmt: skip
        event = refusal_events.event(
            rule, reply, reason, stage=stage, sender=sender, recipient=recipient, decisions=decisions,
            organization_id=organization_id, client_address=self.client_address, account=self.account,
            trace_id=self.trace_id,
        )  # fmt: skip
        group.current().note(event)


def _verb_of(line: bytes) -> bytes:
    """Return the verb that a line, whole or not, begins with."""
    words = line.split(None, 1)
    return words[0].upper() if words else b""


def _quit_turned_away(session: Session, argument: str) -> Answer:
    session.say(NO_MAIL_HERE if argument else BYE)
    raise Closed


_TURNED_AWAY: Mapping[bytes, Command] = {b"QUIT": _quit_turned_away}
