"""API keys: made, recognised, and counted against their daily limit (contract §1.3).

A key is `sk_live_` or `sk_test_` and 288 random bits. Its first 20 characters are kept to look it up by, of the whole
only a keyed SHA-256: a random key needs no slow hash. `SECRET_KEY_FALLBACKS` is honoured, so the secret can be changed.
"""

from __future__ import annotations

import datetime as dt
import re
import secrets
from dataclasses import dataclass

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F
from django.utils.crypto import constant_time_compare, salted_hmac

from accounts import users
from accounts.models import ApiKey, DailyUsage, TrailEntry, User

PREFIX_LENGTH = 20
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
    name: str, user: User, *, daily_limit: int, test: bool = False, text: str = "", actor: str = ""
) -> tuple[ApiKey, str]:
    """Make a key and return it with its text, which is known only now. `text` gives the key a text of one's own choice.

    Raises ValueError for a text that is no key, IntegrityError where a key with the same prefix exists.
    """
    text = text or f"sk_{'test' if test else 'live'}_{secrets.token_hex(36)}"
    if not _SHAPE.match(text):
        raise ValueError("a key is sk_live_ or sk_test_ and 13 to 120 letters, digits or underscores")
    with transaction.atomic():
        key = ApiKey.objects.create(
            name=name, user=user, daily_limit=daily_limit, prefix=text[:PREFIX_LENGTH], key_hash=_hash(text)
        )
        TrailEntry.objects.create(
            kind="api_key.created",
            actor=actor,
            subject=str(key)[:254],
            detail=f"For {user}, {daily_limit} messages a day.",
        )
    return key, text


def authenticate(text: str) -> ApiKey | None:
    """Return the active key that has this text, with its user and organization, or None.

    A key is off while its user or the organization is.
    """
    if not _SHAPE.match(text):
        return None
    found = ApiKey.objects.select_related("user__organization").filter(prefix=text[:PREFIX_LENGTH]).first()
    if found is None or not _is_text_of(found, text):
        return None
    return found if found.is_active and users.may_act(found.user) else None


def take(key: ApiKey, today: dt.date) -> Usage:
    """Count one message against the key's day, unless the limit is reached.

    One atomic statement: of N at once at a limit of L exactly L are allowed, whatever processes they are in.
    """
    if key.daily_limit < 1:
        return Usage(False, 0, 0, _resets_at(today))
    table = connection.ops.quote_name(DailyUsage._meta.db_table)
    key_id = ApiKey._meta.pk.get_db_prep_value(key.pk, connection)
    day = connection.ops.adapt_datefield_value(today)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} (api_key_id, date, count) VALUES (%s, %s, 1)"  # noqa: S608  (a constant name)
            f" ON CONFLICT (api_key_id, date) DO UPDATE SET count = {table}.count + 1 WHERE {table}.count < %s"
            " RETURNING count",
            [key_id, day, key.daily_limit],
        )
        rows = cursor.fetchall()
    if not rows:
        return Usage(False, key.daily_limit, key.daily_limit, _resets_at(today))
    return Usage(True, key.daily_limit, rows[0][0], _resets_at(today))


def give_back(key: ApiKey, today: dt.date) -> None:
    """Undo one `take` whose message was not accepted after all."""
    DailyUsage.objects.filter(api_key=key, date=today, count__gt=0).update(count=F("count") - 1)


def usage(key: ApiKey, today: dt.date) -> Usage:
    """Look at the key's day without counting."""
    count = DailyUsage.objects.filter(api_key=key, date=today).values_list("count", flat=True).first() or 0
    return Usage(count < key.daily_limit, key.daily_limit, count, _resets_at(today))


def _hash(text: str, secret: str | bytes | None = None) -> str:
    return salted_hmac(_SALT, text, secret=secret, algorithm="sha256").hexdigest()


def _is_text_of(key: ApiKey, text: str) -> bool:
    secrets_in_use = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return any(constant_time_compare(_hash(text, secret), key.key_hash) for secret in secrets_in_use)


def _resets_at(today: dt.date) -> dt.datetime:
    return dt.datetime.combine(today + dt.timedelta(days=1), dt.time(), dt.UTC)
