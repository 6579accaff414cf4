"""The relay leg: what happens to a claimed entry, step by step.

claim → sort (ours, foreign, or no attempt to be made) → route → carry → settle. `engine.py` runs these steps for many
entries at once and keeps their leases; each step here takes values and returns values. An entry whose step fails
unexpectedly is deferred, never lost: its lease runs out, or its result says so.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import structlog
from django.utils import timezone

from accounts import addresses
from accounts.addresses import Resolution
from accounts.names import Address, InvalidName, parse_address
from mailflow import content
from queue import claim, notices, settle
from queue.claim import Parcel
from queue.outcome import Outcome, deferred, failed
from queue.schedule import needs_no_attempt
from queue.settle import Result, without_attempt
from queue.transports import local
from queue.transports.base import Deadline, DsnRequest, Job, Route, Transport

logger = structlog.get_logger(__name__)
T = TypeVar("T")
Router = Callable[[str], Awaitable[Route | Outcome]]  # from a domain to its way, or to why there is none

MAX_READ_AHEAD_OCTETS = 256 << 10
MAX_CONTENT_OCTETS = 8 << 20  # what one load of several messages may take; a larger message is loaded alone


@dataclass(frozen=True, slots=True)
class Sorted:
    """Claimed parcels by the way they go. `decided`: no attempt is made, be it hopeless, too late or too early."""

    ours: Sequence[tuple[Parcel, Resolution]]
    foreign: Sequence[Parcel]
    decided: Sequence[Result]


def claim_due(
    worker: str,
    *,
    limit: int,
    lease: dt.timedelta,
    entry_ids: Sequence[int] | None = None,
    without_domains: Sequence[str] = (),
    read_ahead_octets: int = 0,
) -> Sorted:
    """Step 1 and 2, in a database thread: lease due entries and look up which of them are ours.

    The contents of small foreign messages come along with one query, up to `read_ahead_octets` in all.
    """
    parcels = claim.claim(
        worker,
        limit=limit,
        now=timezone.now(),
        lease=lease,
        entry_ids=entry_ids,
        without_domains=without_domains,
    )
    found = sort(parcels)
    return replace(found, foreign=_read_ahead(found.foreign, read_ahead_octets))


def _read_ahead(parcels: Sequence[Parcel], octets: int) -> list[Parcel]:
    wanted: dict[str, int] = {}
    for parcel in parcels:
        if parcel.message_id not in wanted and parcel.size_octets <= min(MAX_READ_AHEAD_OCTETS, octets):
            wanted[parcel.message_id] = parcel.size_octets
            octets -= parcel.size_octets
    contents = content.read_many(wanted) if wanted else {}
    return [replace(parcel, content=contents.get(parcel.message_id)) for parcel in parcels]


def sort(parcels: Iterable[Parcel]) -> Sorted:
    addressed: list[tuple[Parcel, Address]] = []
    decided: list[Result] = []
    now = timezone.now()
    for parcel in parcels:
        if is_only_woken(parcel, now):
            decided.append(without_attempt(parcel, now))
            continue
        try:
            addressed.append((parcel, parse_address(parcel.recipient)))
        except InvalidName as error:
            outcome = failed(f"The address is not valid: {error}.", transport="local", enhanced_code="5.1.3")
            decided.append(_result(parcel, outcome, now))
    resolutions = addresses.resolve_many({address for _, address in addressed})
    ours = [(parcel, resolutions[address]) for parcel, address in addressed if resolutions[address].is_local]
    foreign = [parcel for parcel, address in addressed if not resolutions[address].is_local]
    return Sorted(ours, foreign, decided)


def is_only_woken(parcel: Parcel, now: dt.datetime) -> bool:
    """Whether no attempt is to be made now (`schedule`): never for mail without a deadline that was not deferred."""
    if parcel.retry_at is None and parcel.deliver_by_at is None:
        return False
    return needs_no_attempt(retry_at=parcel.retry_at, now=now, terms=notices.terms(parcel))


def deliver_ours(group: Sequence[tuple[Parcel, Resolution]]) -> list[Result]:
    """Step 3 for our own addresses, in a thread: store the copies of a group that `by_size` made."""
    started_at = timezone.now()
    contents = content.read_many({parcel.message_id for parcel, _ in group})
    late = [without_attempt(parcel, started_at) for parcel, _ in group if is_only_woken(parcel, started_at)]
    group = [pair for pair in group if not is_only_woken(pair[0], started_at)] if late else group
    present = [pair for pair in group if pair[0].message_id in contents]
    missing = [content_missing(parcel, started_at) for parcel, _ in group if parcel.message_id not in contents]
    return late + missing + local.deliver(present, contents)


async def deliver_foreign(
    parcels: Sequence[Parcel], octets: bytes, *, router: Router, transport: Transport
) -> list[Result]:
    """Steps 3 and 4 for one message to recipients of one domain: find the way and go it."""
    started_at = timezone.now()
    first = parcels[0]
    if is_only_woken(first, started_at):  # its deadline passed in the lane, and is that of all recipients
        return [without_attempt(parcel, started_at) for parcel in parcels]
    route = await router(first.domain)
    outcomes = await _carry(parcels, octets, route, transport)
    return [_result(parcel, outcomes[parcel.recipient], started_at) for parcel in parcels]


async def _carry(
    parcels: Sequence[Parcel], octets: bytes, route: Route | Outcome, transport: Transport
) -> Mapping[str, Outcome]:
    if isinstance(route, Outcome):
        return {parcel.recipient: route for parcel in parcels}
    first = parcels[0]
    job = Job(
        message_id=first.message_id,
        trace_id=first.trace_id,
        reverse_path=first.reverse_path,
        recipients=[parcel.recipient for parcel in parcels],
        content=octets,
        body_type=first.body_type,
        is_smtputf8=first.is_smtputf8,
        dsn_return=first.dsn_return,
        envelope_id=first.envelope_id,
        dsn_requests={
            parcel.recipient: DsnRequest(parcel.notify, parcel.original_recipient)
            for parcel in parcels
            if parcel.notify or parcel.original_recipient
        },
        deadline=Deadline(first.deliver_by_at, first.deliver_by_mode) if first.deliver_by_at else None,
    )
    return await transport.deliver(job, route)


def content_missing(parcel: Parcel, started_at: dt.datetime) -> Result:
    """The message's octets cannot be found: deferred, for an operator may yet bring them back."""
    logger.error("queue.content_missing", message_id=parcel.message_id, trace_id=parcel.trace_id)
    words = "The content of the message cannot be found in the spool."
    return _result(parcel, deferred(words, transport="local", enhanced_code="4.3.0"), started_at)


def trouble(parcel: Parcel, started_at: dt.datetime, transport: str, error: Exception) -> Result:
    """A bug or an unavailable part of our own: deferred (RFC 5321 §4.2.1, 4yz)."""
    words = f"Local error in processing ({type(error).__name__})."
    return _result(parcel, deferred(words, transport=transport, enhanced_code="4.3.0"), started_at)


def write_down(results: Sequence[Result], *, worker: str) -> list[int]:
    """Step 5, in a database thread: commit the ends of the attempts; return new entries to deliver."""
    return settle.settle(results, worker=worker)


def by_size(items: Iterable[T], octets_of: Callable[[T], int]) -> list[list[T]]:
    """Cut into groups whose contents together stay below `MAX_CONTENT_OCTETS`; what is larger stands alone."""
    groups: list[list[T]] = []
    room = 0
    for item in items:
        octets = octets_of(item)
        if not groups or octets > room:
            groups.append([])
            room = MAX_CONTENT_OCTETS
        groups[-1].append(item)
        room -= octets
    return groups


def _result(parcel: Parcel, outcome: Outcome, started_at: dt.datetime) -> Result:
    return Result(parcel, outcome, started_at, timezone.now())
