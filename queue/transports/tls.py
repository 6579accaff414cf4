"""What TLS with a next hop must be like, as values (RFC 3207, RFC 7435, RFC 7672 §2.2, RFC 8461 §5); pure."""

from __future__ import annotations

import enum
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, replace

from accounts.dns.base import Tlsa


class TlsPolicy(enum.StrEnum):
    """What an operator may choose for a host.

    `opportunistic`: encrypted where the peer can, unverified, in clear where it cannot (RFC 7435). `required`: by
    STARTTLS with a valid certificate. `implicit`: the same from the first octet on (RFC 8314 §3.3).
    """

    NEVER = "never"
    OPPORTUNISTIC = "opportunistic"
    REQUIRED = "required"
    IMPLICIT = "implicit"


class Check(enum.Enum):
    """Whom the certificate must prove the peer to be: nobody, the host to the public authorities, or as TLSA says."""

    NOTHING = "nothing"
    PKIX = "pkix"
    DANE = "dane"


@dataclass(frozen=True, slots=True)
class TlsDemand:
    """What TLS with one host must be. `rule` is the word that is kept with the attempt.

    `may_weaken`: where it cannot be had, the next weaker one will do (`weaker`). `fault` says what is wrong with the
    host before anything is tried: it is not among those that the domain's policy in testing names. `names` are the
    reference identifiers for DANE-TA (RFC 7672 §3.2.2), the TLSA base domain first, which is the server name too.
    """

    rule: str
    check: Check = Check.NOTHING
    may_weaken: bool = False
    is_clear: bool = False
    is_implicit: bool = False
    tlsa: tuple[Tlsa, ...] = ()
    names: tuple[str, ...] = ()
    fault: str = ""

    @property
    def weaker(self) -> TlsDemand | None:
        """Return what to be content with where this could not be had; None where nothing less will do."""
        if not self.may_weaken or self.is_clear:
            return None
        if self.check is not Check.NOTHING:
            return replace(self, check=Check.NOTHING, fault="")
        return replace(self, is_clear=True, may_weaken=False)


NEVER = TlsDemand("never", is_clear=True)
OPPORTUNISTIC = TlsDemand("opportunistic", may_weaken=True)
REQUIRED = TlsDemand("required", Check.PKIX)
MTA_STS = TlsDemand("mta-sts", Check.PKIX)
REQUIRETLS = TlsDemand("requiretls", Check.PKIX)  # the sender's demand (RFC 8689 §4.2.1)

_CHOSEN = {
    TlsPolicy.NEVER: NEVER,
    TlsPolicy.OPPORTUNISTIC: OPPORTUNISTIC,
    TlsPolicy.REQUIRED: REQUIRED,
    TlsPolicy.IMPLICIT: replace(REQUIRED, rule="implicit", is_implicit=True),
}


def chosen(policy: TlsPolicy) -> TlsDemand:
    return _CHOSEN[policy]


def sts_testing(fault: str = "") -> TlsDemand:
    """What a policy in testing asks for: it is tried and reported, and the mail goes on all the same (RFC 8461 §5)."""
    return TlsDemand("mta-sts-testing", Check.PKIX, may_weaken=True, fault=fault)


def dane(records: tuple[Tlsa, ...], names: tuple[str, ...]) -> TlsDemand:
    return TlsDemand("dane", Check.DANE, tlsa=records, names=names)


def unauthenticated(records: Iterable[Tlsa]) -> TlsDemand:
    """What a host must offer that has TLSA records of which none can be used: TLS, whoever it is (RFC 7672 §2.2)."""
    return TlsDemand("dane-unusable", tlsa=tuple(records))


def unverified_context() -> ssl.SSLContext:
    """TLS against listeners only: who would stop at a wrong certificate would go on in clear instead."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def verified_context() -> ssl.SSLContext:
    """TLS with hosts whose certificate a public authority has signed for their name; names stand in the SAN alone."""
    context = ssl.create_default_context()
    context.hostname_checks_common_name = False
    return context
