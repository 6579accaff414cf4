"""The demo's self-signed certificate (EC P-256) for localhost; production brings its own."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = dt.timedelta(days=825)
RENEW_BEFORE = dt.timedelta(days=30)


def ensure_self_signed(certificate: Path, key: Path, host_name: str, now: dt.datetime) -> bool:
    """Make certificate and key unless both are there and still good for a month; return whether they were made."""
    if key.is_file() and certificate.is_file() and _expires_at(certificate) - RENEW_BEFORE > now:
        return False
    private_key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mailproj demo")])
    names = dict.fromkeys(["localhost", host_name])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName(
                [
                    *(x509.DNSName(each) for each in names),
                    *(x509.IPAddress(ipaddress.ip_address(each)) for each in ("127.0.0.1", "::1")),
                ]
            ),
            critical=False,
        )
        .sign(private_key, hashes.SHA256())
    )
    _write(key, private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    _write(certificate, made.public_bytes(Encoding.PEM))
    return True


def _expires_at(certificate: Path) -> dt.datetime:
    """Return when it expires; a file that is no certificate has expired long ago."""
    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except ValueError:
        return dt.datetime.min.replace(tzinfo=dt.UTC) + RENEW_BEFORE


def _write(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, also while it is being written."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(content)
    fresh.replace(path)
