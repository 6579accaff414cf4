"""The event `auth.failed`: a login that failed, by SMTP or HTTP."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from django.db.models import Q

from accounts.models import User
from accounts.webhooks import outbox
from accounts.webhooks.names import AUTH_FAILED

WRONG_PASSWORD = "The name or the password is wrong, or the account is switched off."  # noqa: S105


@dataclass(frozen=True, slots=True)
class LoginFailure:
    """`username` as it was tried, empty for an API key; `protocol` smtp or http."""

    username: str
    client_address: str
    protocol: str
    at: dt.datetime
    reason: str = WRONG_PASSWORD


def tell(failures: Sequence[LoginFailure]) -> None:
    """Write what listeners hear of the failures, in the caller's transaction.

    An organization hears of tries at the names and addresses of its own accounts, and of no others.
    """
    if not (failures and outbox.wanted(AUTH_FAILED)):
        return
    owners = _owners({failure.username for failure in failures})
    outbox.add(_notice(failure, owners) for failure in failures)


def _owners(names: set[str]) -> dict[str, int | None]:
    """Return the organizations of the accounts with these names or addresses, by both."""
    found: dict[str, int | None] = {}
    rows = User.objects.filter(Q(username__in=names) | Q(email__in=names)).order_by()
    for username, email, organization_id in rows.values_list("username", "email", "organization_id"):
        found[username] = found[email] = organization_id
    return found


def _notice(failure: LoginFailure, owners: dict[str, int | None]) -> outbox.Notice:
    def data_for(organization_id: int | None) -> outbox.Data | None:
        if organization_id is not None and owners.get(failure.username) != organization_id:
            return None
        return {
            "username": failure.username,
            "client_address": failure.client_address,
            "protocol": failure.protocol,
            "reason": failure.reason,
        }

    return outbox.Notice(AUTH_FAILED, failure.at, data_for)
