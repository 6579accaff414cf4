"""Secrets that must be read again, kept encrypted: private keys, a domain's ODMR secret (AES-256-GCM, RFC 5116 §5).

A sealed text names the key that it was sealed with, so several keys may be in use at once: the first one of
`ENCRYPTION_KEYS` seals, all of them open. Behind them come keys derived from `SECRET_KEY` and `SECRET_KEY_FALLBACKS`
(RFC 5869), which seal where that setting is empty, and go on opening what they sealed before it was set. Whoever takes
a sealed text to another row cannot open it there: `place` is part of it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

KEY_OCTETS = 32
_VERSION = b"\x01"
_ID_OCTETS = 4
_NONCE_OCTETS = 12
_HEAD_OCTETS = len(_VERSION) + _ID_OCTETS + _NONCE_OCTETS


class CannotOpen(Exception):
    """The text was sealed with a key that is not in use any more, for another place, or is damaged."""


def seal(secret: bytes, place: str) -> str:
    """Encrypt with the newest key; `place` says where the secret belongs, such as `dkim:example.com:s1`."""
    key = _keys()[0]
    nonce = os.urandom(_NONCE_OCTETS)
    head = _VERSION + _key_id(key) + nonce
    return base64.b64encode(head + AESGCM(key).encrypt(nonce, secret, head + place.encode())).decode("ascii")


def open_sealed(text: str, place: str) -> bytes:
    """Decrypt what `seal` made for the same place; raises `CannotOpen`."""
    key, sealed = _found(text)
    head = sealed[:_HEAD_OCTETS]
    try:
        return AESGCM(key).decrypt(head[-_NONCE_OCTETS:], sealed[_HEAD_OCTETS:], head + place.encode())
    except InvalidTag:
        raise CannotOpen(f"the secret of {place} was sealed for another place, or is damaged") from None


def is_current(text: str) -> bool:
    """Whether the newest key sealed it; where not, it is to be sealed again before the older key goes."""
    try:
        return _found(text)[0] == _keys()[0]
    except CannotOpen:
        return False


def _found(text: str) -> tuple[bytes, bytes]:
    try:
        sealed = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise CannotOpen("this is no sealed secret") from None
    if len(sealed) <= _HEAD_OCTETS or sealed[:1] != _VERSION:
        raise CannotOpen("this is no sealed secret")
    for key in _keys():
        if _key_id(key) == sealed[1 : 1 + _ID_OCTETS]:
            return key, sealed
    raise CannotOpen("it was sealed with a key that is in ENCRYPTION_KEYS, SECRET_KEY or its fallbacks no more")


def _keys() -> tuple[bytes, ...]:
    derived = (_derived(secret) for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS))
    return (*settings.ENCRYPTION_KEYS, *derived)


@lru_cache(maxsize=16)
def _derived(secret: str) -> bytes:
    return HKDF(SHA256(), KEY_OCTETS, salt=None, info=b"mailproj sealed secrets").derive(secret.encode())


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"key id" + key).digest()[:_ID_OCTETS]
