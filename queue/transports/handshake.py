"""From an address to a session: greeting, EHLO, STARTTLS, AUTH (RFC 5321 §3.1, RFC 3207, RFC 4954, RFC 7435).

What TLS must be like is the hop's `TlsDemand`: here it is obeyed, with certificates checked by OpenSSL or, where TLSA
records name them, by `queue.dane`.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import ipaddress
import ssl

from queue import dane
from queue.outcome import Outcome
from queue.transports.base import NextHop, Relay, Route
from queue.transports.line import Line, LineLost
from queue.transports.noting import (
    MAX_REASON,
    NO_STARTTLS,
    TLSA_INVALID,
    VALIDATION_FAILURE,
    Note,
    SessionResult,
    policy_type,
    result_of,
)
from queue.transports.options import SmtpOptions
from queue.transports.replies import PeerReply
from queue.transports.session import Session
from queue.transports.tls import Check, TlsDemand, chosen
from queue.transports.verdicts import TRANSPORT, Verdicts

MAX_COMMAND_OCTETS = 512  # RFC 5321 §4.5.3.1.4


class SessionFailed(Exception):
    """No session with this hop; `outcome` says why, for every recipient: failed only where the hop refused for good.

    `is_silent`: it was waited for in vain.
    """

    def __init__(self, outcome: Outcome, *, is_silent: bool = False) -> None:
        super().__init__(outcome.reply)
        self.outcome = outcome
        self.is_silent = is_silent


class TlsFailed(SessionFailed):
    """TLS is not what it must be. `is_open`: no handshake was begun, so that the line can be closed in peace."""

    def __init__(self, outcome: Outcome, *, is_open: bool = False, is_silent: bool = False) -> None:
        super().__init__(outcome, is_silent=is_silent)
        self.is_open = is_open


_RULES = {
    "mta-sts": " (the domain's MTA-STS policy)",
    "dane": " (the host's TLSA records)",
    "requiretls": " (the sender's REQUIRETLS)",
    "dane-unusable": " (the host has TLSA records)",
}


async def open_session(hop: NextHop, route: Route, options: SmtpOptions, note: Note) -> Session:
    """Open a session, or raise `SessionFailed`. Where weaker TLS will do, or none, a failure is followed by a new
    connection that asks for that; what came of the first is noted."""
    demand = hop.tls or chosen(options.default_tls)
    handshake = _Handshake(hop, options, demand, route.relay)
    while True:
        try:
            session = await handshake.run()
        except TlsFailed:
            _note(note, route, handshake)
            weaker = handshake.demand.weaker
            if weaker is None or handshake.has_secret:
                raise
            note = _nothing  # one session, one result: that of what was asked for first
            handshake = _Handshake(hop, options, weaker, route.relay)
        else:
            _note(note, route, handshake)
            return session


def _note(note: Note, route: Route, handshake: _Handshake) -> None:
    """Tell how it went by the domain's policy; what our own operator chose, and mail by a relay, is nobody's figure."""
    kind = policy_type(handshake.demand)
    if route.policy_domain and kind:
        note(
            SessionResult(
                policy_domain=route.policy_domain,
                policy_type=kind,
                mx_host=handshake.hop.host,
                receiving_address=handshake.hop.address,
                sending_address=handshake.sending_address,
                result=handshake.result or (TLSA_INVALID if handshake.demand.rule == "dane-unusable" else ""),
                reason=handshake.reason[:MAX_REASON],
                policy=tuple(map(str, handshake.demand.tlsa)),
            )
        )


def _nothing(_result: SessionResult) -> None:
    pass


async def greet_turned(line: Line, hop: NextHop, options: SmtpOptions, *, transport: str) -> Session:
    """Be the client on a line that the peer opened and then turned around (RFC 2645 §5.3); raises `SessionFailed`.

    No STARTTLS: the peer chose how the line is protected, and there is no other to go on with should it fail.
    """
    return await _Handshake(hop, options, _AS_IT_IS, None, transport=transport).on(line)


_AS_IT_IS = TlsDemand("turned", is_clear=True)  # the word stands with the attempt


class _Handshake:
    """One try; its steps in order are `_steps`. `result` and `reason` say what of TLS failed (RFC 8460 §4.3)."""

    def __init__(
        self,
        hop: NextHop,
        options: SmtpOptions,
        demand: TlsDemand,
        relay: Relay | None,
        *,
        transport: str = TRANSPORT,
    ) -> None:
        self.hop = hop
        self.demand = demand
        self.result = ""
        self.reason = ""
        self.sending_address = ""
        self._options = options
        self._relay = relay
        self._transport = transport
        self._verdicts = Verdicts(str(hop), relay is not None, tls_policy=demand.rule, transport=transport)
        self._extensions: dict[str, str] = {}
        # RFC 4954 §14: the password goes to nobody who may listen or pretend to be the smarthost.
        self._must_authenticate = relay is not None and bool(relay.username)
        self.has_secret = self._must_authenticate and not _is_loopback(hop.address)

    async def run(self) -> Session:
        try:
            line = await self._options.connect(self.hop.address, self.hop.port, self._options.timeouts.connect)
        except TimeoutError:
            words = "no connection: the host did not answer in time"
            raise SessionFailed(self._verdicts.temporary("4.4.1", words), is_silent=True) from None
        except OSError as error:
            raise self._temporary("4.4.1", f"no connection: {error.strerror or type(error).__name__}") from None
        self.sending_address = line.local_address
        return await self.on(line)

    async def on(self, line: Line) -> Session:
        """Take the steps on a line that is there."""
        self._verdicts = dataclasses.replace(self._verdicts, tls=line.tls)
        try:
            await self._steps(line)
        except LineLost as error:
            line.abort()
            outcome = self._verdicts.lost(str(error), error.reply)
            raise SessionFailed(outcome, is_silent=error.is_silent) from None
        except SessionFailed as error:
            if isinstance(error, TlsFailed) and not error.is_open:
                line.abort()
            else:
                await self._take_leave(line)
            raise
        except BaseException:
            line.abort()
            raise
        return Session(
            line,
            self.hop,
            self._options.timeouts,
            extensions=self._extensions,
            relay=self._relay,
            authenticated=self._must_authenticate,
            tls_policy=self.demand.rule,
            is_verified=self._verdicts.is_verified,
            transport=self._transport,
        )

    async def _steps(self, line: Line) -> None:
        if self.demand.fault:
            raise self._tls_failed("4.7.5", self.demand.fault, is_open=True)
        if self.demand.is_implicit:
            await self._encrypt(line)
        greeting = await line.reply("the greeting", self._options.timeouts.greeting)
        if not greeting.is_positive:
            raise self._refused(greeting)
        await self._hello(line)
        if not self.demand.is_implicit and await self._may_encrypt(line):
            await self._encrypt(line)
            await self._hello(line)  # what was announced in clear is forgotten (RFC 3207 §4.2)
        if self._relay is not None and self._must_authenticate:
            await self._authenticate(line, self._relay)

    async def _ask(self, line: Line, command: str, step: str = "") -> PeerReply:
        line.send(f"{command}\r\n".encode())
        return await line.reply(step or command.partition(" ")[0], self._options.timeouts.command)

    async def _hello(self, line: Line) -> None:
        reply = await self._ask(line, f"EHLO {self._options.own_name}")
        if reply.is_positive:
            self._extensions = _extensions(reply)
            return
        if reply.is_permanent:
            reply = await self._ask(line, f"HELO {self._options.own_name}")
            self._extensions = {}
        if not reply.is_positive:
            raise self._refused(reply)

    async def _may_encrypt(self, line: Line) -> bool:
        """Ask for TLS where it is wanted; False is to go on in clear, which needs no new connection."""
        if self.demand.is_clear:
            return False
        trouble = "the next hop does not offer STARTTLS"
        if "STARTTLS" in self._extensions:
            reply = await self._ask(line, "STARTTLS")
            if reply.code == 220:
                return True
            trouble = f"the next hop refused STARTTLS: {reply.code} {reply.text}"
        self.result, self.reason = NO_STARTTLS, trouble
        if self.demand.may_weaken:
            return False
        raise self._tls_failed("4.7.4", f"{trouble}, which is required{self._by_rule()}", is_open=True)

    async def _encrypt(self, line: Line) -> None:
        """Shake hands, and see to it that the peer is who it must be."""
        options = self._options
        is_checked = self.demand.check is Check.PKIX or self.has_secret
        context = options.verified_tls if is_checked else options.unverified_tls
        name = self.demand.names[0] if self.demand.names else self.hop.host
        is_silent = False
        try:
            await line.start_tls(context, name, options.timeouts.tls)
            if self.demand.check is Check.DANE:
                dane.check(line.certificates(), self.demand.tlsa, self.demand.names, dt.datetime.now(dt.UTC))
        except ssl.SSLCertVerificationError as error:
            self.result, self.reason = result_of(error), error.verify_message
            trouble = f"the certificate was not accepted: {error.verify_message}"
        except dane.DaneMismatch as error:
            self.result, self.reason = error.result, str(error)
            trouble = f"the certificate was not accepted: {error}"
        except ssl.SSLError as error:
            trouble = f"the TLS handshake failed: {error.reason or 'the peer ended it'}"
        except TimeoutError:
            trouble, is_silent = "the TLS handshake took too long", True
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot be a TLS server name
            trouble = f"the TLS handshake failed: {type(error).__name__}"
        else:
            is_verified = is_checked or self.demand.check is Check.DANE
            self._verdicts = dataclasses.replace(self._verdicts, tls=line.tls, is_verified=is_verified)
            return
        if self.has_secret:
            trouble += "; the smarthost's password goes over TLS only, with a certificate that is valid for its name"
        raise self._tls_failed("4.7.5", trouble + self._by_rule(), is_silent=is_silent)

    def _by_rule(self) -> str:
        return _RULES.get(self.demand.rule, "")

    def _tls_failed(
        self, enhanced_code: str, trouble: str, *, is_open: bool = False, is_silent: bool = False
    ) -> TlsFailed:
        self.result = self.result or VALIDATION_FAILURE
        self.reason = self.reason or trouble
        return TlsFailed(self._verdicts.temporary(enhanced_code, trouble), is_open=is_open, is_silent=is_silent)

    async def _authenticate(self, line: Line, relay: Relay) -> None:
        """Log in at the smarthost. Whatever goes wrong is the operator's to put right, so the mail waits."""
        if self.has_secret and not line.tls:
            trouble = "TLS is switched off for it" if self.demand.is_clear else "it offers no TLS"
            raise self._temporary("4.7.11", f"{relay.label}: {trouble}, and its password never goes in clear")
        offered = self._extensions.get("AUTH", "").split()
        if "PLAIN" in offered:
            reply = await self._authenticate_plain(line, relay)
        elif "LOGIN" in offered:
            reply = await self._authenticate_login(line, relay)
        else:
            raise self._temporary("4.7.0", f"{relay.label} has a user name, and offers no AUTH PLAIN or LOGIN")
        if reply.code == 334:  # it wants to go on where these mechanisms end (RFC 4954 §4)
            reply = await self._ask(line, "*", "AUTH")
        if reply.code != 235:
            raise self._temporary("4.7.8", f"{relay.label} refused our user name: {reply.code} {reply.text}")

    async def _authenticate_plain(self, line: Line, relay: Relay) -> PeerReply:
        response = _base64(f"\0{relay.username}\0{relay.password}")
        command = f"AUTH PLAIN {response}"
        if len(command) + 2 <= MAX_COMMAND_OCTETS:
            reply = await self._ask(line, command)
        else:
            reply = await self._ask(line, "AUTH PLAIN")
        return await self._ask(line, response, "AUTH") if reply.code == 334 else reply

    async def _authenticate_login(self, line: Line, relay: Relay) -> PeerReply:
        reply = await self._ask(line, "AUTH LOGIN")
        for answer in (relay.username, relay.password):
            if reply.code != 334:
                break
            reply = await self._ask(line, _base64(answer), "AUTH")
        return reply

    async def _take_leave(self, line: Line) -> None:
        """End what is no session: a line that still works is closed after QUIT only (RFC 5321 §4.1.1.10)."""
        try:
            line.send(b"QUIT\r\n")
            await line.reply("QUIT", self._options.timeouts.quit)
        except LineLost:
            pass  # what went wrong before is the answer that counts
        finally:
            line.abort()

    def _refused(self, reply: PeerReply) -> SessionFailed:
        return SessionFailed(self._verdicts.of(reply))

    def _temporary(self, enhanced_code: str, reason: str) -> SessionFailed:
        return SessionFailed(self._verdicts.temporary(enhanced_code, reason))


def _extensions(reply: PeerReply) -> dict[str, str]:
    """Read EHLO's answer: keyword to parameters, in upper case. `AUTH=LOGIN` is an old way to write `AUTH LOGIN`."""
    found: dict[str, str] = {}
    for line in reply.lines[1:]:
        keyword, _, parameters = line.upper().replace("AUTH=", "AUTH ", 1).partition(" ")
        found[keyword] = f"{found.get(keyword, '')} {parameters}".strip()
    return found


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")
