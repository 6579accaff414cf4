"""DATA and BDAT: the content on its way in, and its way to the spool (RFC 5321 §4.1.1.4, RFC 3030)."""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import replace

import structlog

from mailflow import counters, receiver
from mailflow.errors import Refused
from mailflow.listener.connection import WORKING, Answer
from mailflow.listener.intake import Intake
from mailflow.listener.session import Session
from mailflow.listener.transaction import Declined, Transaction
from mailflow.models import Message
from mailflow.policy.recipient import check_room
from mailflow.smtp.reply import Reply
from mailflow.spool.accepted import Origin, Receipt
from mailflow.spool.large import SpoolFile

logger = structlog.get_logger(__name__)
_standard_logger = logging.getLogger(__name__)  # asked first: to have a line dropped by structlog is not free

START_DATA = Reply(354, "", "Start mail input; end with <CRLF>.<CRLF>")
NO_MAIL = Reply(503, "5.1", "Send MAIL first")
BDAT_SYNTAX = Reply(501, "5.4", "Syntax: BDAT number-of-octets [LAST]")
CHUNKS_BEGUN = Reply(503, "5.1", "BDAT has begun the content, DATA cannot go on with it")
BINARY_NEEDS_BDAT = Reply(503, "5.1", "BODY=BINARYMIME can be sent with BDAT only")
CHUNK_FAILED = Reply(503, "5.1", "An earlier chunk was refused; send RSET")

SMALL_CHUNK_OCTETS = 100  # chunks smaller than that are chatter: only so many are taken

_BDAT = re.compile(r"([0-9]{1,19})(?:[ \t]+(LAST))?[ \t]*\Z", re.IGNORECASE)


def data(session: Session, argument: str) -> Answer:
    transaction = session.transaction
    if argument:
        raise Refused(Reply(501, "5.4", "Syntax: DATA"))
    if transaction is None:
        raise Refused(NO_MAIL)
    if transaction.has_failed:
        raise Refused(CHUNK_FAILED)
    if transaction.intake is not None:
        raise Refused(CHUNKS_BEGUN)
    if transaction.envelope.body_type == "BINARYMIME":
        raise Refused(BINARY_NEEDS_BDAT)
    _need_recipients(session, transaction)
    taker = _DataTaker(session, transaction)
    session.taker = taker
    taker.wait_for_more()
    return START_DATA


def bdat(session: Session, argument: str) -> Answer:
    """Take one chunk. Whatever is wrong, its octets are read before the reply: they are no commands (RFC 3030 §2)."""
    match = _BDAT.match(argument)
    if match is None:
        raise Refused(BDAT_SYNTAX)
    octets, is_last = int(match[1]), bool(match[2])
    taker: _ChunkTaker | _Discarder
    try:
        transaction = _chunk_transaction(session)
    except Refused as refusal:
        taker = _Discarder(session, octets, refusal)
    else:
        taker = _ChunkTaker(session, transaction, octets, is_last=is_last)
    if octets == 0:
        return taker.finish()
    session.taker = taker
    taker.wait_for_more()
    return None


def _chunk_transaction(session: Session) -> Transaction:
    transaction = session.transaction
    if transaction is None:
        raise Refused(NO_MAIL)
    if transaction.has_failed:
        raise Refused(CHUNK_FAILED)
    _need_recipients(session, transaction)
    return transaction


def _need_recipients(session: Session, transaction: Transaction) -> None:
    if not transaction.envelope.recipients:
        raise Refused(Reply(554 if session.extended else 503, "5.1", "No valid recipients"), rule="no_recipients")


def _new_intake(session: Session, transaction: Transaction) -> Intake:
    listener = session.listener
    transaction.began_at = session.loop.time()
    transaction.intake = Intake(
        listener.max_message_octets,
        listener.rooms,
        session.octets_wanted,
        mend=listener.mends_line_ends and transaction.envelope.body_type != "BINARYMIME",
    )
    return transaction.intake


class _Taker:
    """Content under way. Neither silence nor a trickle may hold the connection; who sends steadily gets the time."""

    def __init__(self, session: Session, since: float) -> None:
        self._session = session
        self._since = since

    def wait_for_more(self, octets: int = 0) -> None:
        """Set the deadline: for silence, for a rate that is too low since the content began, for all of it."""
        session = self._session
        session.deadline = min(session.loop.time() + session.listener.timeout, self.until(octets))
        session.resume_reading()  # what piled up before is less than what is wanted now

    def until(self, octets: int) -> float:
        """When more must have come, after so many octets; of the loop's clock."""
        listener = self._session.listener
        end = self._since + listener.data_timeout
        if listener.min_data_rate:
            end = min(end, self._since + listener.data_grace + octets / listener.min_data_rate)
        return end


class _DataTaker(_Taker):
    def __init__(self, session: Session, transaction: Transaction) -> None:
        super().__init__(session, session.loop.time())
        self._transaction = transaction
        self._intake = _new_intake(session, transaction)

    def __call__(self, buffer: bytearray) -> Answer:
        intake, session = self._intake, self._session
        rest = intake.feed_data(buffer)
        buffer.clear()
        if rest is None:
            self.wait_for_more(intake.octets)
            if intake.is_behind:
                session.pause_reading()
            return None
        buffer += rest
        session.taker = None
        session.resume_reading()
        return _finish(session, self._transaction, intake)


class _ChunkTaker(_Taker):
    def __init__(self, session: Session, transaction: Transaction, octets: int, *, is_last: bool) -> None:
        if transaction.intake is None:
            _new_intake(session, transaction).begin_chunks()
        assert transaction.intake is not None
        super().__init__(session, transaction.began_at)
        self._transaction = transaction
        self._octets = self._left = octets
        self._is_last = is_last
        self._intake = transaction.intake

    def __call__(self, buffer: bytearray) -> Answer:
        intake, session = self._intake, self._session
        chunk = buffer[: self._left]
        del buffer[: self._left]
        self._left -= len(chunk)
        intake.feed_chunk(chunk)
        if self._left:
            self.wait_for_more(intake.octets)
            if intake.is_behind:
                session.pause_reading()
            return None
        session.taker = None
        session.resume_reading()
        return self.finish()

    def finish(self) -> Answer:
        session, transaction, intake = self._session, self._transaction, self._intake
        limit = session.listener.max_message_octets
        if intake.octets > limit and not self._is_last:
            raise _too_large(intake.octets, limit)
        if not self._is_last:
            transaction.until = self.until(intake.octets)
            reply = Reply(250, "0.0", f"Chunk received, {self._octets} octets so far")
            return reply if self._octets >= SMALL_CHUNK_OCTETS else session.idle(reply)
        return _finish(session, transaction, intake)


class _Discarder(_Taker):
    """Reads a chunk that nobody wants, so that the refusal comes where the client looks for it."""

    def __init__(self, session: Session, octets: int, refusal: Refused) -> None:
        super().__init__(session, session.loop.time())
        self._octets = self._left = octets
        self._refusal = refusal

    def __call__(self, buffer: bytearray) -> Answer:
        taken = min(self._left, len(buffer))
        del buffer[:taken]
        self._left -= taken
        if self._left:
            self.wait_for_more(self._octets - self._left)
            return None
        self._session.taker = None
        return self.finish()

    def finish(self) -> Answer:
        raise self._refusal


def _too_large(octets: int, limit: int) -> Refused:
    reply = Reply(552, "3.4", f"Message exceeds maximum size of {limit} octets")
    return Refused(reply, f"{octets} octets, the limit is {limit}", rule="size.over_limit")


def _finish(session: Session, transaction: Transaction, intake: Intake) -> Answer:
    """The last octet is there: decide, and wait for the commit."""
    transaction.is_over = True
    transaction.intake = None  # from here on the commit's to close, even if the session goes away
    try:
        if intake.is_over_limit:
            raise _too_large(intake.octets, session.listener.max_message_octets)
        content = intake.small_content()
        if content is None or session.account is not None:
            return _finish_later(session, transaction, intake, content)
        _accept(session, transaction, intake, content)
    except BaseException:
        intake.close()
        raise
    session.work()
    return WORKING


async def _finish_later(
    session: Session, transaction: Transaction, intake: Intake, content: bytes | SpoolFile | None
) -> Reply:
    """Where more is to be done than may be done on the loop."""
    try:
        if content is None:
            content = await intake.large_content()
        if session.account is not None:
            decision = await session.listener.directory.check_originators(session.account, content)
            if decision.stops:
                session.decline(decision)
            transaction.decisions.append(decision)
        if isinstance(content, bytes):
            _accept(session, transaction, intake, content)
        else:
            await asyncio.to_thread(_accept, session, transaction, intake, content)
    except BaseException:
        intake.close()
        raise
    return WORKING


def _accept(session: Session, transaction: Transaction, intake: Intake, content: bytes | SpoolFile) -> None:
    """Hand the message to the spool; raises `Refused` or `Unavailable`."""
    if len(content) > session.listener.max_message_octets:
        raise _too_large(len(content), session.listener.max_message_octets)
    envelope = transaction.envelope
    if len(content) > envelope.declared_octets:
        decision = check_room(transaction.resolutions, len(content))
        if decision is not None:
            raise Declined(replace(decision, stage="content"), sender=envelope.reverse_path_text)
    receiver.accept_soon(_submission(session, transaction, content), _Commit(session, transaction, intake))


class _Commit:
    """What waits for the commit of one message (`spool.group.Done`)."""

    def __init__(self, session: Session, transaction: Transaction, intake: Intake) -> None:
        self.loop: asyncio.AbstractEventLoop | None = session.loop
        self._session = session
        self._began_at = transaction.began_at
        self._intake = intake

    def resolve(self, result: Receipt | Exception) -> None:
        session, octets = self._session, self._intake.octets
        self._intake.close()
        if isinstance(result, Exception):
            session.failed_at_work(result)
            return
        counters.add("smtp.messages.accepted")
        counters.observe("message_octets", octets)
        counters.observe("processing_ms", (session.loop.time() - self._began_at) * 1000)
        if _standard_logger.isEnabledFor(logging.INFO):
            logger.info(
                "smtp.accepted",
                message_id=result.message_id,
                client_address=session.client_address,
                trace_id=session.trace_id,
            )
        session.message_accepted()
        session.say_octets(f"250 2.0.0 OK queued as {result.message_id}\r\n".encode("ascii"))
        session.worked(None)


def _submission(session: Session, transaction: Transaction, content: bytes | SpoolFile) -> receiver.Submission:
    account = session.account
    return receiver.Submission(
        source=Message.Source.SUBMISSION.value if account else Message.Source.RECEPTION.value,
        envelope=transaction.envelope,
        origin=Origin(
            protocol=_protocol(session, transaction),
            trace_id=session.trace_id,
            client_address=session.client_address,
            helo=session.helo,
            tls=session.tls,
            actor=account.username if account else "",
            user_id=account.user_id if account else None,
            organization_id=account.organization_id if account else None,
        ),
        content=content,
        decisions=transaction.decisions,
    )


def _protocol(session: Session, transaction: Transaction) -> str:
    """Return the word for the `Received` field (RFC 3848, RFC 6531 §3.7.3)."""
    if not session.extended:
        return "SMTP"
    name = "UTF8SMTP" if transaction.envelope.is_smtputf8 else "ESMTP"
    return name + ("S" if session.tls else "") + ("A" if session.account else "")
