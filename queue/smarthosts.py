"""The smarthosts that mail is to go by, as they stand in settings and database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from django.conf import settings

from accounts.sealed import CannotOpen
from queue.hops import Destination
from queue.models import SmartHost
from queue.transports.base import Relay
from queue.transports.tls import TlsPolicy


@dataclass(frozen=True, slots=True)
class Smarthost:
    """One of them. `trouble` says why mail for it must wait: its password cannot be opened."""

    host: str
    port: int
    tls: TlsPolicy
    relay: Relay
    organization_id: int | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Smarthosts:
    """All that are in use, at one moment."""

    by_domain: Mapping[str, Smarthost] = field(default_factory=dict)
    by_organization: Mapping[int, Smarthost] = field(default_factory=dict)
    by_address: Mapping[tuple[str, int], tuple[Smarthost, ...]] = field(default_factory=dict)

    def find(self, to: Destination) -> Smarthost | None:
        """Return the domain's own, else the organization's."""
        found = self.by_domain.get(to.domain)
        if found is None and to.organization_id is not None:
            found = self.by_organization.get(to.organization_id)
        return found

    def account_at(self, host: str, port: int, to: Destination) -> Smarthost | None:
        """Return what is known of a host that a person chose; never the account of another organization."""
        known = self.by_address.get((host, port), ())
        return next((one for one in known if one.organization_id in (None, to.organization_id)), None)


NONE = Smarthosts()


def load() -> Smarthosts:
    """Read them from the database, with one query."""
    rows = list(SmartHost.objects.filter(is_active=True).order_by("pk"))
    found = [(row, _smarthost(row)) for row in rows]
    return Smarthosts(
        by_domain={row.domain: one for row, one in found if row.domain},
        by_organization={row.organization_id: one for row, one in found if row.organization_id is not None},
        by_address=_by_address(one for _, one in found),
    )


def of_settings() -> Smarthost | None:
    """Return RELAY_HOST, where it is set."""
    if not settings.RELAY_HOST:
        return None
    relay = Relay("the smarthost RELAY_HOST", settings.RELAY_USERNAME, settings.RELAY_PASSWORD)
    return Smarthost(settings.RELAY_HOST, settings.RELAY_PORT, TlsPolicy(settings.RELAY_TLS), relay)


def _smarthost(row: SmartHost) -> Smarthost:
    trouble = ""
    try:
        relay = row.relay
    except CannotOpen as error:
        relay, trouble = Relay(f"the smarthost {row}"), f"the password of the smarthost {row} cannot be read: {error}"
    return Smarthost(row.host.lower(), row.port, TlsPolicy(row.tls), relay, row.organization_id, trouble)


def _by_address(smarthosts: Iterable[Smarthost]) -> dict[tuple[str, int], tuple[Smarthost, ...]]:
    found: dict[tuple[str, int], tuple[Smarthost, ...]] = {}
    for one in smarthosts:
        place = (one.host, one.port)
        found[place] = (*found.get(place, ()), one)
    return found
