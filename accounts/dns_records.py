"""The DNS records that a domain's owner publishes, exactly as they go into the zone (contract §5).

Ownership token, MX (RFC 5321 §5.1), SPF (RFC 7208 §3), DKIM (RFC 6376 §3.6) and DMARC (RFC 7489 §6.1). What is found of
them is judged by `accounts.dns_checks`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from django.conf import settings
from django.utils import timezone

from accounts import dkim
from accounts.models import DkimKey, Domain

OWNERSHIP_LABEL = "_mailproj"
OWNERSHIP_TAG = "mailproj-verification="
TTL_SECONDS = 3600
MX_PREFERENCE = 10
MAX_STRING_OCTETS = 255  # of one string in a TXT record (RFC 1035 §3.3)


class Purpose(enum.StrEnum):
    """What a record is for."""

    OWNERSHIP = "ownership"
    MX = "mx"
    SPF = "spf"
    DKIM = "dkim"
    DMARC = "dmarc"


@dataclass(frozen=True, slots=True)
class Record:
    """One record; `name` is absolute without the last dot. `preference` only for MX.

    `required`: the domain is not verified without it.
    """

    purpose: Purpose
    type: str
    name: str
    value: str
    preference: int | None = None
    required: bool = True

    @property
    def zone_line(self) -> str:
        """The record as a zone file has it; a long text in strings of at most 255 octets."""
        if self.type == "MX":
            return f"{self.name}. {TTL_SECONDS} IN MX {self.preference} {self.value}."
        strings = [self.value[at : at + MAX_STRING_OCTETS] for at in range(0, len(self.value), MAX_STRING_OCTETS)]
        return f"{self.name}. {TTL_SECONDS} IN {self.type} " + " ".join(f'"{string}"' for string in strings)


def records_of(domain: Domain) -> list[Record]:
    """Return what is to be published, in the order in which people do it; no MX for a domain that only sends."""
    name, host = domain.name, settings.SMTP_HOSTNAME
    records = [Record(Purpose.OWNERSHIP, "TXT", f"{OWNERSHIP_LABEL}.{name}", OWNERSHIP_TAG + domain.verification_token)]
    if domain.accepts_mail:
        records.append(Record(Purpose.MX, "MX", name, host, MX_PREFERENCE))
    return [
        *records,
        Record(Purpose.SPF, "TXT", name, f"v=spf1 a:{host} ~all"),
        *dkim_records(domain),
        Record(Purpose.DMARC, "TXT", f"_dmarc.{name}", f"v=DMARC1; p=none; rua=mailto:postmaster@{name}"),
    ]


def dkim_records(domain: Domain) -> Sequence[Record]:
    """Return the records of the domain's keys, by one query; only those that sign are required."""
    records = []
    for key in dkim.keys_to_publish(domain, timezone.now()):
        record = dkim.record_of(key)
        required = key.state == DkimKey.State.ACTIVE
        records.append(Record(Purpose.DKIM, "TXT", record.name, record.value, required=required))
    return records


def dkim_public_key(domain: Domain) -> str | None:
    """Return the public part of the RSA key that signs for the domain, else of its other key, in base64, or None.

    No query where the domain came with its `dkim_keys`.
    """
    active = [key for key in domain.dkim_keys.all() if key.state == DkimKey.State.ACTIVE]
    active.sort(key=lambda key: key.algorithm != DkimKey.Algorithm.RSA)
    return active[0].public_key if active else None
