"""Whom a limit counts: client addresses, networks, senders and user names as bounded texts (contract §2).

An IPv6 host has a whole /64 to choose addresses from (RFC 4291 §2.5.1), so the /64 is what counts as its address.
"""

from __future__ import annotations

import hashlib
import ipaddress
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_LENGTH = 120
UNKNOWN = "an unknown address"


@dataclass(frozen=True, slots=True)
class Client:
    """What the limits call a client; `ip` is None where its address is none of the Internet's."""

    address: str
    network: str
    ip: IPAddress | None


@lru_cache(maxsize=4096)
def of_client(client_address: str) -> Client:
    """Return the subjects of a client: 192.0.2.7 and its /24, or an IPv6 /64 and its /48."""
    try:
        ip = ipaddress.ip_address(client_address.partition("%")[0])
    except ValueError:
        return Client(UNKNOWN, UNKNOWN, None)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if isinstance(ip, ipaddress.IPv4Address):
        return Client(str(ip), _network(ip, 24), ip)
    return Client(_network(ip, 64), _network(ip, 48), ip)


def of_sender(reverse_path: str) -> str:
    """Return the subject of a reverse path; the null path has none (""), for it belongs to nobody."""
    return _bounded(reverse_path.lower())


def of_own_sender(user_name: str, reverse_path: str) -> str:
    """Return the subject of an account's reverse path; strangers, who need only write it, are counted apart."""
    return _bounded(f"{reverse_path.lower()} of {user_name}") if reverse_path else ""


def of_user_name(user_name: str) -> str:
    """Return the subject of a name that somebody tries to log in with, whether or not there is such a user."""
    return _bounded(unicodedata.normalize("NFKC", user_name).strip().casefold())


def _network(ip: IPAddress, prefix: int) -> str:
    return str(ipaddress.ip_network((ip, prefix), strict=False))


def _bounded(text: str) -> str:
    """Keep a long text recognisable and distinct in a fixed length: peers choose these texts."""
    if len(text) <= MAX_LENGTH:
        return text
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{text[: MAX_LENGTH - 33]}…{digest}"
