"""Verify a name and a password, for SMTP AUTH and HTTP Basic (contract §1.3).

A wrong password costs an Argon2id hash, whoever it is for. A right one is remembered for a few minutes, as a keyed
digest that this process alone can compute, so that it does not cost the hash on every request.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from datetime import timedelta

from django.contrib.auth.hashers import check_password, make_password
from django.db import DatabaseError
from django.db.models import Q
from django.utils import timezone

from accounts import users
from accounts.models import User

REMEMBERED_SECONDS = 120
MAX_REMEMBERED = 10_000
MAX_PASSWORD_OCTETS = 4096
LOGIN_NOTED = timedelta(minutes=1)

_hashing = threading.BoundedSemaphore(2)  # 64 MiB each


class _Remembered:
    """Digests of credentials that were right a short while ago; the oldest fall out first."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._until: OrderedDict[bytes, float] = OrderedDict()
        self._lock = threading.Lock()

    def digest(self, user: User, password: str) -> bytes:
        # The stored hash is part of it: a changed password forgets the old one at once.
        text = f"{user.pk}\0{user.password}\0{password}"
        return hmac.digest(self._key, text.encode(), hashlib.sha256)

    def holds(self, digest: bytes) -> bool:
        with self._lock:
            return self._until.get(digest, 0.0) > time.monotonic()

    def add(self, digest: bytes) -> None:
        with self._lock:
            self._until[digest] = time.monotonic() + REMEMBERED_SECONDS
            self._until.move_to_end(digest)
            while len(self._until) > MAX_REMEMBERED:
                self._until.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._until.clear()


remembered = _Remembered()


def verify(username_or_address: str, password: str) -> User | None:
    """Return the user with these credentials, or None; it may take tens of milliseconds, so never call it on a loop.

    The user is read anew each time: switching off a user or an organization takes effect at once.
    """
    user = users.find_for_login(username_or_address)
    if not _is_password(password):
        password, user = "", None
    if user is None:
        with _hashing:
            make_password(password)  # nobody learns from the time whether the name exists
        return None
    digest = remembered.digest(user, password)
    may_act = users.may_act(user)  # of who may not no password is remembered: a fast no would say that it is right
    if may_act and remembered.holds(digest):
        return user
    with _hashing:
        right = check_password(password, user.password)
    if not (right and may_act):
        return None
    remembered.add(digest)
    _note_login(user)
    return user


def hashed(password: str) -> str:
    """Return the hash to keep of a new password; of those that cost 64 MiB each no more than two run at once."""
    with _hashing:
        return make_password(password)


def _note_login(user: User) -> None:
    """Keep when the account was last logged in to, at most once a minute; one that cannot be kept is no obstacle."""
    now = timezone.now()
    long_ago = Q(last_login__isnull=True) | Q(last_login__lte=now - LOGIN_NOTED)
    with suppress(DatabaseError):
        User.objects.filter(long_ago, pk=user.pk).update(last_login=now)


def _is_password(text: str) -> bool:
    try:
        return 0 < len(text.encode()) <= MAX_PASSWORD_OCTETS
    except UnicodeEncodeError:  # a lone surrogate: octets that were no UTF-8
        return False
