"""Key pairs for DKIM as values: made, encoded and opened (RFC 6376 §3.3, §3.6.1, RFC 8301 §3.2, RFC 8463 §4.2); pure.

All arithmetic is the `cryptography` library's. A private part is never shown.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

RSA, ED25519 = "rsa-sha256", "ed25519-sha256"
RSA_BITS = 2048  # RFC 8301 §3.2; the record of a longer key has no room in many a provider's form
RSA_EXPONENT = 65537

PrivateKey = RSAPrivateKey | Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A new pair: the private part in PKCS #8 (DER), the public part in base64 as a record has it."""

    algorithm: str
    private_octets: bytes = field(repr=False)
    public_key: str


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that is ready to sign with. `sealed_text` is what it was opened from: equal texts are the same key."""

    domain: str
    selector: str
    algorithm: str
    private_key: PrivateKey = field(repr=False)
    sealed_text: str = field(repr=False, default="")


def generate(algorithm: str) -> KeyPair:
    """Make a key pair; an RSA key takes from 20 ms to half a second of processor time."""
    key = generate_private_key(RSA_EXPONENT, RSA_BITS) if algorithm == RSA else Ed25519PrivateKey.generate()
    return _pair(algorithm, key)


def _pair(algorithm: str, key: PrivateKey) -> KeyPair:
    private_octets = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return KeyPair(algorithm, private_octets, public_key_of(key))


def public_key_of(key: PrivateKey) -> str:
    """Return the `p=` of the record: SubjectPublicKeyInfo for RSA, the bare 32 octets for Ed25519 (RFC 8463 §4.2)."""
    if isinstance(key, Ed25519PrivateKey):
        octets = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    else:
        octets = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(octets).decode("ascii")


def load_private(octets: bytes) -> PrivateKey:
    """Return the key that `generate` made, from its private octets; raises ValueError where they are none.

    They were kept where nobody can change them: the library's own check of the primes is left out, which would cost
    more than a hundred signatures.
    """
    key = load_der_private_key(octets, password=None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(key, RSAPrivateKey | Ed25519PrivateKey):
        raise ValueError("it is no RSA or Ed25519 key")
    return key
