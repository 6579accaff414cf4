"""dkimpy as the other hand: it looks up our keys in a table and says whether each signature is good."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import dkim

from accounts.dkim_records import TxtRecord, key_record
from accounts.key_pairs import ED25519, RSA, SigningKey, generate, load_private, public_key_of

DOMAIN = "example.com"


@lru_cache
def key_pair() -> tuple[SigningKey, SigningKey]:
    """An RSA and an Ed25519 key of example.com; made once, for it takes its time."""
    return new_pair()


def new_pair() -> tuple[SigningKey, SigningKey]:
    return _key(RSA, "r1"), _key(ED25519, "e1")


def _key(algorithm: str, selector: str) -> SigningKey:
    return SigningKey(DOMAIN, selector, algorithm, load_private(generate(algorithm).private_octets))


def record_of(key: SigningKey) -> TxtRecord:
    return key_record(
        selector=key.selector, domain=key.domain, algorithm=key.algorithm, public_key=public_key_of(key.private_key)
    )


def verdicts(content: bytes, records: Iterable[TxtRecord]) -> list[bool]:
    """Return for each DKIM-Signature field of the message, from the top down, whether it is good."""
    table = {f"{record.name}.": record.value.encode() for record in records}

    def look_up(name: bytes | str, timeout: float = 5) -> bytes | None:
        return table.get(name.decode() if isinstance(name, bytes) else name)

    count = sum(line.lower().startswith(b"dkim-signature:") for line in content.partition(b"\r\n\r\n")[0].split(b"\n"))
    return [_is_good(content, number, look_up) for number in range(count)]


def _is_good(content: bytes, number: int, look_up: object) -> bool:
    try:
        return bool(dkim.DKIM(content).verify(idx=number, dnsfunc=look_up))
    except dkim.DKIMException:
        return False


def on_the_wire(content: bytes) -> bytes:
    """What a peer has after the final dot: whole lines (RFC 5321 §4.1.1.4)."""
    return content if content.endswith(b"\r\n") else content + b"\r\n"


def are_all_good(content: bytes, keys: Sequence[SigningKey]) -> bool:
    found = verdicts(on_the_wire(content), [record_of(key) for key in keys])
    return len(found) == len(keys) and all(found)
