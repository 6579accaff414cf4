"""From an address to a session: greeting, EHLO, STARTTLS, AUTH (RFC 5321 §3.1, RFC 3207, RFC 4954, RFC 7435)."""

from __future__ import annotations

import base64
import dataclasses
import ipaddress
import ssl

from queue.outcome import Outcome
from queue.transports.base import NextHop
from queue.transports.line import Line, LineLost, open_line
from queue.transports.options import SmtpOptions, TlsPolicy
from queue.transports.replies import PeerReply
from queue.transports.session import Session
from queue.transports.verdicts import Verdicts

MAX_COMMAND_OCTETS = 512  # RFC 5321 §4.5.3.1.4


class SessionFailed(Exception):
    """No session with this hop; `outcome` says why, for every recipient: failed only where the hop refused for good."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.reply)
        self.outcome = outcome


class TlsFailed(SessionFailed):
    """The handshake failed, and the line with it."""


async def open_session(hop: NextHop, options: SmtpOptions, *, smarthost: bool) -> Session:
    """Open a session, or raise `SessionFailed`. Where TLS may be done without, a failed handshake is followed by a new
    connection in clear."""
    policy = options.smarthost_tls if smarthost else options.direct_tls
    handshake = _Handshake(hop, options, policy, smarthost=smarthost)
    try:
        return await handshake.run()
    except TlsFailed:
        if policy is TlsPolicy.REQUIRED or handshake.has_secret:
            raise
    return await _Handshake(hop, options, TlsPolicy.NEVER, smarthost=smarthost).run()


class _Handshake:
    """One try; its steps in order are `_steps`."""

    def __init__(self, hop: NextHop, options: SmtpOptions, policy: TlsPolicy, *, smarthost: bool) -> None:
        self._hop = hop
        self._options = options
        self._policy = policy
        self._smarthost = smarthost
        self._verdicts = Verdicts(str(hop), smarthost)
        self._extensions: dict[str, str] = {}
        # RFC 4954 §14: RELAY_PASSWORD goes to nobody who may listen or pretend to be the smarthost.
        self._must_authenticate = smarthost and bool(options.username)
        self.has_secret = self._must_authenticate and not _is_loopback(hop.address)

    async def run(self) -> Session:
        try:
            line = await open_line(self._hop.address, self._hop.port, self._options.timeouts.connect)
        except TimeoutError:
            raise self._temporary("4.4.1", "no connection: the host did not answer in time") from None
        except OSError as error:
            raise self._temporary("4.4.1", f"no connection: {error.strerror or type(error).__name__}") from None
        try:
            await self._steps(line)
        except LineLost as error:
            line.abort()
            raise SessionFailed(self._verdicts.lost(str(error), error.reply)) from None
        except TlsFailed:
            line.abort()
            raise
        except SessionFailed:
            await self._take_leave(line)
            raise
        except BaseException:
            line.abort()
            raise
        return Session(
            line,
            self._hop,
            self._options.timeouts,
            extensions=self._extensions,
            smarthost=self._smarthost,
            authenticated=self._must_authenticate,
        )

    async def _steps(self, line: Line) -> None:
        greeting = await line.reply("the greeting", self._options.timeouts.greeting)
        if not greeting.is_positive:
            raise self._refused(greeting)
        await self._hello(line)
        if await self._may_encrypt(line):
            await self._encrypt(line)
            self._verdicts = dataclasses.replace(self._verdicts, tls=line.tls)
            await self._hello(line)  # what was announced in clear is forgotten (RFC 3207 §4.2)
        if self._must_authenticate:
            await self._authenticate(line)

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
        """Ask for TLS where our policy wants it; False is to go on in clear."""
        if self._policy is TlsPolicy.NEVER:
            return False
        trouble = "the next hop does not offer STARTTLS, which is required"
        if "STARTTLS" in self._extensions:
            reply = await self._ask(line, "STARTTLS")
            if reply.code == 220:
                return True
            trouble = f"the next hop refused STARTTLS: {reply.code} {reply.text}"
        if self._policy is TlsPolicy.REQUIRED:
            raise self._temporary("4.7.4", trouble)
        return False

    async def _encrypt(self, line: Line) -> None:
        """Shake hands; with `required`, and for the smarthost's password, the certificate must be for the host."""
        options = self._options
        must_verify = self.has_secret or self._policy is TlsPolicy.REQUIRED
        context = options.verified_tls if must_verify else options.unverified_tls
        try:
            await line.start_tls(context, self._hop.host, options.timeouts.tls)
        except ssl.SSLCertVerificationError as error:
            trouble = f"the certificate was not accepted: {error.verify_message}"
        except ssl.SSLError as error:
            trouble = f"the TLS handshake failed: {error.reason or 'the peer ended it'}"
        except TimeoutError:
            trouble = "the TLS handshake took too long"
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot be a TLS server name
            trouble = f"the TLS handshake failed: {type(error).__name__}"
        else:
            return
        if self.has_secret:
            trouble += "; RELAY_PASSWORD goes over TLS only, with a certificate that is valid for RELAY_HOST"
        raise TlsFailed(self._verdicts.temporary("4.7.5", trouble))

    async def _authenticate(self, line: Line) -> None:
        """Log in at the smarthost. Whatever goes wrong is the operator's to put right, so the mail waits."""
        if self.has_secret and not line.tls:
            never = self._policy is TlsPolicy.NEVER
            trouble = "RELAY_STARTTLS is never" if never else "the smarthost offers no TLS"
            raise self._temporary("4.7.11", f"{trouble}, and RELAY_PASSWORD never goes in clear")
        offered = self._extensions.get("AUTH", "").split()
        if "PLAIN" in offered:
            reply = await self._authenticate_plain(line)
        elif "LOGIN" in offered:
            reply = await self._authenticate_login(line)
        else:
            raise self._temporary("4.7.0", "RELAY_USERNAME is set, but the smarthost offers no AUTH PLAIN or LOGIN")
        if reply.code == 334:  # it wants to go on where these mechanisms end (RFC 4954 §4)
            reply = await self._ask(line, "*", "AUTH")
        if reply.code != 235:
            raise self._temporary("4.7.8", f"the smarthost refused RELAY_USERNAME: {reply.code} {reply.text}")

    async def _authenticate_plain(self, line: Line) -> PeerReply:
        response = _base64(f"\0{self._options.username}\0{self._options.password}")
        command = f"AUTH PLAIN {response}"
        if len(command) + 2 <= MAX_COMMAND_OCTETS:
            reply = await self._ask(line, command)
        else:
            reply = await self._ask(line, "AUTH PLAIN")
        return await self._ask(line, response, "AUTH") if reply.code == 334 else reply

    async def _authenticate_login(self, line: Line) -> PeerReply:
        reply = await self._ask(line, "AUTH LOGIN")
        for answer in (self._options.username, self._options.password):
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
