"""A session with a next hop: one transaction after another (RFC 5321 §3, RFC 1870 §6, RFC 6152 §3, RFC 6531 §3.2,
RFC 3030, RFC 8689 §4.2).

What the sender asked of DSN and DELIVERBY goes along (`requests`); for AUTH= see RFC 4954 §5.

`handshake.open_session` makes sessions. One coroutine uses a session at a time; a lost line ends it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from queue.outcome import Outcome
from queue.transports.base import NextHop, Relay
from queue.transports.line import Line, LineLost
from queue.transports.options import Timeouts
from queue.transports.requests import DELIVERBY, DSN, Requests, mail_parameters, obstacle, recipient_parameters
from queue.transports.transaction import Envelope, Transaction
from queue.transports.verdicts import TRANSPORT, Verdicts

REQUIRETLS = "REQUIRETLS"
BINARY = (
    "the message is binary (BINARYMIME): it has NUL, or a CR or LF that stands alone, and the next hop does not offer"
    " CHUNKING and BINARYMIME"
)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message ready for the wire: `octets` are dot-stuffed with the final dot, `content` is it as it is.

    `is_binary`: it is not made of lines, so that BDAT alone can carry it; `octets` are empty then (RFC 3030 §3).
    `needs_smtputf8` says in words what of it is beyond ASCII; empty where SMTPUTF8 is not needed for its own sake.
    `requests`: what its sender asked for, where that is anything.
    """

    reverse_path: str
    octets: bytes | bytearray
    content: bytes
    is_declared_8bit: bool
    is_8bit: bool
    needs_smtputf8: str = ""
    requests: Requests | None = None
    is_binary: bool = False
    requires_tls: bool = False

    @property
    def size_octets(self) -> int:
        return len(self.content)


@dataclass(slots=True)
class Delivery:
    """What came of one transaction: an outcome for every recipient.

    `undecided` are those whose outcome is only that the line was lost before the content went out, or that this peer
    lacks SMTPUTF8, BINARYMIME or REQUIRETLS: another hop may take them. `answered` tells a peer that said nothing at
    all (a kept session that had died) from the rest. `is_silent`: it was waited for in vain, at whatever step.
    """

    outcomes: Mapping[str, Outcome]
    undecided: Sequence[str] = ()
    answered: bool = False
    is_silent: bool = False


class Session:
    """An open session after its handshake: greeted, encrypted and authenticated as far as that goes."""

    def __init__(
        self,
        line: Line,
        hop: NextHop,
        timeouts: Timeouts,
        *,
        extensions: Mapping[str, str],
        relay: Relay | None = None,
        authenticated: bool = False,
        tls_policy: str = "",
        is_verified: bool = False,
        transport: str = TRANSPORT,
    ) -> None:
        self.hop = hop
        self.relay = relay
        self.transactions = 0
        self.idle_since = 0.0  # the loop's time; the pool keeps it
        self.destination = ""  # the domain that it counts for
        self._line = line
        self.timeouts = timeouts
        self._extensions = extensions
        self._size_limit = int(limit) if (limit := extensions.get("SIZE", "")).isdecimal() else 0
        # RFC 4954 §5: nobody's word for who wrote it is passed on to a server that trusts ours.
        self._auth = " AUTH=<>" if authenticated else ""
        self._needs_reset = False
        announced = frozenset(keyword for keyword in (DSN, DELIVERBY) if keyword in extensions)
        self._verdicts = Verdicts(
            str(hop), relay is not None, line.tls, announced, tls_policy, is_verified, transport=transport
        )

    @property
    def is_quiet(self) -> bool:
        """Whether the session can carry another transaction, as far as can be seen from here."""
        return self._line.is_quiet

    async def deliver(self, message: Outgoing, recipients: Sequence[str]) -> Delivery:
        """Carry out one transaction; raises nothing but CancelledError, which costs the session."""
        self.transactions += 1
        refusal = self._refusal(message)
        if refusal is not None:
            return Delivery(dict.fromkeys(recipients, refusal), answered=True)
        unfit = self._unfit(message)
        if unfit is not None:
            return Delivery(dict.fromkeys(recipients, unfit), undecided=recipients, answered=True)
        beyond = self._beyond_ascii(message, recipients)
        if not beyond:
            return await self._transact(message, recipients)
        others = [recipient for recipient in recipients if recipient not in beyond]
        if not others:
            return Delivery(beyond, undecided=list(beyond), answered=True)
        delivery = await self._transact(message, others)
        return Delivery(
            {**beyond, **delivery.outcomes}, [*beyond, *delivery.undecided], delivery.answered, delivery.is_silent
        )

    async def _transact(self, message: Outgoing, recipients: Sequence[str]) -> Delivery:
        envelope = self._envelope(message, recipients)
        pipelining = "PIPELINING" in self._extensions
        transaction = Transaction(self._line, self._verdicts, self.timeouts, pipelining=pipelining)
        # In lockstep a chunk spares the wait for 354; in a pipeline it would gain nothing.
        by_chunk = message.is_binary or ("CHUNKING" in self._extensions and not pipelining)
        undecided: Sequence[str] = ()
        is_silent = False
        try:
            await transaction.run(envelope, message.content if by_chunk else message.octets, by_chunk=by_chunk)
        except LineLost as error:
            self._line.abort()
            unknown = [recipient for recipient in recipients if recipient not in transaction.outcomes]
            transaction.outcomes |= dict.fromkeys(unknown, self._verdicts.lost(str(error), error.reply))
            undecided = () if transaction.content_sent else unknown
            is_silent = error.is_silent
        except BaseException:
            self._line.abort()
            raise
        self._needs_reset = transaction.needs_reset
        return Delivery(transaction.outcomes, undecided, answered=transaction.answered, is_silent=is_silent)

    async def quit(self) -> None:
        """End the session politely, but not at length."""
        try:
            self._line.send(b"QUIT\r\n")
            await self._line.reply("QUIT", self.timeouts.quit)
        except LineLost:
            pass  # it is over either way
        finally:
            self._line.abort()

    def abort(self) -> None:
        self._line.abort()

    def _envelope(self, message: Outgoing, recipients: Sequence[str]) -> Envelope:
        is_utf8 = bool(message.needs_smtputf8) or not all(map(str.isascii, recipients))
        reset = "RSET\r\n" if self._needs_reset else ""
        mail_from = self._mail_from(message, is_utf8=is_utf8)
        if message.requests is None:
            return Envelope(reset, f"{mail_from}\r\n", recipients)
        now = dt.datetime.now(dt.UTC)
        asked = mail_parameters(message.requests, self._extensions, now)
        parameters = recipient_parameters(message.requests, recipients, self._extensions, now, is_smtputf8=is_utf8)
        return Envelope(reset, f"{mail_from}{asked}\r\n", recipients, parameters)

    def _mail_from(self, message: Outgoing, *, is_utf8: bool) -> str:
        """Declare what the message is, SMTPUTF8 only where something needs it (RFC 6531 §3.4)."""
        is_8bit = message.is_declared_8bit or (is_utf8 and message.is_8bit)
        size = f" SIZE={message.size_octets}" if "SIZE" in self._extensions else ""
        body = " BODY=8BITMIME" if is_8bit and "8BITMIME" in self._extensions else ""
        body = " BODY=BINARYMIME" if message.is_binary else body
        tls = " REQUIRETLS" if message.requires_tls and self._takes_requiretls else ""
        return f"MAIL FROM:<{message.reverse_path}>{size}{body}{' SMTPUTF8' if is_utf8 else ''}{self._auth}{tls}"

    @property
    def _takes_requiretls(self) -> bool:
        return REQUIRETLS in self._extensions and bool(self._line.tls) and self._verdicts.is_verified

    def _unfit(self, message: Outgoing) -> Outcome | None:
        """Return what this peer lacks that another one of the domain may have."""
        if message.is_binary and not {"CHUNKING", "BINARYMIME"} <= self._extensions.keys():
            return self._verdicts.permanent("5.6.3", BINARY)
        # A report about such mail goes on without it where it must (RFC 8689 §5).
        if not message.requires_tls or not message.reverse_path or self._takes_requiretls:
            return None
        if not self._verdicts.is_verified:
            words = "the sender requires verified TLS (REQUIRETLS), and the next hop did not prove who it is"
            return self._verdicts.permanent("5.7.10", words)
        words = "the sender requires TLS all the way (REQUIRETLS), and the next hop does not offer to see to it"
        return self._verdicts.permanent("5.7.30", words)

    def _beyond_ascii(self, message: Outgoing, recipients: Sequence[str]) -> dict[str, Outcome]:
        """Return the outcome of those for whom this peer would need SMTPUTF8 and lacks it (RFC 6531 §3.2, §3.5)."""
        if "SMTPUTF8" in self._extensions:
            return {}
        beyond = recipients if message.needs_smtputf8 else [one for one in recipients if not one.isascii()]
        what = message.needs_smtputf8 or "the recipient's address"
        words = f"{what} holds characters beyond ASCII, which need SMTPUTF8, and the next hop does not offer it"
        return dict.fromkeys(beyond, self._verdicts.permanent("5.6.7", words)) if beyond else {}

    def _refusal(self, message: Outgoing) -> Outcome | None:
        """Return why this peer cannot have this message, as its EHLO answer tells."""
        if self._size_limit and message.size_octets > self._size_limit:
            return self._verdicts.permanent(
                "5.3.4", f"the message has {message.size_octets} octets, the next hop takes {self._size_limit}"
            )
        if (
            message.is_declared_8bit
            and message.is_8bit
            and not message.is_binary
            and "8BITMIME" not in self._extensions
        ):
            return self._verdicts.permanent("5.6.3", "the message needs 8BITMIME, which the next hop does not offer")
        if message.requests is not None:
            found = obstacle(message.requests, self._extensions, dt.datetime.now(dt.UTC))
            if found is not None:
                return self._verdicts.permanent(found.enhanced_code, found.words)
        return None
