"""Shares destinations' connections and rates among the workers, and keeps what destinations teach (docs/adr/0014).

A worker holds slots of a destination, in a block, for as long as its own row is alive (`heartbeat`); it asks when it
first has mail for a domain and, with everything it learned meanwhile, every few seconds. The destination's row is
locked for that, in the order of names, so that no two workers wait for each other.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from django.db import transaction

from queue.models import Destination, Slots
from queue.pacing import heartbeat, rates, shares, state
from queue.pacing.heartbeat import Report
from queue.pacing.rates import Bucket
from queue.pacing.state import Mark, State

MAX_DOMAINS = 300  # a transaction
ANSWERED_STEP = dt.timedelta(minutes=1)  # how exactly `answered_at` is kept
USED_STEP = dt.timedelta(hours=1)

_STATE = tuple(one.name for one in fields(State))


@dataclass(frozen=True, slots=True)
class Want:
    """What a worker wants of a destination: how many deliveries could run, and the connections that it has open.

    `marks` are ends since it asked last; `unused`: messages of the rate that it was given and has not begun.
    """

    wanted: int
    in_use: int = 0
    marks: Sequence[Mark] = ()
    unused: int = 0


@dataclass(frozen=True, slots=True)
class Grant:
    """What it has now: `slots` connections, of which it should use no more than its `share`, if others want some.

    `cap`: the destination's own limit, None where the default holds. `messages` may be begun, None where there is no
    rate; `is_shared`: others hold slots of it, or want some.
    """

    slots: int
    share: int
    state: State
    cap: int | None = None
    per_minute: int | None = None
    messages: int | None = None
    is_shared: bool = False


@dataclass(frozen=True, slots=True)
class _Held:
    worker: str
    held: int
    wanted: int


def beat(
    report: Report,
    wants: Mapping[str, Want],
    *,
    now: dt.datetime,
    default_cap: int,
    lease: dt.timedelta,
    forgets: bool = False,
) -> tuple[int, dict[str, Grant]]:
    """Tell of the worker and settle with its destinations; return how many others are alive, and the grants.

    `forgets`: remove what dead workers have left, too.
    """
    others = heartbeat.beat(report, now=now, lease=lease)
    if forgets:
        heartbeat.forget_the_dead(now, lease, but=[report.name])
    return others, share_out(report.name, wants, now=now, default_cap=default_cap, lease=lease)


def leave(worker: str, wants: Mapping[str, Want], *, now: dt.datetime, default_cap: int, lease: dt.timedelta) -> None:
    """Take a worker's farewell: keep what it learned, and free all that it held."""
    share_out(
        worker,
        {name: want for name, want in wants.items() if want.marks},
        now=now,
        default_cap=default_cap,
        lease=lease,
    )
    heartbeat.leave(worker)


def share_out(
    worker: str, wants: Mapping[str, Want], *, now: dt.datetime, default_cap: int, lease: dt.timedelta
) -> dict[str, Grant]:
    """Settle with these destinations; a want of nothing gives all back. Returns what the worker has of each now."""
    names = sorted(wants)
    grants: dict[str, Grant] = {}
    for start in range(0, len(names), MAX_DOMAINS):
        part = {name: wants[name] for name in names[start : start + MAX_DOMAINS]}
        with transaction.atomic():
            grants |= _share_out(worker, part, now, default_cap, lease)
    return grants


def state_of(row: Destination) -> State:
    return State(**{name: getattr(row, name) for name in _STATE})


def cap_of(row: Destination, default_cap: int) -> int:
    return default_cap if row.max_connections is None else row.max_connections


def _share_out(
    worker: str, wants: Mapping[str, Want], now: dt.datetime, default_cap: int, lease: dt.timedelta
) -> dict[str, Grant]:
    rows = _locked(list(wants), now)
    living = set(heartbeat.alive(now, lease).values_list("name", flat=True)) | {worker}
    held = _held(list(wants), living)
    grants: dict[str, Grant] = {}
    changed: list[Destination] = []
    slots: list[Slots] = []
    for name, want in wants.items():
        row, others = rows[name], [one for one in held[name] if one.worker != worker]
        grant, is_changed = _settled(row, want, others, worker, len(living), now, default_cap)
        grants[name] = grant
        if is_changed:
            changed.append(row)
        if want.wanted or want.in_use:
            slots.append(Slots(domain=name, worker=worker, held=grant.slots, in_use=want.in_use, wanted=want.wanted))
    if changed:
        Destination.objects.bulk_update(changed, [*_STATE, "bucket_level", "bucket_at", "used_at"])
    _write_slots(worker, wants, slots)
    return grants


def _locked(names: Sequence[str], now: dt.datetime) -> dict[str, Destination]:
    """Return the destinations' rows, made where there were none, locked until the transaction ends.

    All are made before any is locked, both in one order: who makes one waits for whoever is making it, and must hold
    nothing then that the other waits for.
    """
    rows = Destination.objects.filter(domain__in=names)
    known = set(rows.values_list("domain", flat=True))
    missing = [Destination(domain=name, used_at=now) for name in sorted(names) if name not in known]
    Destination.objects.bulk_create(missing, ignore_conflicts=True)
    return {row.domain: row for row in rows.order_by("domain").select_for_update(no_key=True)}


def _held(names: Sequence[str], living: set[str]) -> defaultdict[str, list[_Held]]:
    held: defaultdict[str, list[_Held]] = defaultdict(list)
    for domain, name, count, wanted in Slots.objects.filter(domain__in=names).values_list(
        "domain", "worker", "held", "wanted"
    ):
        if name in living:
            held[domain].append(_Held(name, count, wanted))
    return held


def _settled(
    row: Destination,
    want: Want,
    others: Sequence[_Held],
    worker: str,
    living: int,
    now: dt.datetime,
    default_cap: int,
) -> tuple[Grant, bool]:
    """Return what the worker gets, and whether the destination's row was changed on the way."""
    cap = cap_of(row, default_cap)
    before = state_of(row)
    after = state.after(before, want.marks, cap)
    is_changed = replace(after, answered_at=None) != replace(before, answered_at=None)
    if _is_later(after.answered_at, before.answered_at, ANSWERED_STEP):
        is_changed = True
    for name in _STATE:
        setattr(row, name, getattr(after, name))
    if _is_later(now, row.used_at, USED_STEP) or row.used_at > now:
        row.used_at, is_changed = now, True
    capacity = state.capacity(after, cap, now)
    messages = None
    if row.per_minute is not None:
        messages = _messages(row, want, row.per_minute, now, is_paused=not capacity)
        is_changed = True
    demands = {one.worker: one.wanted for one in others} | {worker: want.wanted}
    slots = shares.new_slots(
        capacity, worker=worker, in_use=want.in_use, demands=demands, held={one.worker: one.held for one in others}
    )
    if not want.in_use and not others:  # who is first leaves something for those that may come with the same mail
        slots = min(slots, -(-capacity // living))
    share = shares.shares(capacity, demands).get(worker, 0)
    return Grant(slots, share, after, row.max_connections, row.per_minute, messages, bool(others)), is_changed


def _messages(row: Destination, want: Want, per_minute: int, now: dt.datetime, *, is_paused: bool) -> int:
    bucket = rates.filled(Bucket(row.bucket_level + want.unused, row.bucket_at), per_minute, now)
    count, bucket = rates.taken(bucket, 0 if is_paused else want.wanted - want.in_use)
    row.bucket_level, row.bucket_at = bucket.level, bucket.at
    return count


def _is_later(new: dt.datetime | None, old: dt.datetime | None, by: dt.timedelta) -> bool:
    return new is not None and (old is None or new - old >= by or new < old)


def _write_slots(worker: str, wants: Mapping[str, Want], slots: Sequence[Slots]) -> None:
    if slots:
        Slots.objects.bulk_create(
            slots,
            update_conflicts=True,
            unique_fields=["domain", "worker"],
            update_fields=["held", "in_use", "wanted"],
        )
    kept = {one.domain for one in slots}
    if gone := [name for name in wants if name not in kept]:
        Slots.objects.filter(worker=worker, domain__in=gone).delete()


def lift(domains: Iterable[str], now: dt.datetime) -> list[str]:
    """End the pauses of these destinations, in the caller's transaction; return those that were paused.

    What they taught stays: one delivery tries, and a pause that follows is longer than the one before.
    """
    rows = Destination.objects.filter(domain__in=sorted(domains), paused_until__gt=now).order_by("domain")
    names = list(rows.select_for_update(no_key=True).values_list("domain", flat=True))
    Destination.objects.filter(domain__in=names).update(paused_until=None)
    return names


def reset(domains: Iterable[str]) -> int:
    """Forget what these destinations taught: no pause, and connections up to their limit. For people."""
    blank = State()
    changes = {name: getattr(blank, name) for name in _STATE if name not in ("failure", "failed_at", "answered_at")}
    return Destination.objects.filter(domain__in=list(domains)).update(**changes)
