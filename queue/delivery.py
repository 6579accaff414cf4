"""The relay leg: what happens to a claimed entry, step by step.

claim → sort (ours, foreign, or no attempt to be made) → route → sign → carry → settle. `engine.py` runs these steps for
many entries at once and keeps their leases; each step here takes values and returns values. An entry whose step fails
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
from queue import dialup, notices, return_paths, returns, settle, suppress
from queue.claim import Parcel
from queue.finding import Found
from queue.hops import Destination
from queue.outcome import Kind, Outcome, deferred, failed
from queue.pacing import warmup
from queue.results import Result, kept_back, left_to_host, without_attempt
from queue.schedule import needs_no_attempt
from queue.signer import NOT_ASKED, Signer
from queue.transports import local
from queue.transports.base import Deadline, DsnRequest, Job, Route, Transport
from queue.transports.content import is_tls_optional

logger = structlog.get_logger(__name__)
T = TypeVar("T")
# From the destinations of one message to the way of the first, or to why there is none, for all of them that share it.
Router = Callable[[Sequence[Destination]], Awaitable[Mapping[Destination, Route | Outcome]]]

MAX_CLAIMS = 5  # without a word of how it ended; the next worker makes no attempt
MAX_READ_AHEAD_OCTETS = 256 << 10
MAX_CONTENT_OCTETS = 8 << 20  # what one load of several messages may take; a larger message is loaded alone


@dataclass(frozen=True, slots=True)
class Sorted:
    """Claimed parcels by the way they go. `decided`: no attempt: hopeless, kept back, too late or too early.

    `is_all`: nothing more of what was looked for can be taken now.
    """

    ours: Sequence[tuple[Parcel, Resolution]]
    foreign: Sequence[Parcel]
    decided: Sequence[Result]
    is_all: bool = True


def claim_due(worker: str, find: Callable[[], Found], *, read_ahead_octets: int = 0) -> Sorted:
    """Step 1 and 2, in a database thread: lease due entries, look up which are ours, let through what a plan allows.

    The contents of small foreign messages come along with one query, up to `read_ahead_octets` in all.
    """
    claimed = find()
    found = sort(claimed.parcels)
    going = warmup.admit(worker, found.foreign, now=timezone.now()).going
    return _complete(replace(found, foreign=going, is_all=claimed.is_all), read_ahead_octets)


def prepare(parcels: Sequence[Parcel], read_ahead_octets: int) -> Sorted:
    """Step 2 for parcels that are claimed, with the contents of small foreign messages."""
    return _complete(sort(parcels), read_ahead_octets)


def _complete(found: Sorted, read_ahead_octets: int) -> Sorted:
    return replace(found, foreign=read_ahead(return_paths.marked(found.foreign), read_ahead_octets))


def read_ahead(parcels: Sequence[Parcel], octets: int) -> list[Parcel]:
    """Return the parcels with the contents of small messages, `octets` in all at most; one query."""
    wanted: dict[str, int] = {}
    for parcel in parcels:
        if parcel.message_id not in wanted and parcel.size_octets <= min(MAX_READ_AHEAD_OCTETS, octets):
            wanted[parcel.message_id] = parcel.size_octets
            octets -= parcel.size_octets
    contents = content.read_many(wanted) if wanted else {}
    return [parcel.with_content(contents.get(parcel.message_id)) for parcel in parcels]


def sort(parcels: Iterable[Parcel]) -> Sorted:
    addressed: list[tuple[Parcel, Address]] = []
    decided: list[Result] = []
    now = timezone.now()
    parcels = list(parcels)
    hits = suppress.blocked(parcels, now)
    for parcel in parcels:
        if (result := _decided(parcel, hits.get(parcel.entry_id), now)) is not None:
            decided.append(result)
            continue
        try:
            addressed.append((parcel, parse_address(parcel.recipient)))
        except InvalidName as error:
            outcome = failed(f"The address is not valid: {error}.", transport="local", enhanced_code="5.1.3")
            decided.append(_result(parcel, outcome, now))
    resolutions = addresses.resolve_many({address for _, address in addressed})
    ours: list[tuple[Parcel, Resolution]] = []
    foreign: list[Parcel] = []
    for parcel, address in addressed:
        resolution = resolutions[address]
        if dialup.is_left_to_host(parcel, resolution):
            if dialup.is_asked_for(parcel, now):
                foreign.append(replace(parcel, host=resolution.next_hop))
            else:
                decided.append(left_to_host(parcel, now))
            continue
        if parcel.waits_for_host:  # its domain is not dial-up any more
            parcel = replace(parcel, waits_for_host=False, retry_at=None)
        if resolution.is_local:
            ours.append((parcel, resolution))
        else:
            foreign.append(parcel)
    return Sorted(ours, foreign, decided)


def _decided(parcel: Parcel, hit: suppress.Hit | None, now: dt.datetime) -> Result | None:
    """Return the result of an entry that is not to be attempted, whatever its address is."""
    if dialup.is_too_late(parcel, now) if parcel.waits_for_host else is_only_woken(parcel, now):
        return without_attempt(parcel, now)
    if parcel.claims > MAX_CLAIMS:
        return breaks_workers(parcel, now)
    return kept_back(parcel, hit, now) if hit is not None else None


def is_only_woken(parcel: Parcel, now: dt.datetime) -> bool:
    """Whether no attempt is to be made now (`schedule`): never for mail without a deadline that was not deferred."""
    if parcel.retry_at is None and parcel.deliver_by_at is None:
        return False
    return needs_no_attempt(retry_at=parcel.retry_at, now=now + parcel.ahead, terms=notices.terms(parcel))


def deliver_ours(group: Sequence[tuple[Parcel, Resolution]]) -> list[Result]:
    """Step 3 for our own addresses, in a thread: store the copies of a group that `by_size` made."""
    started_at = timezone.now()
    contents = content.read_many({parcel.message_id for parcel, _ in group})
    late = [without_attempt(parcel, started_at) for parcel, _ in group if is_only_woken(parcel, started_at)]
    group = [pair for pair in group if not is_only_woken(pair[0], started_at)] if late else group
    present = return_paths.handed_on([pair for pair in group if pair[0].message_id in contents])
    missing = [content_missing(parcel, started_at) for parcel, _ in group if parcel.message_id not in contents]
    delivered = local.deliver(present, contents)
    read = [
        replace(result, returned=returns.read(parcel, resolution, contents[parcel.message_id]))
        if result.outcome.kind is Kind.DELIVERED
        else result
        for result, (parcel, resolution) in zip(delivered, present, strict=True)
    ]
    return late + missing + read


async def deliver_foreign(
    parcels: Sequence[Parcel],
    octets: bytes,
    *,
    router: Router,
    signer: Signer,
    transport: Transport,
    set_apart: Callable[[Sequence[Parcel]], None] | None = None,
) -> list[Result]:
    """Steps 3 and 4 for one message, in one transaction: find the way of the first, sign what is ours, and go it.

    Who goes another way is handed to `set_apart` at once, untouched, and has no result here.
    """
    started_at = timezone.now()
    late = [parcel for parcel in parcels if is_only_woken(parcel, started_at)]  # the deadline passed in the lane
    ended = [without_attempt(parcel, started_at) for parcel in late]
    going = [parcel for parcel in parcels if not is_only_woken(parcel, started_at)] if late else parcels
    if not going:
        return ended
    is_optional = is_tls_optional(octets)
    destinations = [destination_of(parcel, is_tls_optional=is_optional) for parcel in going]
    ways = await router(destinations)
    route = ways[destinations[0]]
    others = [parcel for parcel, to in zip(going, destinations, strict=True) if to not in ways]
    if others and set_apart is not None:
        set_apart(others)
    group = [parcel for parcel, to in zip(going, destinations, strict=True) if to in ways]
    signed = NOT_ASKED if isinstance(route, Outcome) else await signer.sign(group[0], octets)
    outcomes = await _carry(group, signed.fields + octets, signed.obstacle or route, transport)
    return ended + [_result(parcel, outcomes[parcel.recipient], started_at, signed.words) for parcel in group]


def destination_of(parcel: Parcel, *, is_tls_optional: bool = False) -> Destination:
    """A report about mail that required TLS is not thrown away where it cannot have that (RFC 8689 §5)."""
    return Destination(
        parcel.domain,
        parcel.organization_id,
        parcel.route,
        is_tls_optional=is_tls_optional and not parcel.requires_tls,
        requires_tls=parcel.requires_tls and bool(parcel.reverse_path),
        own_host=parcel.host,
    )


async def _carry(
    parcels: Sequence[Parcel], octets: bytes, route: Route | Outcome, transport: Transport
) -> Mapping[str, Outcome]:
    if isinstance(route, Outcome):
        return {parcel.recipient: route for parcel in parcels}
    return await transport.deliver(job_of(parcels, octets), route)


def job_of(parcels: Sequence[Parcel], octets: bytes) -> Job:
    """Return one message to these recipients as a transport is given it."""
    first = parcels[0]
    return Job(
        message_id=first.message_id,
        trace_id=first.trace_id,
        reverse_path=return_paths.reverse_path_of(parcels),
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
        requires_tls=first.requires_tls,
        attempts={parcel.recipient: parcel.attempts + 1 for parcel in parcels} if first.is_sandbox else {},
        deadline=Deadline(first.deliver_by_at - first.ahead, first.deliver_by_mode) if first.deliver_by_at else None,
        destination=first.domain,
    )


def content_missing(parcel: Parcel, started_at: dt.datetime) -> Result:
    """The message's octets cannot be found: deferred, for an operator may yet bring them back."""
    logger.error("queue.content_missing", message_id=parcel.message_id, trace_id=parcel.trace_id)
    words = "The content of the message cannot be found in the spool."
    return _result(parcel, deferred(words, transport="local", enhanced_code="4.3.0"), started_at)


def trouble(parcel: Parcel, started_at: dt.datetime, transport: str, error: Exception) -> Result:
    """A bug or an unavailable part of our own: deferred (RFC 5321 §4.2.1, 4yz)."""
    words = f"Local error in processing ({type(error).__name__})."
    return _result(parcel, deferred(words, transport=transport, enhanced_code="4.3.0"), started_at)


def breaks_workers(parcel: Parcel, now: dt.datetime) -> Result:
    """Return the end of an attempt that is not made: worker after worker was lost while it had this one.

    Deferred like an attempt that failed, so that it may not take down one worker after the other for ever, and ends
    as a bounce at last. Others that were in the same workers' hands lose some minutes.
    """
    logger.error("queue.breaks_workers", message_id=parcel.message_id, trace_id=parcel.trace_id, claims=parcel.claims)
    words = f"{parcel.claims - 1} workers were lost while they had it, so it is left alone for a while."
    return _result(parcel, deferred(words, transport="local", enhanced_code="4.3.0"), now)


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


def _result(parcel: Parcel, outcome: Outcome, started_at: dt.datetime, remarks: str = "") -> Result:
    return Result(parcel, outcome, started_at, timezone.now(), remarks=remarks, waits=parcel.host is not None)
