"""Whether a server's certificates are those that its TLSA records name (RFC 7672 §3, RFC 6698 §2.1, RFC 7671 §5); pure.

Signatures and chains are checked by `cryptography`; what is ours is what DANE asks beside that: which records count,
which certificate one stands for, and which names will do.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable, Sequence

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from accounts.dns.base import Tlsa

DANE_TA, DANE_EE = 2, 3
CERT, SPKI = 0, 1
FULL, SHA256, SHA512 = 0, 1, 2
MAX_CHAIN = 10

_DIGESTS = {SHA256: hashlib.sha256, SHA512: hashlib.sha512}
_DIGEST_OCTETS = {SHA256: 32, SHA512: 64}


class DaneMismatch(Exception):
    """The certificates do not match; `result` is the result type of RFC 8460 §4.3, the text says what is wrong."""

    def __init__(self, result: str, words: str) -> None:
        super().__init__(words)
        self.result = result


def usable(records: Iterable[Tlsa]) -> tuple[Tlsa, ...]:
    """Return the records that count, in a fixed order; PKIX-TA(0) and PKIX-EE(1) do not (RFC 7672 §3.1.3).

    Of digests of one usage and selector only the strongest count (RFC 7671 §9).
    """
    known = {record for record in records if _is_usable(record)}
    strongest: dict[tuple[int, int], int] = {}
    for record in known:
        place = (record.usage, record.selector)
        strongest[place] = max(strongest.get(place, FULL), record.matching)
    counting = (record for record in known if record.matching in (FULL, strongest[record.usage, record.selector]))
    return tuple(sorted(counting, key=str))


def _is_usable(record: Tlsa) -> bool:
    if record.usage not in (DANE_TA, DANE_EE) or record.selector not in (CERT, SPKI):
        return False
    if record.matching == FULL:
        return _is_der(record)
    return len(record.data) == _DIGEST_OCTETS.get(record.matching, -1)


def _is_der(record: Tlsa) -> bool:
    """Whether a record in full holds what it should; of a bare key only that there is something."""
    if record.selector == SPKI:
        return bool(record.data)
    try:
        x509.load_der_x509_certificate(record.data)
    except ValueError:
        return False
    return True


def check(chain: Sequence[bytes], records: Sequence[Tlsa], names: Sequence[str], now: dt.datetime) -> None:
    """Return where the chain (DER, the server's own certificate first) matches a usable record; raise `DaneMismatch`.

    `names` are the reference identifiers, which matter for DANE-TA alone: a certificate that a DANE-EE record names is
    the right one whatever its names and its dates are (RFC 7672 §3.1.1).
    """
    certificates = _parsed(chain[:MAX_CHAIN])
    leaf = certificates[0]
    if any(_stands_for(record, leaf) for record in records if record.usage == DANE_EE):
        return
    anchors = _anchors(certificates, [record for record in records if record.usage == DANE_TA])
    if not anchors:
        raise DaneMismatch("certificate-not-trusted", "no certificate of the server matches its TLSA records")
    _check_dates(leaf, now)
    _check_chain(certificates, anchors, now)
    if not any(_is_named(leaf, name) for name in names):
        raise DaneMismatch("certificate-host-mismatch", f"the certificate is not for {' or '.join(names)}")


def _parsed(chain: Sequence[bytes]) -> list[x509.Certificate]:
    try:
        certificates = [x509.load_der_x509_certificate(der) for der in chain]
    except (ValueError, UnsupportedAlgorithm):
        raise DaneMismatch("validation-failure", "a certificate of the server cannot be read") from None
    if not certificates:
        raise DaneMismatch("validation-failure", "the server showed no certificate")
    return certificates


def _stands_for(record: Tlsa, certificate: x509.Certificate) -> bool:
    try:
        octets = (
            certificate.public_bytes(Encoding.DER)
            if record.selector == CERT
            else certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        )
    except (ValueError, UnsupportedAlgorithm):  # a key of a kind that the library does not know
        return False
    digest = _DIGESTS.get(record.matching)
    return record.data == (digest(octets).digest() if digest else octets)


def _anchors(certificates: Sequence[x509.Certificate], records: Sequence[Tlsa]) -> list[x509.Certificate]:
    """Return the issuers that records name: of those that the server shows, and whole ones that DNS has."""
    shown = [one for one in certificates[1:] if any(_stands_for(record, one) for record in records)]
    full = [
        x509.load_der_x509_certificate(record.data)
        for record in records
        if (record.selector, record.matching) == (CERT, FULL)
    ]
    return shown + full


def _check_dates(leaf: x509.Certificate, now: dt.datetime) -> None:
    if leaf.not_valid_after_utc < now:
        raise DaneMismatch(
            "certificate-expired", f"the certificate expired at {leaf.not_valid_after_utc:%Y-%m-%d %H:%M}Z"
        )


def _check_chain(certificates: Sequence[x509.Certificate], anchors: list[x509.Certificate], now: dt.datetime) -> None:
    """Check that one of the anchors issued the first certificate, over the others; names are not looked at here."""
    issuers = ExtensionPolicy.permit_all().require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _must_be_issuer)
    builder = PolicyBuilder().store(Store(anchors)).time(now.replace(tzinfo=None)).max_chain_depth(MAX_CHAIN)
    verifier = builder.extension_policies(ca_policy=issuers, ee_policy=ExtensionPolicy.permit_all())
    try:
        verifier.build_client_verifier().verify(certificates[0], list(certificates[1:]))
    except VerificationError as error:
        raise DaneMismatch(
            "certificate-not-trusted", f"the chain of certificates is not sound: {error}"[:300]
        ) from None


def _must_be_issuer(_policy: Policy, _certificate: x509.Certificate, constraints: x509.BasicConstraints | None) -> None:
    if constraints is None or not constraints.ca:
        raise ValueError("an issuer is no certificate authority")


def _is_named(certificate: x509.Certificate, reference: str) -> bool:
    """Whether a name of the certificate is this one (RFC 7672 §3.2.3): the SAN's, the subject's only without any."""
    wanted = reference.lower().rstrip(".")
    return any(_matches(name.lower(), wanted) for name in _names(certificate))


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = alternatives.get_values_for_type(x509.DNSName)
    except (x509.ExtensionNotFound, ValueError):
        found = []
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return found or [str(attribute.value) for attribute in common]


def _matches(presented: str, wanted: str) -> bool:
    """A wildcard is the whole first label and stands for one label."""
    if presented.startswith("*."):
        return wanted.partition(".")[2] == presented[2:]
    return presented == wanted
