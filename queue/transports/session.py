"""A session with a next hop: one transaction after another (RFC 5321 §3, RFC 1870 §6, RFC 6152 §3, RFC 6531 §3.2).

What the sender asked of DSN and DELIVERBY goes along (`requests`); for AUTH= see RFC 4954 §5.

`handshake.open_session` makes sessions. One coroutine uses a session at a time; a lost line ends it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from queue.outcome import Outcome
from queue.transports.base import NextHop
from queue.transports.line import Line, LineLost
from queue.transports.options import Timeouts
from queue.transports.requests import DELIVERBY, DSN, Requests, mail_parameters, obstacle, recipient_parameters
from queue.transports.transaction import Envelope, Transaction
from queue.transports.verdicts import Verdicts


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message ready for the wire: `octets` are dot-stuffed with the final dot, `size_octets` counts neither.

    `needs_smtputf8` says in words what of it is beyond ASCII; empty where SMTPUTF8 is not needed for its own sake.
    `requests`: what its sender asked for, where that is anything.
    """

    reverse_path: str
    octets: bytes
    size_octets: int
    is_declared_8bit: bool
    is_8bit: bool
    needs_smtputf8: str = ""
    requests: Requests | None = None


@dataclass(slots=True)
class Delivery:
    """What came of one transaction: an outcome for every recipient.

    `undecided` are those whose outcome is only that the line was lost before the content went out, or that this peer
    lacks SMTPUTF8: another hop may take them. `answered` tells a peer that said nothing at all (a kept session that had
    died) from the rest.
    """

    outcomes: Mapping[str, Outcome]
    undecided: Sequence[str] = ()
    answered: bool = False


class Session:
    """An open session after its handshake: greeted, encrypted and authenticated as far as that goes."""

    def __init__(
        self,
        line: Line,
        hop: NextHop,
        timeouts: Timeouts,
        *,
        extensions: Mapping[str, str],
        smarthost: bool,
        authenticated: bool = False,
    ) -> None:
        self.hop = hop
        self.smarthost = smarthost
        self.transactions = 0
        self.idle_since = 0.0  # the loop's time; the pool keeps it
        self._line = line
        self.timeouts = timeouts
        self._extensions = extensions
        self._size_limit = int(limit) if (limit := extensions.get("SIZE", "")).isdecimal() else 0
        # RFC 4954 §5: nobody's word for who wrote it is passed on to a server that trusts ours.
        self._auth = " AUTH=<>" if authenticated else ""
        self._needs_reset = False
        announced = frozenset(keyword for keyword in (DSN, DELIVERBY) if keyword in extensions)
        self._verdicts = Verdicts(str(hop), smarthost, line.tls, announced)

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
        beyond = self._beyond_ascii(message, recipients)
        if not beyond:
            return await self._transact(message, recipients)
        others = [recipient for recipient in recipients if recipient not in beyond]
        if not others:
            return Delivery(beyond, undecided=list(beyond), answered=True)
        delivery = await self._transact(message, others)
        return Delivery({**beyond, **delivery.outcomes}, [*beyond, *delivery.undecided], delivery.answered)

    async def _transact(self, message: Outgoing, recipients: Sequence[str]) -> Delivery:
        envelope = self._envelope(message, recipients)
        pipelining = "PIPELINING" in self._extensions
        transaction = Transaction(self._line, self._verdicts, self.timeouts, pipelining=pipelining)
        undecided: Sequence[str] = ()
        try:
            await transaction.run(envelope, message.octets)
        except LineLost as error:
            self._line.abort()
            unknown = [recipient for recipient in recipients if recipient not in transaction.outcomes]
            transaction.outcomes |= dict.fromkeys(unknown, self._verdicts.lost(str(error), error.reply))
            undecided = () if transaction.content_sent else unknown
        except BaseException:
            self._line.abort()
            raise
        self._needs_reset = transaction.needs_reset
        return Delivery(transaction.outcomes, undecided, answered=transaction.answered)

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
        return f"MAIL FROM:<{message.reverse_path}>{size}{body}{' SMTPUTF8' if is_utf8 else ''}{self._auth}"

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
        if message.is_declared_8bit and message.is_8bit and "8BITMIME" not in self._extensions:
            return self._verdicts.permanent("5.6.3", "the message needs 8BITMIME, which the next hop does not offer")
        if message.requests is not None:
            found = obstacle(message.requests, self._extensions, dt.datetime.now(dt.UTC))
            if found is not None:
                return self._verdicts.permanent(found.enhanced_code, found.words)
        return None
