"""The suppression list at work: asked before each attempt, written when a recipient turns out to be gone (ADR 0015).

Only mail that an account sent is concerned, by SMTP or HTTP. Reports, forwards and what comes in for our own mailboxes
are not its business: a report must reach its sender, whatever the list says.
"""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from django.conf import settings
from django.db.models import Count, F, Q

from accounts.names import fold_address
from mailflow.events import clean_text
from mailflow.ids import new_row_id
from mailflow.models import Message
from queue.bounce_class import Weight
from queue.claim import Parcel
from queue.models import SoftBounce, Suppression
from queue.outcome import LIST, Outcome, failed

EMPTY_KEPT_SECONDS = 1.0  # so much later a worker may hear of the first row of an empty list
FILLED_KEPT_SECONDS = 60.0  # so much longer an emptied list is asked for nothing
STATUS = "5.7.1"
SENT_BY_ACCOUNTS = frozenset([Message.Source.SUBMISSION.value, Message.Source.HTTP.value])
_MAX_WORDS = 300

Reason = Suppression.Reason
# A row gives way to a reason that comes later in this list; what a person entered gives way to nothing.
# The recipient's own wish has no end, and so outweighs what a host said; a complaint says more than an opt-out.
_WEAKER_FIRST = (
    Reason.SOFT_BOUNCES.value, Reason.HARD_BOUNCE.value, Reason.UNSUBSCRIBE.value, Reason.COMPLAINT.value,
)  # fmt: skip
_TOLD = {
    Reason.HARD_BOUNCE: "since mail to it came back for good",
    Reason.SOFT_BOUNCES: "since mail to it came back again and again",
    Reason.COMPLAINT: "since mail to it was reported as unwanted",
    Reason.UNSUBSCRIBE: "since its owner unsubscribed",
    Reason.MANUAL: "entered by a person",
}


@dataclass(frozen=True, slots=True)
class Hit:
    """The row that keeps a recipient's mail back. `source_message_id` only where its sender may know of it."""

    row_id: int
    reason: str
    words: str
    since: dt.datetime
    source_message_id: str
    scope: str

    def told(self, recipient: str) -> str:
        """Say which row it is, and why, as a clause."""
        source = f", from message {self.source_message_id}" if self.source_message_id else ""
        words = f': "{self.words[:_MAX_WORDS]}"' if self.words else ""
        return (
            f"{recipient} is on the suppression list {self.scope} since {self.since:%Y-%m-%d %H:%M} UTC "
            f"(row {self.row_id}, {Reason(self.reason).label.lower()}{source}){words}"
        )

    def told_to_sender(self, recipient: str) -> str:
        """Say the same for a report: why and since when, and what a host said; no row, and no note of a person."""
        is_of_host = self.reason in (Reason.HARD_BOUNCE.value, Reason.SOFT_BOUNCES.value)
        words = f': "{self.words[:_MAX_WORDS]}"' if is_of_host and self.words else ""
        return (
            f"{recipient} is on the suppression list {self.scope} since {self.since:%Y-%m-%d %H:%M} UTC, "
            f"{_TOLD[Reason(self.reason)]}{words}"
        )


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one bounce or complaint says of one recipient, and whose mail it was.

    `is_proven`: nobody but the recipient's own host can have said it; else it is counted, whatever its weight.
    """

    entry_id: int
    message_id: str
    recipient: str
    organization_id: int | None
    weight: Weight
    words: str
    reason: Suppression.Reason = Reason.HARD_BOUNCE
    is_proven: bool = True
    trace_id: str = ""


@dataclass(frozen=True, slots=True)
class Added:
    """A row that was written, and what led to it."""

    evidence: Evidence
    row_id: int
    reason: str
    expires_at: dt.datetime | None

    @property
    def told(self) -> str:
        until = f" until {self.expires_at:%Y-%m-%d %H:%M} UTC" if self.expires_at else ""
        return (
            f"{self.evidence.recipient} is on the suppression list from now on{until} "
            f"(row {self.row_id}, {Reason(self.reason).label.lower()}): no more mail of this organization goes there"
        )


# --- asked ------------------------------------------------------------------------------------------------------------

_empty_until = 0.0
_filled_until = 0.0


def forget() -> None:
    """Forget whether the list was empty: this process has changed it."""
    global _empty_until, _filled_until
    _empty_until = _filled_until = 0.0


def is_concerned(parcel: Parcel) -> bool:
    return parcel.source in SENT_BY_ACCOUNTS and bool(parcel.reverse_path)


def blocked(parcels: Iterable[Parcel], now: dt.datetime) -> Mapping[int, Hit]:
    """Return, by entry, the rows that keep mail back: one query for all, none while the list is empty."""
    asked = {parcel.entry_id: (parcel, fold_address(parcel.recipient)) for parcel in parcels if is_concerned(parcel)}
    if not asked or _is_empty():
        return {}
    owners = {parcel.organization_id for parcel, _ in asked.values()} - {None}
    rows: dict[str, list[Suppression]] = {}
    found = Suppression.objects.filter(
        Q(organization__isnull=True) | Q(organization__in=owners),
        Q(expires_at__isnull=True) | Q(expires_at__gt=now),
        address__in={address for _, address in asked.values()},
    )
    for row in found.order_by("pk"):
        rows.setdefault(row.address, []).append(row)
    hits = {entry_id: _hit(parcel, rows.get(address, ())) for entry_id, (parcel, address) in asked.items()}
    return {entry_id: hit for entry_id, hit in hits.items() if hit is not None}


def _is_empty() -> bool:
    global _empty_until, _filled_until
    now = time.monotonic()
    if now < _empty_until or now < _filled_until:
        return now < _empty_until
    if Suppression.objects.exists():
        _filled_until = now + FILLED_KEPT_SECONDS
        return False
    _empty_until = now + EMPTY_KEPT_SECONDS
    return True


def _hit(parcel: Parcel, rows: Sequence[Suppression]) -> Hit | None:
    """Return the row that applies, the narrowest first: its owner can do most about it."""
    domain = parcel.reverse_path.rpartition("@")[2].lower()
    scopes = {
        (parcel.organization_id, domain): f"of {domain}",
        (parcel.organization_id, ""): "of its sender's organization",
        (None, ""): "of this mail system",
    }
    for scope, told in scopes.items():
        for row in rows:
            if (row.organization_id, row.sending_domain) == scope:
                source = row.source_message_id if row.organization_id is not None else ""
                return Hit(row.pk, row.reason, row.words, row.created_at, source, told)
    return None


def kept_back(parcel: Parcel, hit: Hit) -> Outcome:
    """Return how it ends for a recipient who is on the list: in our own words, which name the row."""
    return failed(f"Not sent: {hit.told(parcel.recipient)}.", transport=LIST, enhanced_code=STATUS)


def count_hits(hits: Sequence[Hit], now: dt.datetime) -> None:
    """Note on the rows that they were hit, in the caller's transaction; one statement for each number of hits."""
    by_count: dict[int, list[int]] = {}
    for row_id, count in Counter(hit.row_id for hit in hits).items():
        by_count.setdefault(count, []).append(row_id)
    for count, row_ids in sorted(by_count.items()):
        Suppression.objects.filter(pk__in=sorted(row_ids)).update(hits=F("hits") + count, last_hit_at=now)


# --- written ----------------------------------------------------------------------------------------------------------


def learns_from(parcel: Parcel, outcome: Outcome) -> bool:
    """Whether the end of an attempt says something of its recipient: another host's own words, about a sent message.

    The simulated internet teaches nothing, unless all mail goes there.
    """
    is_real = not parcel.is_sandbox or settings.DELIVERY_MODE == "sandbox"
    return is_concerned(parcel) and is_real and outcome.code is not None and outcome.transport != "local"


def learn(evidence: Sequence[Evidence], now: dt.datetime) -> list[Added]:
    """Put on the list who is proven to be gone or to have complained, and whose bounces have become too many.

    In the caller's transaction. Mail without an organization teaches nothing: there is no list of its sender's.
    """
    told = [one for one in evidence if one.organization_id is not None and one.weight is not Weight.NONE]
    if not told:
        return []
    final = [one for one in told if one.is_proven and one.weight is Weight.HARD]
    counted = [one for one in told if not (one.is_proven and one.weight is Weight.HARD)]
    wanted = [(one, _words(one), _kept_until(one.reason, now)) for one in final]
    for one, count in _count(counted, now):
        words = f"{count} bounces within {_spoken(settings.SUPPRESSION_SOFT_WINDOW_SECONDS)}, the last: {_words(one)}"
        one = replace(one, reason=Reason.SOFT_BOUNCES)
        wanted.append((one, words, _kept_until(Reason.SOFT_BOUNCES, now)))
    return _write(wanted, now)


def _words(evidence: Evidence) -> str:
    return clean_text(evidence.words, 1000)


def _kept_until(reason: Suppression.Reason, now: dt.datetime) -> dt.datetime | None:
    """A complaint and an opt-out hold until somebody removes them; an address that was gone may be somebody's again."""
    seconds = {
        Reason.HARD_BOUNCE: settings.SUPPRESSION_HARD_KEEP_SECONDS,
        Reason.SOFT_BOUNCES: settings.SUPPRESSION_SOFT_KEEP_SECONDS,
    }.get(reason, 0)
    return now + dt.timedelta(seconds=seconds) if seconds else None


def _count(evidence: Sequence[Evidence], now: dt.datetime) -> list[tuple[Evidence, int]]:
    """Note the bounces, each entry's once, and return the recipients that have had too many of them."""
    limit = settings.SUPPRESSION_SOFT_BOUNCES
    if not (evidence and limit):
        return []
    latest = {(one.organization_id, fold_address(one.recipient)): one for one in evidence}
    SoftBounce.objects.bulk_create(
        [
            SoftBounce(
                id=new_row_id(),
                entry_id=one.entry_id,
                organization_id=one.organization_id or 0,
                address=clean_text(fold_address(one.recipient), 320),
                created_at=now,
            )
            for one in evidence
        ],
        ignore_conflicts=True,
    )
    since = now - dt.timedelta(seconds=settings.SUPPRESSION_SOFT_WINDOW_SECONDS)
    rows = SoftBounce.objects.filter(
        address__in={address for _, address in latest},
        organization_id__in={organization for organization, _ in latest},
        created_at__gt=since,
    )
    counts = rows.values_list("organization_id", "address").annotate(number=Count("pk"))
    return [
        (latest[organization, address], number)
        for organization, address, number in counts.order_by()
        if number >= limit and (organization, address) in latest
    ]


def forget_bounces(recipients: Iterable[tuple[int | None, str]]) -> None:
    """Begin to count anew for these addresses of organizations, whose rows a person has removed."""
    for organization_id, address in recipients:
        if organization_id is not None:
            SoftBounce.objects.filter(address=address, organization_id=organization_id).delete()


def _write(wanted: Sequence[tuple[Evidence, str, dt.datetime | None]], now: dt.datetime) -> list[Added]:
    if not wanted:
        return []
    rows = {(row.organization_id, row.address): row for row in _locked([one for one, _, _ in wanted])}
    fresh: dict[tuple[int | None, str], Suppression] = {}
    changed: dict[tuple[int | None, str], Suppression] = {}
    added: dict[tuple[int | None, str], Added] = {}
    for evidence, words, expires_at in wanted:
        scope = (evidence.organization_id, fold_address(evidence.recipient))
        row = fresh.get(scope) or rows.get(scope)
        if row is not None and not _gives_way(row, evidence.reason, now):
            continue
        if row is None:
            row = fresh[scope] = Suppression(organization_id=scope[0], address=scope[1])
        elif scope not in fresh:
            changed[scope] = row
        row.reason, row.words, row.expires_at = evidence.reason.value, words, expires_at
        row.source_message_id, row.created_at, row.created_by = evidence.message_id, now, ""
        added[scope] = Added(evidence, row.pk, row.reason, expires_at)
    # A rival that has written the same row meanwhile was told the same: its row stands.
    Suppression.objects.bulk_create(list(fresh.values()), ignore_conflicts=True)
    fields = ["reason", "words", "expires_at", "source_message_id", "created_at", "created_by"]
    Suppression.objects.bulk_update(list(changed.values()), fields)
    forget()
    return list(added.values())


def _locked(evidence: Sequence[Evidence]) -> list[Suppression]:
    rows = Suppression.objects.filter(
        address__in={fold_address(one.recipient) for one in evidence},
        organization__in={one.organization_id for one in evidence},
        sending_domain="",
    )
    return list(rows.order_by("pk").select_for_update(no_key=True))


def _gives_way(row: Suppression, reason: Suppression.Reason, now: dt.datetime) -> bool:
    if not row.is_in_force(now):
        return True
    if row.reason not in _WEAKER_FIRST or reason.value not in _WEAKER_FIRST:
        return False
    return _WEAKER_FIRST.index(row.reason) < _WEAKER_FIRST.index(reason.value)


def _spoken(seconds: float) -> str:
    days = seconds / 86400
    return f"{days:g} days" if days >= 2 else f"{seconds / 3600:g} hours"
