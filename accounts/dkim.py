"""The DKIM keys of domains through their life: made, prepared, in use, retired; each step leaves a trail.

A domain signs with one RSA and one Ed25519 key (RFC 8463 §6). In a rotation both get successors under new selectors,
since what was signed under the old ones is verified for a while yet (RFC 6376 §5.2).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Sequence

from django.db import transaction
from django.utils import timezone

from accounts import sealed
from accounts.dkim_records import MAX_NAME_OCTETS, TxtRecord, key_record, record_name
from accounts.key_pairs import ED25519, RSA, KeyPair, generate
from accounts.models import DkimKey, Domain
from accounts.trail import entry, leave

ALGORITHMS = (RSA, ED25519)
KEEP_PUBLISHED = dt.timedelta(days=14)  # mail may wait that long in queues, and in mailboxes that verify late

_INITIALS = {RSA: "r", ED25519: "e"}
_OPEN = (DkimKey.State.PREPARED, DkimKey.State.ACTIVE)


class CannotSign(ValueError):
    """The domain cannot have DKIM keys; the text says why."""


def ensure_keys(domain: Domain, *, actor: str = "", client: str = "") -> list[DkimKey]:
    """Make an active key of each algorithm that the domain has none of; return the new ones. May be called again.

    Called wherever a domain is made. Making an RSA key takes up to half a second, before any transaction of this
    function's own; raises `CannotSign`.
    """
    wanted = _missing(domain, DkimKey.State.ACTIVE)
    if not wanted:
        return []
    pairs = _pairs(domain, wanted)
    with transaction.atomic():
        domain = _locked(domain)
        still = _missing(domain, DkimKey.State.ACTIVE)
        made = [_create(domain, pair, DkimKey.State.ACTIVE) for pair in pairs if pair.algorithm in still]
        _trail("dkim_key.created", domain, made, actor, client, "Made, and active")
    return made


def prepare(domain: Domain, *, actor: str = "", client: str = "") -> list[DkimKey]:
    """Make the successors of the domain's keys, whose records can then be published before they sign.

    Returns the prepared keys, also those that were there. Raises `CannotSign`.
    """
    pairs = _pairs(domain, _missing(domain, DkimKey.State.PREPARED))
    with transaction.atomic():
        domain = _locked(domain)
        still = _missing(domain, DkimKey.State.PREPARED)
        made = [_create(domain, pair, DkimKey.State.PREPARED) for pair in pairs if pair.algorithm in still]
        _trail("dkim_key.prepared", domain, made, actor, client, "Made, to sign after the next rotation")
        return list(_keys(domain, DkimKey.State.PREPARED))


def rotate(domain: Domain, *, actor: str = "", client: str = "") -> list[DkimKey]:
    """Let the prepared keys sign from now on, or new ones where none are prepared, and retire those that signed so far.

    Returns the keys that sign now. Raises `CannotSign`.
    """
    pairs = {pair.algorithm: pair for pair in _pairs(domain, _missing(domain, DkimKey.State.PREPARED))}
    with transaction.atomic():
        domain = _locked(domain)
        retired = [key for key in _keys(domain, DkimKey.State.ACTIVE) if _retire(key)]
        prepared = {key.algorithm: key for key in _keys(domain, DkimKey.State.PREPARED)}
        active = []
        for algorithm in ALGORITHMS:
            if algorithm in prepared:
                active.append(_activate(prepared[algorithm]))
            else:  # another rotation may have taken the prepared one meanwhile
                pair = pairs.get(algorithm) or generate(algorithm)
                active.append(_create(domain, pair, DkimKey.State.ACTIVE))
        before = f"; retired: {_named(retired)}" if retired else ""
        _trail("dkim_key.rotated", domain, active, actor, client, "Signing from now on", after=before)
    return active


def retire(key: DkimKey, *, actor: str = "", client: str = "") -> bool:
    """End a key's use for good and erase its private part; False where it is retired already."""
    with transaction.atomic():
        ended = _retire(key)
        if ended:
            _trail("dkim_key.retired", key.domain, [key], actor, client, "Retired")
    return ended


def record_of(key: DkimKey) -> TxtRecord:
    """Return the record that the domain's owner publishes for a key."""
    name, algorithm = key.domain.name, key.algorithm
    return key_record(selector=key.selector, domain=name, algorithm=algorithm, public_key=key.public_key)


def records_to_publish(domain: Domain) -> list[TxtRecord]:
    """Return the records of all keys that sign, are prepared, or were retired so lately that mail may rely on them."""
    return [record_of(key) for key in keys_to_publish(domain, timezone.now())]


def keys_to_publish(domain: Domain, now: dt.datetime) -> list[DkimKey]:
    keys = domain.dkim_keys.select_related("domain").order_by("-created_at", "-algorithm")
    return [key for key in keys if is_to_be_published(key, now)]


def is_to_be_published(key: DkimKey, now: dt.datetime) -> bool:
    """Whether the record must stand in DNS: a key that never signed needs none once it is retired."""
    if key.state != DkimKey.State.RETIRED:
        return True
    return key.activated_at is not None and (until := published_until(key)) is not None and now < until


def published_until(key: DkimKey) -> dt.datetime | None:
    """Return until when the record of a retired key should stay; None while it is not retired."""
    return key.retired_at + KEEP_PUBLISHED if key.retired_at is not None else None


def _missing(domain: Domain, state: DkimKey.State) -> list[str]:
    there = set(domain.dkim_keys.filter(state=state).values_list("algorithm", flat=True))
    return [algorithm for algorithm in ALGORITHMS if algorithm not in there]


def _pairs(domain: Domain, algorithms: Iterable[str]) -> list[KeyPair]:
    if len(record_name("e20000101-999", domain.name)) > MAX_NAME_OCTETS:
        raise CannotSign(f"The name {domain.name} is too long to have a DKIM record.")
    return [generate(algorithm) for algorithm in algorithms]


def _locked(domain: Domain) -> Domain:
    """Return the domain, its name as it is kept; no other change of its keys comes in between.

    On SQLite the transaction sees to that.
    """
    return Domain.objects.select_for_update(no_key=True).get(pk=domain.pk)


def _keys(domain: Domain, state: DkimKey.State) -> list[DkimKey]:
    return list(domain.dkim_keys.select_related("domain").filter(state=state).order_by("-algorithm"))


def _create(domain: Domain, pair: KeyPair, state: DkimKey.State) -> DkimKey:
    now = timezone.now()
    taken = set(domain.dkim_keys.values_list("selector", flat=True))
    key = DkimKey(
        domain=domain,
        selector=_new_selector(pair.algorithm, now, taken),
        algorithm=pair.algorithm,
        state=state,
        public_key=pair.public_key,
        activated_at=now if state == DkimKey.State.ACTIVE else None,
    )
    key.sealed_private_key = sealed.seal(pair.private_octets, key.place)
    key.save()
    return key


def _new_selector(algorithm: str, now: dt.datetime, taken: Collection[str]) -> str:
    """Return a selector that was never used: that of another key would make its mail unverifiable (RFC 6376 §3.1)."""
    base = selector = f"{_INITIALS[algorithm]}{now:%Y%m%d}"
    number = 1
    while selector in taken:
        number += 1
        selector = f"{base}-{number}"
    return selector


def _activate(key: DkimKey) -> DkimKey:
    key.state, key.activated_at = DkimKey.State.ACTIVE, timezone.now()
    key.save(update_fields=["state", "activated_at"])
    return key


def _retire(key: DkimKey) -> bool:
    now = timezone.now()
    ended = DkimKey.objects.filter(pk=key.pk, state__in=_OPEN).update(
        state=DkimKey.State.RETIRED, retired_at=now, sealed_private_key=""
    )
    if ended:
        key.state, key.retired_at, key.sealed_private_key = DkimKey.State.RETIRED, now, ""
    return bool(ended)


def _trail(
    kind: str, domain: Domain, keys: Sequence[DkimKey], actor: str, client: str, words: str, *, after: str = ""
) -> None:
    if keys:
        detail = f"{words}: {_named(keys)}{after}."
        leave([entry(kind, domain.name, detail, {"actor": actor, "client": client})])


def _named(keys: Iterable[DkimKey]) -> str:
    return ", ".join(f"{key.selector} ({key.get_algorithm_display()})" for key in keys)
