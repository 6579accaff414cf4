"""Reverse paths that name what they were sent for: put on mail that leaves, followed back when mail comes (ADR 0015).

The message as it is kept has its own reverse path throughout, and so have our reports. Only the transaction with
another host bears the made one, which is in the same domain: what SPF says of the one, it says of the other.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from django.conf import settings

from accounts import addresses, verp
from accounts.addresses import Found, Resolution
from accounts.models import Alias, Domain
from accounts.names import MAX_PATH_OCTETS, Address, InvalidName, parse_address
from mailflow.ids import MESSAGE_ID_PREFIX
from mailflow.mailboxes import QuotaVerdict, quota_verdict
from mailflow.models import Message
from queue.claim import Parcel
from queue.models import Entry

Pair = tuple[Parcel, Resolution]

_SOURCES = {
    "off": frozenset[str](),
    "http": frozenset([Message.Source.HTTP.value]),
    "all": frozenset([Message.Source.HTTP.value, Message.Source.SUBMISSION.value]),
}
DOMAINS_KEPT_SECONDS = 2.0
_MAX_DOMAINS = 10_000
_domains: dict[str, tuple[float, bool]] = {}


# --- out --------------------------------------------------------------------------------------------------------------


def marked(parcels: Sequence[Parcel]) -> list[Parcel]:
    """Say of each parcel whether it leaves with a made reverse path: at most one query for all of them."""
    sources = _SOURCES[settings.VERP]
    wanted = {_domain(parcel.reverse_path) for parcel in parcels if parcel.source in sources and parcel.reverse_path}
    taking = _taking_mail(wanted) if wanted else frozenset()
    return [
        replace(parcel, has_own_return_path=True)
        if parcel.source in sources and _domain(parcel.reverse_path) in taking
        else parcel
        for parcel in parcels
    ]


def reverse_path_of(parcels: Sequence[Parcel]) -> str:
    """Return the reverse path of one transaction.

    With one recipient it names the queue entry, with several the message: what comes back then proves less.
    """
    first = parcels[0]
    if not first.has_own_return_path:
        return first.reverse_path
    if len(parcels) == 1:
        payload = first.entry_id.to_bytes(verp.ENTRY_OCTETS)
    else:
        payload = bytes.fromhex(first.message_id.removeprefix(MESSAGE_ID_PREFIX))
    # Not today: an attempt tomorrow must look the same to a host that lists greylisted senders.
    address = str(verp.address_for(payload, _domain(first.reverse_path), first.expires_at.date()))
    return address if len(address) <= MAX_PATH_OCTETS else first.reverse_path


def _domain(reverse_path: str) -> str:
    return reverse_path.rpartition("@")[2].lower()


def _taking_mail(names: Iterable[str]) -> frozenset[str]:
    """Return those of the domains to which a bounce can come back; what is known is kept for a moment."""
    now = time.monotonic()
    unknown = [name for name in names if _domains.get(name, (0.0, False))[0] <= now]
    if unknown:
        taking = {domain.name for domain in Domain.objects.filter(name__in=unknown) if domain.takes_mail}
        if len(_domains) > _MAX_DOMAINS:
            _domains.clear()
        _domains.update({name: (now + DOMAINS_KEPT_SECONDS, name in taking) for name in unknown})
    return frozenset(name for name in names if _domains[name][1])


def forget() -> None:
    _domains.clear()


# --- back -------------------------------------------------------------------------------------------------------------


def handed_on(pairs: Sequence[Pair]) -> list[Pair]:
    """Put in place of each made reverse path whoever reads mail for the original one, so that a person sees it too.

    Where nobody does (`noreply@…`), or that mailbox is full, it stays what it is: it is read here and not kept.
    """
    payloads = {resolution.sent_for for _, resolution in pairs if resolution.found is Found.RETURN_PATH}
    if not payloads:
        return list(pairs)
    origins = _origins(payloads)
    readers = addresses.resolve_many(set(origins.values()))
    return [
        (parcel, _reader(parcel, resolution, readers.get(origins[resolution.sent_for])))
        if resolution.found is Found.RETURN_PATH and resolution.sent_for in origins
        else (parcel, resolution)
        for parcel, resolution in pairs
    ]


def _reader(parcel: Parcel, resolution: Resolution, reader: Resolution | None) -> Resolution:
    if reader is None or not _has_room(parcel, reader):
        return resolution
    silent = Alias.Announcement.SILENT.value
    return replace(reader, sent_for=resolution.sent_for, announcement=silent)


def _has_room(parcel: Parcel, reader: Resolution) -> bool:
    if reader.found is Found.ALIAS:
        return reader.announcement != Alias.Announcement.MOVED
    verdict = quota_verdict(reader.used_octets, parcel.size_octets, reader.quota_octets)
    return reader.found is Found.MAILBOX and verdict is QuotaVerdict.OK


def _origins(payloads: Iterable[bytes]) -> Mapping[bytes, Address]:
    """Return the reverse paths of the messages that the payloads name, as far as these are still kept."""
    entry_ids = [payload for payload in payloads if len(payload) == verp.ENTRY_OCTETS]
    message_ids = [payload for payload in payloads if len(payload) == verp.MESSAGE_OCTETS]
    paths: dict[bytes, str] = {}
    if entry_ids:
        rows = Entry.objects.filter(pk__in=[entry_id_of(payload) for payload in entry_ids])
        for entry_id, path in rows.values_list("pk", "message__reverse_path"):
            paths[entry_id.to_bytes(verp.ENTRY_OCTETS)] = path
    if message_ids:
        messages = Message.objects.filter(pk__in=[message_id_of(payload) for payload in message_ids])
        for message_id, path in messages.values_list("pk", "reverse_path"):
            paths[bytes.fromhex(message_id.removeprefix(MESSAGE_ID_PREFIX))] = path
    found = {}
    for payload, path in paths.items():
        try:
            found[payload] = parse_address(path)
        except InvalidName:
            continue
    return found


def entry_id_of(payload: bytes) -> int:
    return int.from_bytes(payload) & (2**63 - 1)  # an id has 63 bits; the code over it is ours, so it is one


def message_id_of(payload: bytes) -> str:
    return f"{MESSAGE_ID_PREFIX}{payload.hex()}"
