"""The transport that speaks SMTP to the next hop (RFC 5321 §5.1, §4.2.4.2; RFC 7504 for hosts that take no mail).

Tries the hops of a route in order and keeps sessions for the next message. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from queue.networks import may_connect
from queue.outcome import Kind, Outcome, deferred, failed
from queue.routing import refused_hop
from queue.transports.base import Job, NextHop, Route
from queue.transports.content import NotLines, blocks, dot_stuffed, final_dot, has_utf8_header
from queue.transports.handshake import SessionFailed, open_session
from queue.transports.options import SmtpOptions, Timeouts
from queue.transports.pool import SessionPool
from queue.transports.requests import requests_of
from queue.transports.session import Delivery, Outgoing, Session
from queue.transports.verdicts import TRANSPORT

DOWN_SECONDS = 60.0  # for so long a host that could not be reached is tried after the others
MAX_DOWN = 1000
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

logger = logging.getLogger(__name__)


class SmtpTransport:
    """Implements `queue.transports.base.Transport`."""

    name = TRANSPORT

    def __init__(self, options: SmtpOptions) -> None:
        self._options = options
        self._pool = SessionPool(options)
        self._down: dict[NextHop, float] = {}  # until the loop's time

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

    def change(self, *, timeouts: Timeouts, pool_size: int) -> None:
        """Obey other limits from the next delivery on; what is under way ends as it began."""
        self._options = replace(self._options, timeouts=timeouts, pool_size=pool_size)
        self._pool.change(self._options)

    async def _deliver(self, job: Job, route: Route) -> dict[str, Outcome]:
        outcomes = {recipient: trouble for recipient in job.recipients if (trouble := _unsendable(job, recipient))}
        pending: Sequence[str] = [r for r in dict.fromkeys(job.recipients) if r not in outcomes]
        if not pending:
            return outcomes
        try:
            message = await _outgoing(job)
        except NotLines:
            return outcomes | dict.fromkeys(pending, _not_lines(job))
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._options.timeouts.hops
        for hop in self._in_order(route.hops, loop.time()):
            delivery = await self._try_hop(hop, route, message, pending)
            _merge(outcomes, delivery)
            pending = delivery.undecided
            if not pending or loop.time() >= give_up_at:
                break
        if not route.hops:
            outcomes |= dict.fromkeys(pending, deferred("no next hop", transport=TRANSPORT, enhanced_code="4.4.4"))
        return {recipient: outcomes[recipient] for recipient in job.recipients}

    async def _try_hop(self, hop: NextHop, route: Route, message: Outgoing, recipients: Sequence[str]) -> Delivery:
        session = self._pool.take((hop, route.smarthost))
        if session is not None:
            delivery = await self._use(session, message, recipients)
            if delivery.answered or not delivery.undecided:
                return delivery
            # The kept session had died: nothing was said, so nothing is lost by beginning again.
        if not route.smarthost and not may_connect(hop.address, self._options.allowed_networks):
            return _no_session(refused_hop(hop), recipients)
        try:
            session = await open_session(hop, self._options, smarthost=route.smarthost)
        except SessionFailed as error:
            self._remember_down(hop)
            return _no_session(error.outcome, recipients)
        self._down.pop(hop, None)
        return await self._use(session, message, recipients)

    async def _use(self, session: Session, message: Outgoing, recipients: Sequence[str]) -> Delivery:
        delivery = await session.deliver(message, recipients)
        self._pool.give(session)
        return delivery

    def _in_order(self, hops: Sequence[NextHop], now: float) -> Sequence[NextHop]:
        """Put hosts that were out of reach a moment ago behind the others, lest every message wait for them."""
        if not self._down:
            return hops
        return sorted(hops, key=lambda hop: self._down.get(hop, 0.0) > now)

    def _remember_down(self, hop: NextHop) -> None:
        now = asyncio.get_running_loop().time()
        if len(self._down) >= MAX_DOWN:
            self._down = {known: until for known, until in self._down.items() if until > now}
        if len(self._down) < MAX_DOWN:
            self._down[hop] = now + DOWN_SECONDS


def _unsendable(job: Job, recipient: str) -> Outcome | None:
    """Return why this envelope cannot go on the wire; addresses were checked at the door, this is the last gate."""
    if _CONTROL.search(job.reverse_path):
        return _failed("5.1.7", "the sender's address holds a control character")
    if _CONTROL.search(recipient):
        return _failed("5.1.3", "the recipient's address holds a control character")
    return None


def _not_lines(job: Job) -> Outcome:
    if job.body_type == "BINARYMIME":
        words = (
            "the message is binary (BINARYMIME): it has NUL, or a CR or LF that stands alone, and only lines are sent"
        )
        return _failed("5.6.3", words)
    return _failed("5.6.0", "the message has a CR or LF that stands alone, which SMTP cannot carry")


async def _outgoing(job: Job) -> Outgoing:
    """Make the message ready; raise `NotLines`. What was declared binary and is made of lines goes as 8BITMIME."""
    if job.body_type == "BINARYMIME" and b"\0" in job.content:
        raise NotLines
    pieces: list[bytes] = []
    for block in blocks(job.content):
        if pieces:
            await asyncio.sleep(0)  # a large message is no reason for the others to wait
        pieces.append(dot_stuffed(block))
    is_8bit = not job.content.isascii()
    return Outgoing(
        reverse_path=job.reverse_path,
        octets=b"".join([*pieces, final_dot(job.content)]),
        size_octets=len(job.content),
        is_declared_8bit=job.body_type in ("8BITMIME", "BINARYMIME"),
        is_8bit=is_8bit,
        needs_smtputf8=_beyond_ascii(job, is_8bit=is_8bit),
        requests=requests_of(job),
    )


def _beyond_ascii(job: Job, *, is_8bit: bool) -> str:
    """Say what makes it an internationalised message (RFC 6531 §3.2); empty where it is none.

    The header fields of parts are not read: in a message declared SMTPUTF8, any octet beyond ASCII may be in one.
    """
    if not job.reverse_path.isascii():
        return "the sender's address"
    if is_8bit and has_utf8_header(job.content):
        return "the header"
    return "the message, declared SMTPUTF8," if is_8bit and job.is_smtputf8 else ""


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
