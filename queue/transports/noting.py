"""What becomes known of TLS with a next hop, for the figures of RFC 8460 §4.3; pure."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass

from queue.transports.tls import TlsDemand

NO_STARTTLS = "starttls-not-supported"
HOST_MISMATCH = "certificate-host-mismatch"
EXPIRED = "certificate-expired"
NOT_TRUSTED = "certificate-not-trusted"
VALIDATION_FAILURE = "validation-failure"
TLSA_INVALID = "tlsa-invalid"
DNSSEC_INVALID = "dnssec-invalid"

MAX_REASON = 120
_POLICY_TYPES = {
    "dane": "tlsa",
    "dane-unusable": "tlsa",
    "mta-sts": "sts",
    "mta-sts-testing": "sts",
    "opportunistic": "no-policy-found",
}
_HAS_EXPIRED, _IS_FOR_ANOTHER_HOST = 10, 62  # X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_HOSTNAME_MISMATCH


@dataclass(frozen=True, slots=True)
class SessionResult:
    """How one session, or the attempt at one, fared by the policy of the domain that its mail is for.

    `result` is a result type of RFC 8460 §4.3, empty where TLS was as the policy wants it; `reason` says more of it.
    """

    policy_domain: str
    policy_type: str
    mx_host: str = ""
    receiving_address: str = ""
    sending_address: str = ""
    result: str = ""
    reason: str = ""
    policy: tuple[str, ...] = ()


Note = Callable[[SessionResult], None]


def policy_type(demand: TlsDemand) -> str:
    """Return the policy type of RFC 8460 §4.4; empty for what an operator of ours chose, which nobody is told."""
    return _POLICY_TYPES.get(demand.rule, "")


def result_of(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code == _HAS_EXPIRED:
        return EXPIRED
    return HOST_MISMATCH if error.verify_code == _IS_FOR_ANOTHER_HOST else NOT_TRUSTED
