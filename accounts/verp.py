"""Return paths that name what they were sent for (VERP): `bounces+TOKEN@domain`, made and read without a database.

A token holds a day, what the mail was (8 octets: one queue entry; 13: a whole message) and a truncated HMAC over these
and the domain, in base32, whose case does not matter: some hosts change it on the way back. Nobody can make one; who
was sent one can use it until it is too old, and it stands for no more than it was made for (docs/adr/0015).
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hmac
from collections.abc import Iterator

from django.conf import settings
from django.utils.crypto import salted_hmac

from accounts.names import Address

PREFIX = "bounces+"
ENTRY_OCTETS = 8
MESSAGE_OCTETS = 13
MAC_OCTETS = 10  # 80 bits: whoever guesses has to ask this server for each guess
_DAY_OCTETS = 2
_LENGTHS = (32, 40)  # both kinds fill base32 without padding; with the prefix at most 48 of 64 octets
_EPOCH = dt.date(1970, 1, 1)


def address_for(payload: bytes, domain: str, day: dt.date) -> Address:
    """Return the address of a payload; equal arguments give the equal address, so that a retry looks the same.

    It is good until `settings.MESSAGE_KEEP_DAYS` after `day`, while there is something to match a bounce with.
    """
    signed = (day - _EPOCH).days.to_bytes(_DAY_OCTETS) + payload
    token = base64.b32encode(signed + next(_macs(signed, domain))).decode("ascii").lower()
    return Address(PREFIX + token, domain)


def looks_like_one(address: Address) -> bool:
    """Whether the address has the form, be it good or not: such an address is nobody's mailbox."""
    local_part = address.local_part
    return len(local_part) - len(PREFIX) in _LENGTHS and local_part[: len(PREFIX)].lower() == PREFIX


def read(address: Address, today: dt.date) -> bytes | None:
    """Return the payload of an address that we made and that is not too old."""
    if not looks_like_one(address):
        return None
    try:
        octets = base64.b32decode(address.local_part[len(PREFIX) :].upper())
    except (binascii.Error, ValueError):
        return None
    signed, mac = octets[:-MAC_OCTETS], octets[-MAC_OCTETS:]
    if not any(hmac.compare_digest(mac, good) for good in _macs(signed, address.domain)):
        return None
    day = _EPOCH + dt.timedelta(days=int.from_bytes(signed[:_DAY_OCTETS]))
    if today - day > dt.timedelta(days=settings.MESSAGE_KEEP_DAYS):
        return None
    return signed[_DAY_OCTETS:]


def _macs(signed: bytes, domain: str) -> Iterator[bytes]:
    """Yield the code under the key of today, then under the former ones."""
    value = signed + domain.lower().encode("ascii", "replace")
    for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS):
        yield salted_hmac("mailproj.verp", value, secret=secret, algorithm="sha256").digest()[:MAC_OCTETS]
