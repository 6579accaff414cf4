"""The dialogue: every SMTP command and its replies (RFC 5321 §4.1, RFC 4954, RFC 3207, contract §2)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NoReturn

import structlog

from accounts.names import Address
from mailflow import counters, receiver
from mailflow.errors import Refused, Unavailable
from mailflow.events import NewEvent
from mailflow.listener.auth import Account, AnsweredAlready, Standing, read_credentials
from mailflow.listener.connection import (
    INTERNAL_ERROR,
    LINE_TOO_LONG,
    MAX_AUTH_OCTETS,
    MAX_COMMAND_OCTETS,
    MAX_EXTENDED_COMMAND_OCTETS,
    SHUTTING_DOWN,
    Closed,
    SmtpConnection,
)
from mailflow.listener.limits import Conduct
from mailflow.listener.parameters import read_envelope, read_recipient
from mailflow.models import Event, Message
from mailflow.policy.decision import Decision, Verdict
from mailflow.policy.recipient import check_recipient
from mailflow.policy.sender import check_sender
from mailflow.smtp.data import DataCollector
from mailflow.smtp.envelope import Envelope
from mailflow.smtp.paths import SYNTAX, parse_path
from mailflow.smtp.reply import Reply
from mailflow.spool import group
from mailflow.spool.accepted import Origin

if TYPE_CHECKING:
    from mailflow.listener.server import Listener

logger = structlog.get_logger(__name__)

MAX_AUTH_FAILURES = 3
LARGE_OCTETS = 1 << 20  # what would hold the event loop for too long

_HTTP_REQUEST = re.compile(rb"[A-Z]{3,8} \S+ HTTP/\d")
_HELO_NAME = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}\Z")

_DECIDED = (552, 553)

OK = Reply(250, "0.0", "OK")
BAD_SEQUENCE = Reply(503, "5.1", "Bad sequence of commands")
SENDER_OK = Reply(250, "1.0", "Sender OK")
RECIPIENT_OK = Reply(250, "1.5", "Recipient OK")
START_DATA = Reply(354, "", "End data with <CR><LF>.<CR><LF>")
TOO_MANY_RECIPIENTS = Reply(452, "5.3", "Too many recipients; send to the rest in another transaction")
MEMORY_FULL = Reply(452, "3.1", "Too much mail is coming in just now, try again later")
Command = Callable[["SmtpSession", str], Awaitable[None]]


@dataclass(slots=True)
class Transaction:
    """One mail transaction, from MAIL to the end of data (RFC 5321 §3.3)."""

    envelope: Envelope
    decisions: list[Decision] = field(default_factory=list)
    addresses: set[Address] = field(default_factory=set)  # of its recipients
    is_full: bool = False  # a recipient over the limit was refused


class SmtpSession(SmtpConnection):
    """The dialogue of one connection. Each command answers exactly once, whatever came before."""

    commands: ClassVar[dict[bytes, Command]]

    helo = ""
    extended = False
    account: Account | None = None
    transaction: Transaction | None = None
    _auth_failures = 0

    def __init__(self, listener: Listener, *, implicit_tls: bool) -> None:
        super().__init__(listener, implicit_tls=implicit_tls)
        self._conduct = Conduct()

    async def converse(self) -> None:
        await self.say(Reply(220, "", f"{self.hostname} ESMTP mailproj"))
        while True:
            line = await self.read_line()
            if line is None:
                await self._judge(self._conduct.bad())
            else:
                await self._obey(line)
            if self.listener.is_stopping:
                await self.say(SHUTTING_DOWN)
                raise Closed

    async def _obey(self, line: bytes) -> None:
        verb, _, rest = line.partition(b" ")
        verb = verb.upper()
        command = self.commands.get(verb)
        if command is None:
            await self._unknown(line)
            return
        if len(line) + 2 > self._longest(verb):
            await self.say(LINE_TOO_LONG)
            await self._judge(self._conduct.bad())
            return
        try:
            argument = rest.decode("ascii").strip()
        except UnicodeDecodeError:
            await self.say(Reply(501, "5.2", "Only ASCII is understood here"))
            await self._judge(self._conduct.bad())
            return
        try:
            await command(self, argument)
        except Refused as refusal:
            await self._say_no(refusal.reply)
        except Unavailable as trouble:
            logger.error("smtp.unavailable", cause=trouble.cause)
            await self._say_no(trouble.reply)
        except (Closed, ConnectionError):
            raise
        except Exception:
            logger.exception("smtp.command_failed", command=verb.decode("ascii", "replace"))
            await self._say_no(INTERNAL_ERROR)

    def _longest(self, verb: bytes) -> int:
        if verb == b"AUTH":
            return MAX_AUTH_OCTETS
        return MAX_EXTENDED_COMMAND_OCTETS if verb in (b"MAIL", b"RCPT") else MAX_COMMAND_OCTETS

    async def _unknown(self, line: bytes) -> None:
        if _HTTP_REQUEST.match(line):
            self._note_refusal(
                "connection", Reply(421, "7.0", "This is an SMTP port"), "an HTTP request on the SMTP port"
            )
            await self.say(Reply(421, "7.0", "This is an SMTP port"))
            raise Closed
        await self.say(Reply(500, "5.1", "Command not recognized"))
        await self._judge(self._conduct.bad())

    async def _say_no(self, reply: Reply) -> None:
        await self.say(reply)
        await self._judge(self._conduct.refused())

    async def _judge(self, too_much: str) -> None:
        """Cut the session off where `Conduct` found a reason."""
        if not too_much:
            return
        reply = Reply(421, "7.0", f"{too_much}, closing the connection")
        self._note_refusal("connection", reply, too_much)
        await self.say(reply)
        raise Closed

    # --- greeting -----------------------------------------------------------------------------------------------------

    async def do_helo(self, argument: str) -> None:
        self._greet("HELO", argument, extended=False)
        await self.say(Reply(250, "", self.hostname))
        await self._judge(self._conduct.idle())

    async def do_ehlo(self, argument: str) -> None:
        self._greet("EHLO", argument, extended=True)
        lines = [f"{self.hostname} greets {self.helo}", "PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES"]
        lines.append(f"SIZE {self.listener.max_message_octets}")
        if self.starttls_offered:
            lines.append("STARTTLS")
        if self.auth_offered:
            lines.append("AUTH PLAIN LOGIN")
        lines.append("HELP")
        await self.say(Reply(250, "", "\n".join(lines)))
        await self._judge(self._conduct.idle())

    def _greet(self, verb: str, argument: str, *, extended: bool) -> None:
        name = argument.partition(" ")[0]
        if not name:
            raise Refused(Reply(501, "5.4", f"Syntax: {verb} hostname"))
        if not _HELO_NAME.match(name):
            raise Refused(Reply(501, "5.2", "The host name holds a character that host names may not have"))
        self.helo = name
        self.extended = extended
        self.transaction = None

    @property
    def starttls_offered(self) -> bool:
        return self.listener.tls_context is not None and not self.tls

    async def do_starttls(self, argument: str) -> None:
        context = self.listener.tls_context
        if context is None:
            raise Refused(Reply(502, "5.1", "STARTTLS is not offered here"))
        if self.tls:
            raise Refused(Reply(503, "5.1", "TLS is already active"))
        if argument:
            raise Refused(Reply(501, "5.4", "Syntax: STARTTLS"))
        await self.say(Reply(220, "0.0", "Ready to start TLS"))
        await self.start_tls(context)
        # RFC 3207 §4.2: nothing that the client told before counts.
        self.helo, self.extended, self.account, self.transaction = "", False, None, None

    # --- AUTH ---------------------------------------------------------------------------------------------------------

    @property
    def auth_offered(self) -> bool:
        listener = self.listener
        allowed = bool(self.tls) or not listener.auth_requires_tls or listener.is_loopback(self.client_address)
        return listener.auth_enabled and allowed

    async def do_auth(self, argument: str) -> None:
        if not self.helo or self.transaction is not None or self.account is not None:
            raise Refused(BAD_SEQUENCE if self.account is None else Reply(503, "5.1", "Already authenticated"))
        if not self.auth_offered:
            if self.listener.auth_enabled:
                raise Refused(Reply(538, "7.11", "Encryption is required for authentication; use STARTTLS first"))
            raise Refused(Reply(502, "5.1", "AUTH is not offered here"))
        try:
            username, password = await read_credentials(self, argument)
        except AnsweredAlready:
            await self._judge(self._conduct.bad())
            return
        counters.add("smtp.auth.attempts")
        account = await self.listener.verify(username, password)
        if account is None:
            await self._auth_failed(username)
            return
        counters.add("smtp.auth.successful")
        self.account = account
        await self.say(Reply(235, "7.0", "Authentication successful"))

    async def _auth_failed(self, username: str) -> None:
        counters.add("smtp.auth.failed")
        reply = Reply(535, "7.8", "Authentication credentials invalid")
        self._auth_failures += 1
        group.current().note(
            NewEvent(
                kind=Event.Kind.AUTH_FAILED.value,
                summary=f"Authentication as {username or '(nobody)'} failed: unknown, disabled, or a wrong password.",
                reply=str(reply),
                client_address=self.client_address,
                actor=username,
                trace_id=self.trace_id,
            )
        )
        await self.say(reply)
        if self._auth_failures >= MAX_AUTH_FAILURES:
            await self.say(Reply(421, "7.0", "Too many failed authentications, closing the connection"))
            raise Closed

    # --- the transaction ----------------------------------------------------------------------------------------------

    async def do_mail(self, argument: str) -> None:
        if not self.helo:
            raise Refused(Reply(503, "5.1", "Send EHLO first"))
        if self.transaction is not None:
            raise Refused(Reply(503, "5.1", "Nested MAIL command"))
        listener, account = self.listener, self.account
        try:
            envelope = read_envelope(
                parse_path(argument, "FROM", null_allowed=True),
                extended=self.extended,
                auth_offered=self.auth_offered,
                max_octets=listener.max_message_octets,
            )
        except Refused as refusal:
            self._note_if_decided("sender", refusal)
            raise
        standing = Standing.OWNS if account is None else await listener.standing(account, envelope.reverse_path)
        if account is not None and standing is Standing.OFF:
            decision = _account_is_off(account)
        else:
            decision = check_sender(
                envelope.reverse_path,
                authenticated_as=account.username if account else "",
                may_use=standing is Standing.OWNS,
            )
        if decision.stops:
            self._refuse(decision, sender=envelope.reverse_path_text)
        self.transaction = Transaction(envelope, [decision])
        await self.say(SENDER_OK)

    async def do_rcpt(self, argument: str) -> None:
        transaction = self.transaction
        if transaction is None:
            raise Refused(Reply(503, "5.1", "Send MAIL first"))
        try:
            parsed = parse_path(
                argument, "TO", null_allowed=False, bare_postmaster_domain=self.listener.postmaster_domain
            )
        except Refused as refusal:
            self._note_if_decided("recipient", refusal)
            raise
        if parsed.address is None:
            raise Refused(SYNTAX)
        recipient = read_recipient(parsed.address, parsed, extended=self.extended)
        envelope = transaction.envelope
        if recipient.address in transaction.addresses:
            await self._say_futile(RECIPIENT_OK)  # taken already, with the parameters of then
            return
        if len(envelope.recipients) >= self.listener.max_recipients:
            if not transaction.is_full:  # one event tells it for all that follow
                transaction.is_full = True
                reason = f"{self.listener.max_recipients} recipients are taken, the limit of a transaction"
                self._note_refusal("recipient", TOO_MANY_RECIPIENTS, reason, envelope)
            await self._say_futile(TOO_MANY_RECIPIENTS)
            return
        resolution = await self.listener.resolve(recipient.address)
        decision = check_recipient(
            recipient.address,
            resolution,
            may_relay=self._may_relay(),
            auth_possible=self.listener.auth_enabled,
            declared_octets=envelope.declared_octets,
        )
        if decision.stops:
            self._refuse(decision, sender=envelope.reverse_path_text, recipient=str(recipient.address))
        transaction.decisions.append(decision)
        transaction.addresses.add(recipient.address)
        envelope.recipients.append(recipient)
        await self.say(RECIPIENT_OK)

    async def _say_futile(self, reply: Reply) -> None:
        """Answer a RCPT that changes nothing; a client that sends too long a list must not be cut off for that."""
        await self.say(reply)
        await self._judge(self._conduct.futile_recipient(self.listener.max_recipients))

    def _may_relay(self) -> str:
        if self.account is not None:
            return f"authenticated as {self.account.username}"
        if self.is_trusted:
            return f"{self.client_address} is in SMTP_TRUSTED_NETWORKS"
        return ""

    async def do_data(self, argument: str) -> None:
        transaction = self.transaction
        if argument:
            raise Refused(Reply(501, "5.4", "Syntax: DATA"))
        if transaction is None:
            raise Refused(Reply(503, "5.1", "Send MAIL first"))
        if not transaction.envelope.recipients:
            raise Refused(Reply(554 if self.extended else 503, "5.1", "No valid recipients"))
        if self.listener.collecting.is_spent:
            self._refuse_content(transaction, MEMORY_FULL, "no memory is left for one more message")
        await self.say(START_DATA)
        started_at = self.loop.time()
        collector = await self.read_data(self.listener.max_message_octets)
        octets = collector.octets
        self.transaction = None
        try:
            message_id = await self._accept(transaction, collector)
        finally:
            collector.release()
        self._conduct.message_accepted()
        counters.add("smtp.messages.accepted")
        counters.observe("message_octets", octets)
        counters.observe("processing_ms", (self.loop.time() - started_at) * 1000)
        logger.info("smtp.accepted", message_id=message_id, client_address=self.client_address)
        await self.say(Reply(250, "0.0", f"OK queued as {message_id}"))

    async def _accept(self, transaction: Transaction, collector: DataCollector) -> str:
        """Return the id under which the message is stored; raises `Refused` or `Unavailable`."""
        octets = collector.octets
        if collector.over_limit:
            limit = self.listener.max_message_octets
            reply = Reply(552, "3.4", f"Message is larger than the {limit} octets that are taken here")
            self._refuse_content(transaction, reply, f"{octets} octets, the limit is {limit}")
        if collector.is_starved:
            self._refuse_content(transaction, MEMORY_FULL, "too many messages were being received at once")
        content = await asyncio.to_thread(collector.content) if octets > LARGE_OCTETS else collector.content()
        try:
            receipt = await receiver.accept(self._submission(transaction, content))
        except Refused as refusal:
            self._note_refusal("content", refusal.reply, refusal.reason, transaction.envelope)
            raise
        return receipt.message_id

    def _submission(self, transaction: Transaction, content: bytes) -> receiver.Submission:
        account = self.account
        protocol = "ESMTP" if self.extended else "SMTP"
        if self.extended:  # RFC 3848
            protocol += ("S" if self.tls else "") + ("A" if account else "")
        return receiver.Submission(
            source=Message.Source.SUBMISSION.value if account else Message.Source.RECEPTION.value,
            envelope=transaction.envelope,
            origin=Origin(
                protocol=protocol,
                trace_id=self.trace_id,
                client_address=self.client_address,
                helo=self.helo,
                tls=self.tls,
                actor=account.username if account else "",
                user_id=account.user_id if account else None,
                organization_id=account.organization_id if account else None,
            ),
            content=content,
            decisions=transaction.decisions,
        )

    # --- the rest -----------------------------------------------------------------------------------------------------

    async def do_rset(self, argument: str) -> None:
        if argument:
            raise Refused(Reply(501, "5.4", "Syntax: RSET"))
        self.transaction = None
        await self.say(OK)
        await self._judge(self._conduct.idle())

    async def do_noop(self, _argument: str) -> None:
        await self.say(OK)
        await self._judge(self._conduct.idle())

    async def do_vrfy(self, argument: str) -> None:
        if not argument:
            raise Refused(Reply(501, "5.4", "Syntax: VRFY address"))
        await self.say(Reply(252, "5.0", "Cannot verify the user, but will take mail and try to deliver it"))
        await self._judge(self._conduct.idle())

    async def do_help(self, _argument: str) -> None:
        offered = {b"STARTTLS": self.starttls_offered, b"AUTH": self.auth_offered, b"EXPN": False}
        verbs = " ".join(sorted(verb.decode() for verb in self.commands if offered.get(verb, True)))
        await self.say(Reply(214, "0.0", f"Commands: {verbs}"))
        await self._judge(self._conduct.idle())

    async def do_expn(self, _argument: str) -> None:
        raise Refused(Reply(502, "5.1", "EXPN is not offered here"))

    async def do_quit(self, argument: str) -> None:
        if argument:
            raise Refused(Reply(501, "5.4", "Syntax: QUIT"))
        await self.say(Reply(221, "0.0", "Bye"))
        raise Closed

    # --- refusals -----------------------------------------------------------------------------------------------------

    def _refuse(self, decision: Decision, *, sender: str, recipient: str = "") -> NoReturn:
        """Leave the event of a refusal and raise it."""
        reply = decision.reply or INTERNAL_ERROR
        counters.add("smtp.refused")
        group.current().note(
            NewEvent(
                kind=Event.Kind.REFUSED.value,
                summary=f"Refused at {decision.stage}: {decision.reason} (from <{sender}>).",
                recipient=recipient,
                reply=str(reply),
                decisions=[decision],
                client_address=self.client_address,
                actor=self.account.username if self.account else "",
                trace_id=self.trace_id,
            )
        )
        raise Refused(reply, decision.reason)

    def _refuse_content(self, transaction: Transaction, reply: Reply, reason: str) -> NoReturn:
        self._note_refusal("content", reply, reason, transaction.envelope)
        raise Refused(reply, reason)

    def _note_if_decided(self, stage: str, refusal: Refused) -> None:
        """Leave the event of a refusal that is a decision (too large, no valid address) and no slip of syntax."""
        if refusal.reply.code in _DECIDED:
            self._note_refusal(stage, refusal.reply, refusal.reason)

    def _note_refusal(self, stage: str, reply: Reply, reason: str, envelope: Envelope | None = None) -> None:
        counters.add("smtp.refused")
        sender = f" (from <{envelope.reverse_path_text}>)" if envelope else ""
        recipients = ", ".join(str(recipient.address) for recipient in envelope.recipients[:5]) if envelope else ""
        group.current().note(
            NewEvent(
                kind=Event.Kind.REFUSED.value,
                summary=f"Refused at {stage}: {reason}{sender}.",
                recipient=recipients[:320],
                reply=str(reply),
                client_address=self.client_address,
                actor=self.account.username if self.account else "",
                trace_id=self.trace_id,
            )
        )


def _account_is_off(account: Account) -> Decision:
    reply = Reply(550, "7.1", f"The account {account.username} is switched off")
    reason = f"{account.username} or its organization was switched off after it had authenticated"
    return Decision("sender", "account_off", Verdict.REJECT, reason, account.username, reply)


SmtpSession.commands = {
    b"HELO": SmtpSession.do_helo,
    b"EHLO": SmtpSession.do_ehlo,
    b"STARTTLS": SmtpSession.do_starttls,
    b"AUTH": SmtpSession.do_auth,
    b"MAIL": SmtpSession.do_mail,
    b"RCPT": SmtpSession.do_rcpt,
    b"DATA": SmtpSession.do_data,
    b"RSET": SmtpSession.do_rset,
    b"NOOP": SmtpSession.do_noop,
    b"VRFY": SmtpSession.do_vrfy,
    b"EXPN": SmtpSession.do_expn,
    b"HELP": SmtpSession.do_help,
    b"QUIT": SmtpSession.do_quit,
}
