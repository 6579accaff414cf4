"""API keys: made, recognised, rotated, revoked, and counted against their daily limit (contract §1.3).

A key is `sk_live_` or `sk_test_` and 288 random bits. Its first 20 characters are kept to look it up by, of the whole
only a keyed SHA-256: a random key needs no slow hash. `SECRET_KEY_FALLBACKS` is honoured, so the secret can be changed.
Nothing here is remembered between requests: what is revoked opens nothing from that moment on, in every process.
"""

from __future__ import annotations

import datetime as dt
import re
import secrets
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import DatabaseError, transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac

from accounts import daily_counts, key_rows, users
from accounts.models import ApiKey, DailyUsage, Scope, TrailEntry, User
from accounts.models.api_key import DEFAULT_SCOPES
from accounts.names import Address, fold_address

PREFIX_LENGTH = 20
USE_NOTED_SECONDS = 60
LATEST_YEAR = 2999
_SHAPE = re.compile(r"sk_(?:live|test)_[A-Za-z0-9_]{13,120}\Z")
_SALT = "accounts.keys"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a key has left of its day; `count` includes the message that was just allowed."""

    allowed: bool
    limit: int
    count: int
    resets_at: dt.datetime

    @property
    def remaining(self) -> int:
        return max(0, self.limit - self.count)


def create(
    name: str,
    user: User,
    *,
    daily_limit: int,
    test: bool = False,
    text: str = "",
    scopes: Sequence[str] = DEFAULT_SCOPES,
    allowed_domains: Sequence[str] = (),
    allowed_addresses: Sequence[str] = (),
    expires_at: dt.datetime | None = None,
    actor: str = "",
    client: str = "",
) -> tuple[ApiKey, str]:
    """Make a key and return it with its text, which is known only now. `text` gives the key a text of one's own choice.

    Raises ValueError for a text that is no key, IntegrityError where a key with the same prefix exists.
    """
    text = text or _new_text(test=test)
    if not _SHAPE.match(text):
        raise ValueError("a key is sk_live_ or sk_test_ and 13 to 120 letters, digits or underscores")
    with transaction.atomic():
        key = ApiKey.objects.create(
            name=name,
            user=user,
            daily_limit=daily_limit,
            prefix=text[:PREFIX_LENGTH],
            key_hash=_hash(text),
            scopes=list(scopes),
            allowed_domains=list(allowed_domains),
            allowed_addresses=list(allowed_addresses),
            expires_at=expires_at,
        )
        _trail("api_key.created", key, actor, client, f"For {user}, {daily_limit} messages a day; {_limits(key)}.")
    return key, text


def authenticate(text: str) -> ApiKey | None:
    """Return the key that has this text and is good at this moment, with its user and organization, or None.

    A key is off while its user or the organization is.
    """
    if not _SHAPE.match(text):
        return None
    now = timezone.now()
    found = key_rows.find(text[:PREFIX_LENGTH])
    if found is None or not _is_text_of(found, text, now):
        return None
    return found if is_good(found, now) and users.may_act(found.user) else None


def is_good(key: ApiKey, now: dt.datetime) -> bool:
    """Whether the key itself opens anything: on, not revoked, not expired."""
    return key.is_active and key.revoked_at is None and (key.expires_at is None or now < key.expires_at)


def has_scope(key: ApiKey, scope: Scope) -> bool:
    """Whether the key may be used for this; `admin` has the others in it."""
    return scope in key.scopes or Scope.ADMIN in key.scopes


def may_send_from(key: ApiKey, address: Address) -> bool:
    """Whether the key's own limits let it send from the address; its user must hold the address as well."""
    if is_unbound(key) or address.domain in key.allowed_domains:
        return True
    return not {address.lookup_key, fold_address(str(address))}.isdisjoint(key.allowed_addresses)


def why_no_end(at: dt.datetime | None, now: dt.datetime) -> str:
    """Say why a key cannot be made to end then; empty where it can."""
    if at is not None and at <= now:
        return "It must be in the future."
    too_late = at is not None and at.year > LATEST_YEAR
    return f"At most the year {LATEST_YEAR}; without one it never ends." if too_late else ""


def is_unbound(key: ApiKey) -> bool:
    """Whether the key may send from all that its user may."""
    return not (key.allowed_domains or key.allowed_addresses)


def kept_addresses(addresses: Sequence[str]) -> list[str]:
    """Return addresses in the form in which a key keeps them; each must be one."""
    return list(dict.fromkeys(fold_address(address) for address in addresses))


def note_use(key: ApiKey, now: dt.datetime) -> None:
    """Keep when the key was last used, at most once a minute; a database that cannot is no reason to refuse."""
    before = now - dt.timedelta(seconds=USE_NOTED_SECONDS)
    if key.last_used_at is not None and key.last_used_at > before:
        return
    of_key = ApiKey.objects.filter(Q(last_used_at__isnull=True) | Q(last_used_at__lte=before), pk=key.pk)
    with suppress(DatabaseError):
        of_key.update(last_used_at=now)


def rotate(key: ApiKey, *, overlap: dt.timedelta, actor: str = "", client: str = "") -> str:
    """Give the key a new text and return it, known only now; the one before works for `overlap` longer.

    Limits, daily count and id stay. Of several earlier texts the last alone works. Raises ValueError for a revoked key.
    """
    text = _new_text(test=key.is_test)
    now = timezone.now()
    with transaction.atomic():
        row = ApiKey.objects.select_for_update().get(pk=key.pk)
        if row.revoked_at is not None:
            raise ValueError("a revoked key cannot be rotated")
        if overlap:
            row.previous_prefix, row.previous_hash, row.previous_expires_at = row.prefix, row.key_hash, now + overlap
        else:
            row.previous_prefix, row.previous_hash, row.previous_expires_at = None, "", None
        row.prefix, row.key_hash = text[:PREFIX_LENGTH], _hash(text)
        row.save(update_fields=["prefix", "key_hash", "previous_prefix", "previous_hash", "previous_expires_at"])
        words = f"The text before works until {row.previous_expires_at:%Y-%m-%d %H:%M} UTC." if overlap else ""
        _trail("api_key.rotated", row, actor, client, words or "The text before works no more.")
    key.refresh_from_db()
    return text


def revoke(key: ApiKey, *, actor: str = "", client: str = "") -> bool:
    """End the key for good, at once and in every process; return whether it was not revoked before."""
    now = timezone.now()
    with transaction.atomic():
        alive = ApiKey.objects.filter(pk=key.pk, revoked_at__isnull=True)
        done = alive.update(
            is_active=False, revoked_at=now, previous_prefix=None, previous_hash="", previous_expires_at=None
        )
        if done:
            _trail("api_key.revoked", key, actor, client, "It opens nothing any more.")
    key.refresh_from_db()
    return bool(done)


def change(key: ApiKey, values: Mapping[str, Any], *, actor: str = "", client: str = "") -> None:
    """Set fields of the key; what is as it was leaves no trace. Raises ValueError where a revoked one is to be on."""
    new = {name: value for name, value in values.items() if getattr(key, name) != value}
    if not new:
        return
    if key.revoked_at is not None and new.get("is_active"):
        raise ValueError("a revoked key cannot be switched on again")
    for name, value in new.items():
        setattr(key, name, value)
    with transaction.atomic():
        key.save(update_fields=list(new))
        _trail("api_key.changed", key, actor, client, f"Changed: {', '.join(new)}.")


@dataclass(frozen=True, slots=True)
class Charge:
    """One message to be counted against a key's day, as the key's limit was when its sender was let in."""

    api_key_id: uuid.UUID
    date: dt.date
    limit: int

    def usage(self, count: int, *, allowed: bool) -> Usage:
        return Usage(allowed, self.limit, count, _resets_at(self.date))


def charge_of(key: ApiKey, today: dt.date) -> Charge:
    return Charge(key.pk, today, key.daily_limit)


def take(charge: Charge, wanted: int = 1) -> tuple[int, int]:
    """Count up to `wanted` messages against the key's day; return how many are allowed, and the day's count then.

    Call it in the transaction that stores the messages (`daily_counts`).
    """
    return daily_counts.take(
        DailyUsage, "api_key_id", charge.api_key_id, charge.date, limit=charge.limit, wanted=wanted
    )


def usage(key: ApiKey, today: dt.date) -> Usage:
    """Look at the key's day without counting."""
    count = DailyUsage.objects.filter(api_key=key, date=today).values_list("count", flat=True).first() or 0
    return Usage(count < key.daily_limit, key.daily_limit, count, _resets_at(today))


def _new_text(*, test: bool) -> str:
    return f"sk_{'test' if test else 'live'}_{secrets.token_hex(36)}"


def _hash(text: str, secret: str | bytes | None = None) -> str:
    return salted_hmac(_SALT, text, secret=secret, algorithm="sha256").hexdigest()


def _is_text_of(key: ApiKey, text: str, now: dt.datetime) -> bool:
    hashes = [key.key_hash]
    if key.previous_expires_at is not None and now < key.previous_expires_at:
        hashes.append(key.previous_hash)
    secrets_in_use = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return any(constant_time_compare(_hash(text, secret), kept) for secret in secrets_in_use for kept in hashes)


def _resets_at(today: dt.date) -> dt.datetime:
    return dt.datetime.combine(today + dt.timedelta(days=1), dt.time(), dt.UTC)


def _limits(key: ApiKey) -> str:
    senders = [*key.allowed_domains, *key.allowed_addresses]
    words = f"scopes: {', '.join(key.scopes)}"
    words += f"; sends from {', '.join(senders[:5])}{' …' if senders[5:] else ''}" if senders else ""
    return f"{words}; until {key.expires_at:%Y-%m-%d %H:%M} UTC" if key.expires_at else words


def _trail(kind: str, key: ApiKey, actor: str, client: str, detail: str) -> None:
    TrailEntry.objects.create(
        kind=kind, actor=actor[:254], subject=str(key)[:254], client_address=client, detail=detail
    )
