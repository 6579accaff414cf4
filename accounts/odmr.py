"""ODMR secrets: made, shown once, and checked against a CRAM-MD5 response (RFC 2645 §5.1.2, RFC 2195 §2).

CRAM-MD5 wants the secret itself on both sides, so it is random, of one domain, and kept sealed; a user's password would
have to be kept the same way, and never is.
"""

from __future__ import annotations

import hmac
import secrets
from functools import lru_cache

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from accounts import sealed
from accounts.models import Domain, OdmrSecret
from accounts.models.odmr_secret import place_of
from accounts.names import InvalidName, parse_domain
from accounts.trail import By, entry, leave

SECRET_OCTETS = 20  # random; 40 characters that need no quotes in any client's file


def make(domain: Domain, *, actor: str, client: str = "") -> str:
    """Give the domain a new secret, in the place of the one it had, and return it: it is known only now."""
    text = secrets.token_hex(SECRET_OCTETS)
    with transaction.atomic():
        _, is_first = OdmrSecret.objects.update_or_create(
            domain=domain,
            defaults={
                "sealed": sealed.seal(text.encode(), place_of(domain.name)),
                "created_at": timezone.now(),
                "last_used_at": None,
            },
        )
        words = "The domain's first." if is_first else "The one before opens nothing from now on."
        _note(
            "odmr_secret.created" if is_first else "odmr_secret.replaced",
            domain,
            words,
            {"actor": actor, "client": client},
        )
    return text


def revoke(domain: Domain, *, actor: str, client: str = "") -> bool:
    """Take the domain's secret away; False where it has none."""
    with transaction.atomic():
        count, _ = OdmrSecret.objects.filter(domain=domain).delete()
        if count:
            words = "Nobody can log in for the domain until it gets a new one."
            _note("odmr_secret.revoked", domain, words, {"actor": actor, "client": client})
    return bool(count)


def verify(name: str, challenge: bytes, digest: str) -> Domain | None:
    """Return the domain whose secret answers the challenge, or None; raises `sealed.CannotOpen` for a lost key.

    A name that nobody has costs what a known one does: something is opened and digested for each.
    """
    found = _find(name)
    if found is None:
        text = sealed.open_sealed(_decoy(settings.SECRET_KEY, tuple(settings.ENCRYPTION_KEYS)), place_of(""))
    else:
        text = sealed.open_sealed(found.sealed, found.place)
    expected = hmac.digest(text, challenge, "md5").hex()
    is_right = hmac.compare_digest(expected.encode(), digest.encode("utf-8", "replace"))
    if found is None or not is_right or not _may_fetch(found.domain):
        return None
    OdmrSecret.objects.filter(pk=found.pk).update(last_used_at=timezone.now())
    return found.domain


def holds(name: str) -> bool:
    """Whether a domain that logged in may still fetch its mail: it is on, and its secret was not taken away."""
    found = _find(name)
    return found is not None and _may_fetch(found.domain)


def _find(name: str) -> OdmrSecret | None:
    try:
        domain = parse_domain(name)
    except InvalidName:
        domain = ""  # asked for all the same: no name is answered sooner than another
    return OdmrSecret.objects.select_related("domain__organization").filter(domain__name=domain).first()


def _may_fetch(domain: Domain) -> bool:
    return domain.is_usable and domain.organization.is_active


@lru_cache(maxsize=1)
def _decoy(*_keys: object) -> str:
    """Return a secret of nobody's, sealed once for the keys in use."""
    return sealed.seal(secrets.token_hex(SECRET_OCTETS).encode(), place_of(""))


def _note(kind: str, domain: Domain, detail: str, by: By) -> None:
    leave([entry(kind, domain.name, detail, by)])
