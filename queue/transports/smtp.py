"""The transport that speaks SMTP to the next hop (RFC 5321 §5.1, §4.2.4.2; RFC 7504 for hosts that take no mail).

Tries the hops of a route in order and keeps sessions for the next message. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from accounts.networks import may_connect
from queue.outcome import Kind, Outcome, deferred, failed
from queue.routing import refused_hop
from queue.transports.base import Job, NextHop, Route
from queue.transports.content import NotLines, blocks, dot_stuffed, final_dot, has_utf8_header
from queue.transports.handshake import SessionFailed, TlsFailed, open_session
from queue.transports.noting import Note, SessionResult
from queue.transports.options import SmtpOptions, Timeouts
from queue.transports.pool import SessionPool
from queue.transports.requests import requests_of
from queue.transports.search import Marks, Place, Search, place_of
from queue.transports.session import Delivery, Outgoing, Session
from queue.transports.verdicts import TRANSPORT

DOWN_SECONDS = 60.0  # for so long a host that refused a session is tried after the others; for silent ones: options
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

logger = logging.getLogger(__name__)


class SmtpTransport:
    """Implements `queue.transports.base.Transport`."""

    name = TRANSPORT

    def __init__(self, options: SmtpOptions, note: Note | None = None) -> None:
        self._options = options
        self._note = note or _forget
        self._pool = SessionPool(options)
        self._down: Marks[NextHop] = Marks()
        self._silent: Marks[Place] = Marks()
        self.idle_limit: Callable[[str], int] = _any_number  # of a destination, beside its deliveries

    async def deliver(self, job: Job, route: Route) -> Mapping[str, Outcome]:
        try:
            return await self._deliver(job, route)
        except Exception:
            # The interface's promise: what is wrong with us costs a delay and no mail.
            logger.exception("delivery broke", extra={"trace_id": job.trace_id, "message_id": job.message_id})
            trouble = deferred("an internal error", transport=TRANSPORT, enhanced_code="4.3.0")
            return dict.fromkeys(job.recipients, trouble)

    async def close(self) -> None:
        await self._pool.close()

    def kept(self, destination: str) -> int:
        """Return how many connections of the destination are open beside those of its deliveries."""
        return self._pool.kept(destination)

    def trim(self, destination: str, count: int) -> None:
        """End idle sessions of the destination that are more than `count`."""
        self._pool.trim(destination, count)

    def change(self, *, timeouts: Timeouts, pool_size: int) -> None:
        """Obey other limits from the next delivery on; what is under way ends as it began."""
        self._options = replace(self._options, timeouts=timeouts, pool_size=pool_size)
        self._pool.change(self._options)

    async def _deliver(self, job: Job, route: Route) -> dict[str, Outcome]:
        outcomes, message = await prepared(job, transport=TRANSPORT)
        if message is None:
            return outcomes
        pending: Sequence[str] = [r for r in dict.fromkeys(job.recipients) if r not in outcomes]
        loop = asyncio.get_running_loop()
        search = Search(self._in_order(route.hops, loop.time()), loop.time() + self._options.timeouts.hops)
        while pending and (hop := search.next(loop.time())) is not None:
            delivery = await self._try_hop(hop, route, message, pending, job.destination)
            _merge(outcomes, delivery)
            pending = delivery.undecided
        if search.is_cut_short:
            outcomes |= {recipient: _for_now(outcomes[recipient]) for recipient in pending}
        if not route.hops:
            outcomes |= dict.fromkeys(pending, deferred("no next hop", transport=TRANSPORT, enhanced_code="4.4.4"))
        return {recipient: outcomes[recipient] for recipient in job.recipients}

    async def _try_hop(
        self, hop: NextHop, route: Route, message: Outgoing, recipients: Sequence[str], destination: str
    ) -> Delivery:
        session = self._pool.take((hop, route.relay))
        if session is not None:
            session.destination = destination
            delivery = await self._use(session, message, recipients)
            if delivery.answered or not delivery.undecided:
                return delivery
            # The kept session had died: nothing was said, so nothing is lost by beginning again.
        if route.relay is None and not may_connect(hop.address, self._options.allowed_networks):
            return _no_session(refused_hop(hop), recipients)
        await self._pool.make_room(destination, self.idle_limit(destination))
        self._silent.renew(place_of(hop), self._silent_until())
        try:
            session = await open_session(hop, route, self._options, self._note)
        except SessionFailed as error:
            if error.is_silent:
                self._silent.put(place_of(hop), self._silent_until())
            else:
                self._down.put(hop, asyncio.get_running_loop().time() + DOWN_SECONDS)
            outcome = error.outcome
            if message.requires_tls and message.reverse_path and isinstance(error, TlsFailed):
                # RFC 8689 §4.2.1: back to the sender, who wants no waiting for better times.
                outcome = replace(outcome, kind=Kind.FAILED, enhanced_code="5.7.10")
            return _no_session(outcome, recipients)
        self._down.clear(hop)
        session.destination = destination
        return await self._use(session, message, recipients)

    async def _use(self, session: Session, message: Outgoing, recipients: Sequence[str]) -> Delivery:
        delivery = await session.deliver(message, recipients)
        self._pool.give(session)
        if delivery.is_silent:
            self._silent.put(place_of(session.hop), self._silent_until())
        elif delivery.answered:
            self._silent.clear(place_of(session.hop))
        return delivery

    def _in_order(self, hops: Sequence[NextHop], now: float) -> Sequence[NextHop]:
        """Put hosts that refused a moment ago behind the others, lest every message knocks there, and those that hung
        behind these, lest every message waits for them: first the one that hung first."""
        if not self._down and not self._silent:
            return hops
        return sorted(hops, key=lambda hop: (self._silent.until(place_of(hop), now), self._down.until(hop, now) > 0))

    def _silent_until(self) -> float:
        return asyncio.get_running_loop().time() + self._options.silent_seconds


def _any_number(_destination: str) -> int:
    return sys.maxsize


def _forget(_result: SessionResult) -> None:
    """Where nobody counts."""


async def prepared(job: Job, *, transport: str) -> tuple[dict[str, Outcome], Outgoing | None]:
    """Return the outcome of recipients that cannot be sent to at all, and the message for the others, if there are any.

    `transport` is the word for those outcomes.
    """
    outcomes = {
        recipient: replace(trouble, transport=transport)
        for recipient in job.recipients
        if (trouble := _unsendable(job, recipient))
    }
    if len(outcomes) == len(set(job.recipients)):
        return outcomes, None
    try:
        return outcomes, await _outgoing(job)
    except NotLines:
        words = "the message has a CR or LF that stands alone, which SMTP cannot carry"
        trouble = replace(_failed("5.6.0", words), transport=transport)
        return {recipient: outcomes.get(recipient, trouble) for recipient in job.recipients}, None


def _unsendable(job: Job, recipient: str) -> Outcome | None:
    """Return why this envelope cannot go on the wire; addresses were checked at the door, this is the last gate."""
    if _CONTROL.search(job.reverse_path):
        return _failed("5.1.7", "the sender's address holds a control character")
    if _CONTROL.search(recipient):
        return _failed("5.1.3", "the recipient's address holds a control character")
    return None


async def _outgoing(job: Job) -> Outgoing:
    """Make the message ready, or raise `NotLines`. What was declared binary and is made of lines goes as 8BITMIME."""
    is_8bit = not job.content.isascii()
    octets: bytes | bytearray = b""
    is_binary = False
    try:
        octets = await _stuffed(job)
    except NotLines:
        if job.body_type != "BINARYMIME":
            raise
        is_binary = True
    return Outgoing(
        reverse_path=job.reverse_path,
        octets=octets,
        content=job.content,
        is_declared_8bit=job.body_type in ("8BITMIME", "BINARYMIME"),
        is_8bit=is_8bit,
        needs_smtputf8=_beyond_ascii(job, is_8bit=is_8bit),
        requests=requests_of(job),
        is_binary=is_binary,
        requires_tls=job.requires_tls,
    )


async def _stuffed(job: Job) -> bytes | bytearray:
    if job.body_type == "BINARYMIME" and b"\0" in job.content:
        raise NotLines
    octets = bytearray()  # grown in place: to join the pieces of a large message at the end takes many milliseconds
    for block in blocks(job.content):
        if octets:
            await asyncio.sleep(0)  # a large message is no reason for the others to wait
        octets += dot_stuffed(block)
    octets += final_dot(job.content)
    return octets


def _beyond_ascii(job: Job, *, is_8bit: bool) -> str:
    """Say what makes it an internationalised message (RFC 6531 §3.2); empty where it is none.

    The header fields of parts are not read: in a message declared SMTPUTF8, any octet beyond ASCII may be in one.
    """
    if not job.reverse_path.isascii():
        return "the sender's address"
    if is_8bit and has_utf8_header(job.content):
        return "the header"
    return "the message, declared SMTPUTF8," if is_8bit and job.is_smtputf8 else ""


def _for_now(outcome: Outcome) -> Outcome:
    """Return the outcome where time alone kept us from asking all hosts: none of them has spoken for the others."""
    if outcome.kind is not Kind.FAILED:
        return outcome
    return replace(outcome, kind=Kind.DEFERRED, enhanced_code="4.4.0")


def _no_session(outcome: Outcome, recipients: Sequence[str]) -> Delivery:
    return Delivery(dict.fromkeys(recipients, outcome), undecided=recipients)


def _merge(outcomes: dict[str, Outcome], delivery: Delivery) -> None:
    """Take a hop's outcomes over earlier hops'; for want of a session mail fails only if every hop refused for good."""
    undecided = set(delivery.undecided)
    for recipient, outcome in delivery.outcomes.items():
        earlier = outcomes.get(recipient)
        if recipient in undecided and outcome.kind is Kind.FAILED and earlier and earlier.kind is Kind.DEFERRED:
            continue
        outcomes[recipient] = outcome


def _failed(enhanced_code: str, reason: str) -> Outcome:
    return failed(reason, transport=TRANSPORT, enhanced_code=enhanced_code)
