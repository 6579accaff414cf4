"""The dialogue: every SMTP command and its replies (RFC 5321 §4.1, RFC 4954, RFC 3207, contract §2)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import ClassVar

import structlog

from accounts.names import Address
from mailflow import counters, receiver
from mailflow.errors import Refused, Unavailable
from mailflow.events import NewEvent
from mailflow.listener.auth import Account, AnsweredAlready, read_credentials
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
from mailflow.models import Event, Message
from mailflow.policy.decision import Decision
from mailflow.policy.recipient import check_recipient
from mailflow.policy.sender import check_sender
from mailflow.smtp.envelope import Envelope, Recipient
from mailflow.smtp.paths import SYNTAX, PathArgument, decode_xtext, parse_path
from mailflow.smtp.reply import Reply
from mailflow.spool import group
from mailflow.spool.accepted import Origin

logger = structlog.get_logger(__name__)

MAX_BAD_COMMANDS = 10
MAX_IDLE_COMMANDS = 100  # NOOP, RSET, VRFY, HELP in a row, without a transaction between them
MAX_AUTH_FAILURES = 3

_HTTP_REQUEST = re.compile(rb"[A-Z]{3,8} \S+ HTTP/\d")
_HELO_NAME = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}\Z")
_NOTIFY = {"NEVER", "SUCCESS", "FAILURE", "DELAY"}

OK = Reply(250, "0.0", "OK")
BAD_SEQUENCE = Reply(503, "5.1", "Bad sequence of commands")
Command = Callable[["SmtpSession", str], Awaitable[None]]


@dataclass(slots=True)
class Transaction:
    """One mail transaction, from MAIL to the end of data (RFC 5321 §3.3)."""

    envelope: Envelope
    decisions: list[Decision] = field(default_factory=list)


class SmtpSession(SmtpConnection):
    """The dialogue of one connection. Each command answers exactly once, whatever came before."""

    commands: ClassVar[dict[bytes, Command]]

    helo = ""
    extended = False
    account: Account | None = None
    transaction: Transaction | None = None
    _bad_commands = 0
    _idle_commands = 0
    _auth_failures = 0

    async def converse(self) -> None:
        await self.say(Reply(220, "", f"{self.hostname} ESMTP mailproj"))
        while True:
            line = await self.read_line()
            self.busy = True
            if line is None:
                await self._count_bad()
            else:
                await self._obey(line)
            self.busy = False
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
            await self._count_bad()
            return
        try:
            argument = rest.decode("ascii").strip()
        except UnicodeDecodeError:
            await self.say(Reply(501, "5.2", "Only ASCII is understood here"))
            await self._count_bad()
            return
        try:
            await command(self, argument)
        except Refused as refusal:
            await self.say(refusal.reply)
        except Unavailable as trouble:
            logger.error("smtp.unavailable", cause=trouble.cause)
            await self.say(trouble.reply)
        except (Closed, ConnectionError):
            raise
        except Exception:
            logger.exception("smtp.command_failed", command=verb.decode("ascii", "replace"))
            await self.say(INTERNAL_ERROR)

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
        await self._count_bad()

    async def _count_bad(self) -> None:
        self._bad_commands += 1
        if self._bad_commands >= MAX_BAD_COMMANDS:
            reply = Reply(421, "7.0", "Too many bad commands, closing the connection")
            self._note_refusal("connection", reply, f"{MAX_BAD_COMMANDS} commands were not understood")
            await self.say(reply)
            raise Closed

    async def _count_idle(self) -> None:
        self._idle_commands += 1
        if self._idle_commands > MAX_IDLE_COMMANDS:
            reply = Reply(421, "7.0", "Too many commands without mail, closing the connection")
            self._note_refusal("connection", reply, f"{MAX_IDLE_COMMANDS} commands that send no mail")
            await self.say(reply)
            raise Closed

    # --- greeting -----------------------------------------------------------------------------------------------------

    async def do_helo(self, argument: str) -> None:
        self._greet("HELO", argument, extended=False)
        await self.say(Reply(250, "", self.hostname))

    async def do_ehlo(self, argument: str) -> None:
        self._greet("EHLO", argument, extended=True)
        lines = [f"{self.hostname} greets {self.helo}", "PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES"]
        lines.append(f"SIZE {self.listener.max_message_octets}")
        if self.listener.tls_context is not None and not self.tls:
            lines.append("STARTTLS")
        if self.auth_offered:
            lines.append("AUTH PLAIN LOGIN")
        lines.append("HELP")
        await self.say(Reply(250, "", "\n".join(lines)))

    def _greet(self, verb: str, argument: str, *, extended: bool) -> None:
        name = argument.partition(" ")[0]
        if not name:
            raise Refused(Reply(501, "5.4", f"Syntax: {verb} hostname"))
        if not _HELO_NAME.match(name):
            raise Refused(Reply(501, "5.2", "The host name holds a character that host names may not have"))
        self.helo = name
        self.extended = extended
        self.transaction = None

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
            await self._count_bad()
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
        parsed = parse_path(argument, "FROM", null_allowed=True)
        envelope = self._envelope(parsed)
        may_use = self.account is None or await self.listener.may_send_as(self.account, envelope.reverse_path)
        decision = check_sender(
            envelope.reverse_path,
            authenticated_as=self.account.username if self.account else "",
            may_use=may_use,
        )
        if decision.stops:
            self._refuse(decision, sender=envelope.reverse_path_text)
        self._idle_commands = 0
        self.transaction = Transaction(envelope, [decision])
        await self.say(Reply(250, "1.0", "Sender OK"))

    def _envelope(self, parsed: PathArgument) -> Envelope:
        """Read the parameters of MAIL (RFC 1870, RFC 6152, RFC 4954 §5, RFC 3461 §4.3, §4.4)."""
        envelope = Envelope(parsed.address)
        if parsed.parameters and not self.extended:
            raise Refused(Reply(555, "5.4", "Parameters need EHLO"))
        for name, value in parsed.parameters.items():
            match name:
                case "SIZE":
                    envelope.declared_octets = self._declared_octets(value)
                case "BODY":
                    envelope.body_type = _one_of(value, "BODY", ("7BIT", "8BITMIME"))
                case "AUTH" if self.auth_offered:
                    decode_xtext(value)  # taken and not trusted: nobody's word but AUTH's own counts
                case "RET":
                    envelope.dsn_return = _one_of(value, "RET", ("FULL", "HDRS"))
                case "ENVID":
                    envelope.envelope_id = decode_xtext(value)
                    if not value or len(value) > 100:
                        raise Refused(Reply(501, "5.4", "ENVID has 1 to 100 characters"))
                case _:
                    raise Refused(Reply(555, "5.4", f"Parameter {name} of MAIL is not recognized"))
        return envelope

    def _declared_octets(self, value: str) -> int:
        if not value.isdigit() or len(value) > 20:
            raise Refused(Reply(501, "5.4", "SIZE is a number of octets"))
        limit = self.listener.max_message_octets
        if int(value) > limit:
            raise Refused(Reply(552, "3.4", f"Message is larger than the {limit} octets that are taken here"))
        return int(value)

    async def do_rcpt(self, argument: str) -> None:
        transaction = self.transaction
        if transaction is None:
            raise Refused(Reply(503, "5.1", "Send MAIL first"))
        parsed = parse_path(argument, "TO", null_allowed=False, bare_postmaster_domain=self.listener.postmaster_domain)
        if parsed.address is None:
            raise Refused(SYNTAX)
        recipient = self._recipient(parsed.address, parsed)
        envelope = transaction.envelope
        if len(envelope.recipients) >= self.listener.max_recipients:
            raise Refused(Reply(452, "5.3", "Too many recipients; send to the rest in another transaction"))
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
        if recipient not in envelope.recipients[-1:]:
            envelope.recipients.append(recipient)
        await self.say(Reply(250, "1.5", "Recipient OK"))

    def _recipient(self, address: Address, parsed: PathArgument) -> Recipient:
        """Read the parameters of RCPT: DSN's are kept for the delivery (RFC 3461 §4.1, §4.2)."""
        if parsed.parameters and not self.extended:
            raise Refused(Reply(555, "5.4", "Parameters need EHLO"))
        notify = original = ""
        for name, value in parsed.parameters.items():
            if name == "NOTIFY":
                words = value.upper().split(",")
                if not set(words) <= _NOTIFY or ("NEVER" in words and len(words) > 1):
                    raise Refused(Reply(501, "5.4", "NOTIFY is NEVER, or a list of SUCCESS, FAILURE and DELAY"))
                notify = ",".join(words)
            elif name == "ORCPT":
                kind, semicolon, rest = value.partition(";")
                if not (kind and semicolon and rest) or len(value) > 500:
                    raise Refused(Reply(501, "5.4", "ORCPT is a type, a semicolon and an address in xtext"))
                original = f"{kind};{decode_xtext(rest)}"
            else:
                raise Refused(Reply(555, "5.4", f"Parameter {name} of RCPT is not recognized"))
        return Recipient(address, notify, original)

    def _may_relay(self) -> str:
        if self.account is not None:
            return f"authenticated as {self.account.username}"
        if self.listener.is_trusted(self.client_address):
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
        await self.say(Reply(354, "", "End data with <CR><LF>.<CR><LF>"))
        started_at = self.loop.time()
        collector = await self.read_data(self.listener.max_message_octets)
        self.transaction = None
        if collector.over_limit:
            limit = self.listener.max_message_octets
            reply = Reply(552, "3.4", f"Message is larger than the {limit} octets that are taken here")
            self._note_refusal(
                "content", reply, f"{collector.octets} octets, the limit is {limit}", transaction.envelope
            )
            raise Refused(reply)
        try:
            receipt = await receiver.accept(self._submission(transaction, collector.content()))
        except Refused as refusal:
            self._note_refusal("content", refusal.reply, refusal.reason, transaction.envelope)
            raise
        counters.add("smtp.messages.accepted")
        counters.observe("message_octets", collector.octets)
        counters.observe("processing_ms", (self.loop.time() - started_at) * 1000)
        logger.info("smtp.accepted", message_id=receipt.message_id, client_address=self.client_address)
        await self.say(Reply(250, "0.0", f"OK queued as {receipt.message_id}"))

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
        await self._count_idle()

    async def do_noop(self, _argument: str) -> None:
        await self.say(OK)
        await self._count_idle()

    async def do_vrfy(self, argument: str) -> None:
        if not argument:
            raise Refused(Reply(501, "5.4", "Syntax: VRFY address"))
        await self.say(Reply(252, "5.0", "Cannot verify the user, but will take mail and try to deliver it"))
        await self._count_idle()

    async def do_help(self, _argument: str) -> None:
        verbs = " ".join(sorted(verb.decode() for verb in self.commands))
        await self.say(Reply(214, "0.0", f"Commands: {verbs}"))
        await self._count_idle()

    async def do_expn(self, _argument: str) -> None:
        raise Refused(Reply(502, "5.1", "EXPN is not offered here"))

    async def do_quit(self, argument: str) -> None:
        if argument:
            raise Refused(Reply(501, "5.4", "Syntax: QUIT"))
        await self.say(Reply(221, "0.0", "Bye"))
        raise Closed

    # --- refusals -----------------------------------------------------------------------------------------------------

    def _refuse(self, decision: Decision, *, sender: str, recipient: str = "") -> None:
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


def _one_of(value: str, name: str, allowed: tuple[str, ...]) -> str:
    if value.upper() not in allowed:
        raise Refused(Reply(501, "5.4", f"{name} is {' or '.join(allowed)}"))
    return value.upper()


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
