"""The DNS record of a DKIM key: what a domain's owner publishes (RFC 6376 §3.6.1, §3.6.2.1, RFC 8463 §4.2); pure."""

from __future__ import annotations

from dataclasses import dataclass

MAX_STRING_OCTETS = 255  # of one string in a TXT record (RFC 1035 §3.3)
MAX_NAME_OCTETS = 253  # of a name as it is written (RFC 1035 §2.3.4)
_KEY_TYPES = {"rsa-sha256": "rsa", "ed25519-sha256": "ed25519"}


@dataclass(frozen=True, slots=True)
class TxtRecord:
    """A TXT record; `name` is absolute without the last dot, `value` what a reader gets who joins the strings."""

    name: str
    value: str

    @property
    def strings(self) -> tuple[str, ...]:
        """The value in pieces of at most 255 octets, as a zone file and many a provider want it."""
        return tuple(
            self.value[start : start + MAX_STRING_OCTETS] for start in range(0, len(self.value), MAX_STRING_OCTETS)
        )

    @property
    def quoted(self) -> str:
        """The strings as a zone file has them: `"…" "…"`."""
        return " ".join(f'"{string}"' for string in self.strings)

    @property
    def zone_line(self) -> str:
        return f"{self.name}. IN TXT ( {self.quoted} )"


def key_record(*, selector: str, domain: str, algorithm: str, public_key: str) -> TxtRecord:
    """Return the record of a key, whose public part is base64.

    `t=s`: the key is the domain's alone and not its subdomains' (RFC 6376 §3.6.1). No `h=`: SHA-256 is all that is left
    (RFC 8301 §3.1).
    """
    value = f"v=DKIM1; k={_KEY_TYPES[algorithm]}; t=s; p={public_key}"
    return TxtRecord(record_name(selector, domain), value)


def record_name(selector: str, domain: str) -> str:
    return f"{selector}._domainkey.{domain}"
