"""The certificate of the listener, exchanged while it runs (RFC 3207 §4, RFC 8314 §3.3).

The files are read again when they change. Renewals write them in place, by rename, or by switching a link, and never
certificate and key in one step; so a pair is taken only when it loads and matches, and until then the one in use stays.
Connections keep the context of their handshake: only new ones see the new certificate.
"""

from __future__ import annotations

import datetime as dt
import ssl
import threading
from pathlib import Path

import structlog
from cryptography import x509
from django.utils import timezone

from mailflow import counters

logger = structlog.get_logger(__name__)

_Stamp = tuple[tuple[int, ...], ...]


class CertificateError(Exception):
    """Certificate and key that cannot be used; the text names the files, for the operator."""


class CertificateSource:
    """Holds the context of the certificate in use. Raises `CertificateError` where there is none to begin with.

    `context` is to be read for every handshake, from any thread. `refresh` blocks for some milliseconds: call it in a
    thread, about once a second and on SIGHUP.
    """

    def __init__(self, certificate: str | Path, key: str | Path) -> None:
        self.certificate, self.key = str(certificate), str(key)
        self.fault = ""  # why what lies in the files now is not in use
        self._suspicion = ""  # a fault seen once: the files may be half written
        self._lock = threading.Lock()
        self._stamp = self._look()
        self.context, self.expires_at = self._load()
        self._announce("tls.certificate_loaded")

    def refresh(self) -> bool:
        """Take what the files hold now, if they changed; return whether a new certificate is in use."""
        with self._lock:
            try:
                stamp = self._look()
                if stamp == self._stamp:
                    self.fault = self._suspicion = ""
                    return False
                context, expires_at = self._load()
                if self._look() != stamp:  # written to meanwhile: the next call will see the end of it
                    return False
            except CertificateError as error:
                self._reject(str(error))
                return False
            self.context, self.expires_at, self._stamp = context, expires_at, stamp
            self.fault = self._suspicion = ""
            counters.add("smtp.tls.certificate.reloaded")
            self._announce("tls.certificate_reloaded")
            return True

    def days_left(self, now: dt.datetime) -> int:
        """Whole days until the certificate in use expires; negative afterwards."""
        return (self.expires_at - now) // dt.timedelta(days=1)

    def _look(self) -> _Stamp:
        """Return what tells one state of the two files from another; links are followed."""
        return (self._stamp_of(self.certificate), self._stamp_of(self.key))

    def _stamp_of(self, path: str) -> tuple[int, ...]:
        try:
            found = Path(path).stat()
        except OSError as error:
            raise self._unusable(error) from None
        # the change time sees what the modification time does not: permissions, or a copy that kept its times
        return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def _load(self) -> tuple[ssl.SSLContext, dt.datetime]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
            leaf = x509.load_pem_x509_certificate(Path(self.certificate).read_bytes())
        except (OSError, ValueError, x509.InvalidVersion) as error:  # an SSLError is an OSError
            raise self._unusable(error) from None
        return context, leaf.not_valid_after_utc

    def _unusable(self, error: Exception) -> CertificateError:
        return CertificateError(f"The certificate {self.certificate} with key {self.key} cannot be used: {error}.")

    def _announce(self, event: str) -> None:
        now = timezone.now()
        counters.gauge("smtp.tls.certificate.expires_at_ms", int(self.expires_at.timestamp() * 1000))
        tell = logger.info if self.expires_at > now else logger.warning
        tell(
            event,
            certificate=self.certificate,
            expires_at=self.expires_at.isoformat(),
            days_left=self.days_left(now),
        )

    def _reject(self, fault: str) -> None:
        """Report a fault once, when a second look finds it too; the files are tried again at every call."""
        if fault != self._suspicion:
            self._suspicion = fault
            return
        if fault == self.fault:
            return
        self.fault = fault
        counters.add("smtp.tls.certificate.rejected")
        logger.error("tls.certificate_rejected", cause=fault, in_use_expires_at=self.expires_at.isoformat())


def _no_password() -> str:
    """Called for a key that is encrypted; without this OpenSSL would ask on the terminal and wait."""
    raise ValueError("the key is encrypted, and no setting has its password")
