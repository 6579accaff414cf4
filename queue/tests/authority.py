"""Certificates of a small authority, made as a test needs them: for other names, expired, by way of an intermediate."""

from __future__ import annotations

import datetime as dt
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Issued:
    """A certificate with its key, and the issuers between it and the root."""

    certificate: x509.Certificate
    key: Key
    between: tuple[x509.Certificate, ...] = ()

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def spki(self) -> bytes:
        return self.certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def server(self, *more: Issued, newest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """Return what a server shows: this certificate, those between, and `more`."""
        private = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        issuers = [one.public_bytes(serialization.Encoding.PEM) for one in self.between] + [one.pem for one in more]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if newest is not None:
            context.set_ciphers("ALL:@SECLEVEL=0")
            context.minimum_version, context.maximum_version = newest, newest
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "chain.pem"
            path.write_bytes(b"".join([private, self.pem, *issuers]))
            context.load_cert_chain(path)
        return context

    def trusting(self) -> ssl.SSLContext:
        """Return a client's context that trusts this certificate and no other."""
        context = ssl.create_default_context(cadata=self.pem.decode())
        context.hostname_checks_common_name = False
        return context

    def issue(
        self,
        *names: str,
        common_name: str = "",
        is_authority: bool = False,
        days: tuple[float, float] = (-1, 1),
        path_length: int | None = None,
    ) -> Issued:
        """Sign a certificate for these DNS names, good from and until so many days from now."""
        above = () if self.certificate.issuer == self.certificate.subject else (self.certificate, *self.between)
        return _make(
            self, names, common_name=common_name or (names[0] if names else "an authority"),
            is_authority=is_authority, days=days, between=above, path_length=path_length,
        )  # fmt: skip


def root(common_name: str = "root.test", *, path_length: int | None = None) -> Issued:
    """Make an authority of its own."""
    return _make(None, (), common_name=common_name, is_authority=True, days=(-2, 2), path_length=path_length)


def self_signed(*names: str, days: tuple[float, float] = (-1, 1)) -> Issued:
    """Make a certificate that nobody vouches for, as many mail hosts have."""
    return _make(None, names, common_name=names[0], is_authority=False, days=days)


def _make(
    issuer: Issued | None,
    names: tuple[str, ...],
    *,
    common_name: str,
    is_authority: bool,
    days: tuple[float, float],
    between: tuple[x509.Certificate, ...] = (),
    path_length: int | None = None,
) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = dt.datetime.now(dt.UTC)
    signer = issuer.key if issuer else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + dt.timedelta(days=days[0]))
        .not_valid_after(now + dt.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=path_length), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if not is_authority:
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False)
    return Issued(builder.sign(signer, hashes.SHA256()), key, between)
