"""Webhook secrets and signatures (Standard Webhooks 1.0.0: symmetric signatures, `v1`); pure.

The signature is an HMAC-SHA256 (RFC 2104) of `id.timestamp.body`. While a secret is being replaced there is one of each
secret, separated by a space: a receiver that knows either is content.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence

PREFIX = "whsec_"
SECRET_OCTETS = 32
MIN_SECRET_OCTETS, MAX_SECRET_OCTETS = 24, 64  # what the specification asks of a secret
ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"


def new_secret() -> bytes:
    return secrets.token_bytes(SECRET_OCTETS)


def spoken(secret: bytes) -> str:
    """Return the secret as its owner gets it, to be given to a library as it is."""
    return PREFIX + base64.b64encode(secret).decode("ascii")


def parse_secret(text: str) -> bytes:
    """Read what `spoken` wrote, the prefix being optional; raises ValueError, without the secret in it."""
    try:
        secret = base64.b64decode(text.strip().removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("it is not base64") from None
    if not MIN_SECRET_OCTETS <= len(secret) <= MAX_SECRET_OCTETS:
        raise ValueError(f"it must have from {MIN_SECRET_OCTETS} to {MAX_SECRET_OCTETS} octets")
    return secret


def sign(secret: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode("ascii")


def headers(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> Mapping[str, str]:
    """Return the three headers of one request, signed with every secret in force, the newest first."""
    return {
        ID: message_id,
        TIMESTAMP: str(timestamp),
        SIGNATURE: " ".join(sign(key, message_id, timestamp, body) for key in keys),
    }
