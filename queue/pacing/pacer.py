"""One worker's side of pacing, on its event loop: which delivery may begin now, and what is told and asked every beat.

It works with what `ledger` granted, and learns at once from its own deliveries; other workers hear of that at its next
beat.
"""

from __future__ import annotations

import datetime as dt
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from queue.claim import Parcel
from queue.finding import Closed
from queue.lanes import Lanes, Speed, is_retry
from queue.outcome import Outcome
from queue.pacing import signals, state
from queue.pacing.ledger import Grant, Want
from queue.pacing.signals import Signal
from queue.pacing.state import Mark, State

SLOW_SECONDS = 5.0  # a delivery that takes longer makes its domain a slow one
SOON_SECONDS = 0.5  # no destination is asked for twice within that, but for a beat
REFRESH_SECONDS = 10.0  # for what people change in a destination's row
# Without a slot for so long, a worker leaves a domain's entries to those that have one.
PATIENCE_BEATS = 30
PATIENCE_BEATS_WITHOUT_SHARE = 3  # there are fewer connections than workers that want one
CLOSED_SECONDS = 10.0
MAX_KNOWN_SPEEDS = 10_000
_MAX_MARKS = 1000  # between two beats, for one domain


@dataclass(slots=True)
class _View:
    """What this worker has of one destination: as granted, and what came since (`state`, `messages`, `marks`)."""

    grant: Grant
    state: State
    asked_at: float
    messages: int | None = None
    marks: list[Mark] = field(default_factory=list)
    beats_without: int = 0


@dataclass(frozen=True, slots=True)
class Begun:
    """A delivery that runs, and counts for the domain of its first parcel; `began` by the steady clock.

    `parcels` is whoever delivers' own list: who turns out to go another way is taken out of it.
    """

    parcels: Sequence[Parcel]
    since: dt.datetime
    began: float
    is_retry: bool

    @property
    def domain(self) -> str:
        return self.parcels[0].domain


class Pacer:
    """`wall` and `steady` are the clocks: the time of day, and seconds that never jump.

    `kept` answers how many idle connections the transport keeps open for a domain, `trim` lets it keep no more than so
    many: they are connections of the destination, too. `companions` tells of a recipient which others of the message,
    in other domains, one host takes the mail for (`queue.router`).
    """

    def __init__(
        self,
        *,
        max_running: int,
        default_cap: int,
        wall: Callable[[], dt.datetime],
        steady: Callable[[], float],
        kept: Callable[[str], int] = lambda _: 0,
        trim: Callable[[str, int], None] = lambda _domain, _count: None,
        companions: Callable[[Parcel], Callable[[Parcel], bool] | None] = lambda _: None,
        chance: random.Random | None = None,
    ) -> None:
        self.lanes = Lanes(max_running)
        self.default_cap = default_cap
        self.begun: dict[int, Begun] = {}
        self.others = 0  # workers that are alive
        self.holds_until = 0.0  # by the steady clock: later than that, our slots may be others'
        self._wall, self._steady = wall, steady
        self._kept, self._trim, self._companions = kept, trim, companions
        self._chance = chance or random.Random()  # noqa: S311  (spreads load, keeps no secret)
        self._views: dict[str, _View] = {}
        self._speeds: OrderedDict[str, Speed] = OrderedDict()
        self._shut: dict[str, float] = {}  # domains without a slot for us, until
        self._asking: set[str] = set()  # the ledger has the word
        self._number = 0

    # --- deliveries ---------------------------------------------------------------------------------------------------

    def add(self, parcels: Iterable[Parcel]) -> bool:
        """Put parcels into their lanes; return whether the ledger must be asked for some."""
        domains = set()
        for parcel in parcels:
            self.lanes.add(parcel)
            domains.add(parcel.domain)
        for domain in domains:
            self._open(domain)
        return any(self._wants_more(domain) for domain in domains)

    def _wants_more(self, domain: str) -> bool:
        """Whether a question to the ledger may bring slots at once; the next beat asks in any case."""
        view = self._views.get(domain)
        if view is None:
            return True
        if view.grant.is_shared or self._steady() - view.asked_at < SOON_SECONDS:
            return False
        capacity = self._capacity(view)
        return not capacity or view.grant.slots < min(capacity, self.lanes.demand_of(domain))

    def unknown(self, domains: Iterable[str]) -> set[str]:
        """Return those that nothing is granted for; may be called from any thread."""
        return {domain for domain in domains if domain not in self._views}

    def apply(self, *, max_running: int, default_cap: int) -> None:
        """Work with other limits from now on."""
        self.lanes.max_running, self.default_cap = max_running, default_cap
        for domain in self._views:
            self._open(domain)

    def begin(self) -> tuple[int, list[Parcel]] | None:
        """Return the next delivery to start, with a number to end it by; None where none may begin."""
        if self._steady() >= self.holds_until:
            return None
        parcels = self.lanes.next()
        if parcels is None:
            return None
        if self.lanes.has_others(parcels[0]) and (go_along := self._companions(parcels[0])) is not None:
            parcels += self.lanes.take_along(parcels, go_along)
        view = self._views.get(parcels[0].domain)
        if view is not None and view.messages is not None:
            view.messages -= 1
        self._number += 1
        self.begun[self._number] = Begun(parcels, self._wall(), self._steady(), is_retry(parcels[0]))
        return self._number, parcels

    def end(self, number: int, outcomes: Sequence[Outcome]) -> None:
        """Count a delivery out, and learn from how it ended; without outcomes nothing is learned."""
        begun = self.begun.pop(number)
        domain = begun.domain
        signal, words = signals.of_delivery(outcomes)
        if signal is not Signal.NOTHING:
            is_fast = signal <= Signal.BUSY and self._steady() - begun.began < SLOW_SECONDS
            self._set_speed(domain, Speed.FAST if is_fast else Speed.SLOW)
            self._learn(domain, Mark(signal, begun.since, self._wall(), words, self._chance.random()))
        self.lanes.ended(domain, was_retry=begun.is_retry)
        self._open(domain)

    def note_slow(self) -> None:
        """Count the domains of deliveries that have run for too long as slow."""
        before = self._steady() - SLOW_SECONDS
        for begun in self.begun.values():
            if begun.began < before and self._speeds.get(begun.domain) is not Speed.SLOW:
                self._set_speed(begun.domain, Speed.SLOW)
                self._open(begun.domain)

    def closed(self) -> Closed:
        """Return what should not be claimed now."""
        shut = frozenset(self._shut)
        return Closed(self.lanes.full(retries=False) | shut, self.lanes.full(retries=True) | shut)

    # --- beats --------------------------------------------------------------------------------------------------------

    def wants(self) -> dict[str, Want]:
        """Return what is to be settled with the ledger now: nothing for domains where all is as it was.

        Until the answer comes, no delivery begins for these domains: what the ledger takes from us others may use.
        """
        wants: dict[str, Want] = {}
        now = self._steady()
        for domain, lane in self.lanes:
            view = self._views.get(domain)
            demand = self.lanes.demand_of(domain)
            if view is None:
                wants[domain] = Want(demand, lane.running + self._kept(domain))
            elif self._must_ask(view, demand, now):
                wants[domain] = self._want(domain, view, demand, lane.running)
        for domain in [domain for domain in self._views if domain not in self.lanes]:
            view = self._views[domain]
            if not self._kept(domain):
                del self._views[domain]
                wants[domain] = Want(0, 0, tuple(view.marks), view.messages or 0)
            elif self._must_ask(view, 0, now):
                wants[domain] = self._want(domain, view, 0, 0)
        self._asking = set(wants)
        for domain in wants:
            self._open(domain)
        return wants

    def _want(self, domain: str, view: _View, demand: int, running: int) -> Want:
        want = Want(demand, running + self._kept(domain), tuple(view.marks), view.messages or 0)
        view.marks.clear()
        return want

    def granted(self, grants: Mapping[str, Grant], wants: Mapping[str, Want] | None = None) -> list[Parcel]:
        """Take what the ledger gave, `wants` where it was at a beat.

        Returns the parcels of domains that have no room for us, to be given back.
        """
        homeless: list[Parcel] = []
        if wants is not None:
            self._asking.clear()
        for domain, grant in grants.items():
            if wants is not None and not (wants[domain].wanted or wants[domain].in_use):
                # It was given back, and what a claim was granted meanwhile with it: whatever came since asks anew.
                self._views.pop(domain, None)
                continue
            view = self._views.get(domain)
            marks = [] if view is None else view.marks
            learned = state.after(grant.state, marks, self._cap(grant))
            new = self._views[domain] = _View(grant, learned, self._steady(), grant.messages, marks)
            if not self._limit(new):
                new.beats_without = 1 + (view.beats_without if view else 0)
            self._guess_speed(domain, grant.state)
            self._open(domain)
            if grant.is_shared:
                self._trim(domain, self.idle_limit(domain))
            if not self._limit(new) and self._is_hopeless(new):
                homeless += self.lanes.take_out_of(domain)
                if state.is_paused(grant.state.paused_until, self._wall()):
                    continue  # the row keeps everybody away, for no longer than the pause, which people may lift
                self._shut[domain] = self._steady() + CLOSED_SECONDS * (0.5 + self._chance.random())
        return homeless

    def idle_limit(self, domain: str) -> int:
        """Return how many idle connections may stay open beside the deliveries that run."""
        view = self._views.get(domain)
        return max(0, self._limit(view) - self.lanes.running_of(domain)) if view is not None else 0

    def failed(self, wants: Mapping[str, Want]) -> None:
        """The ledger could not be asked: keep what was learned for the next beat, and go on with what was granted."""
        self._asking.clear()
        for domain, want in wants.items():
            view = self._views.get(domain)
            if view is not None:
                view.marks[:0] = want.marks
            self._open(domain)

    def farewell(self) -> dict[str, Want]:
        """Return what is to be told at the end: everything is given back, and what was learned is kept."""
        return {domain: Want(0, 0, tuple(view.marks), view.messages or 0) for domain, view in self._views.items()}

    def drop(self) -> list[str]:
        """Return the domains that were closed for want of a slot and may be tried again."""
        now = self._steady()
        over = [domain for domain, until in self._shut.items() if until <= now]
        for domain in over:
            del self._shut[domain]
        return over

    # --- inside -------------------------------------------------------------------------------------------------------

    def _must_ask(self, view: _View, demand: int, now: float) -> bool:
        grant = view.grant
        capacity = self._capacity(view)
        return (
            bool(view.marks)
            or self.others > 0
            or grant.is_shared
            or grant.messages is not None
            or grant.slots < min(capacity, demand)
            or grant.slots > capacity
            or bool(demand and not capacity)  # what could be claimed in spite of a pause: perhaps it was lifted
            or now - view.asked_at > REFRESH_SECONDS
        )

    def _is_hopeless(self, view: _View) -> bool:
        patience = PATIENCE_BEATS if view.grant.share else PATIENCE_BEATS_WITHOUT_SHARE
        return not self._capacity(view) or view.beats_without >= patience

    def _cap(self, grant: Grant) -> int:
        return self.default_cap if grant.cap is None else grant.cap

    def _capacity(self, view: _View) -> int:
        return state.capacity(view.state, self._cap(view.grant), self._wall())

    def _limit(self, view: _View) -> int:
        """Return how many deliveries may run: fewer than what is held, where others are to have some of it."""
        slots = min(view.grant.slots, view.grant.share) if view.grant.is_shared else view.grant.slots
        return min(slots, self._capacity(view))

    def _speed(self, domain: str) -> Speed:
        return self._speeds.get(domain, Speed.UNKNOWN)

    def _open(self, domain: str) -> None:
        """Let the lane have what this worker may do there; nothing where nothing is granted."""
        view = self._views.get(domain)
        if domain in self._asking:
            self.lanes.give(domain, limit=0, messages=0, speed=self._speed(domain))
        elif view is not None:
            self.lanes.give(domain, limit=self._limit(view), messages=view.messages, speed=self._speed(domain))

    def _learn(self, domain: str, mark: Mark) -> None:
        view = self._views.get(domain)
        if view is None:
            return
        known = view.state
        is_news = mark.signal > Signal.DELIVERED or not known.is_calm or _is_old(known, mark.ended_at)
        if is_news and len(view.marks) < _MAX_MARKS:
            view.marks.append(mark)
            view.state = state.after(known, [mark], self._cap(view.grant))

    def _set_speed(self, domain: str, speed: Speed) -> None:
        self._speeds[domain] = speed
        self._speeds.move_to_end(domain)
        if len(self._speeds) > MAX_KNOWN_SPEEDS:
            self._speeds.popitem(last=False)

    def _guess_speed(self, domain: str, known: State) -> None:
        """Take from the row what this worker has not seen itself."""
        if domain in self._speeds:
            return
        if known.failures:
            self._set_speed(domain, Speed.SLOW)
        elif known.answered_at is not None and self._wall() - known.answered_at < state.REMEMBERED:
            self._set_speed(domain, Speed.FAST)


def _is_old(known: State, now: dt.datetime) -> bool:
    return known.answered_at is None or abs(now - known.answered_at) >= state.STILL_WORKS
