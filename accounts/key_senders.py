"""Which senders an API key may be bound to: those that its user holds (contract §1.3)."""

from __future__ import annotations

from collections.abc import Collection

from accounts.addresses import may_send_as_each
from accounts.models import Domain, User
from accounts.names import parse_address


class NotHeld(Exception):
    """The key's user could not use a sender anyway; `field` is the key's that has it, and the text says which it is."""

    def __init__(self, field: str, words: str) -> None:
        super().__init__(words)
        self.field = field


def check(owner: User, *, domains: Collection[str] = (), addresses: Collection[str] = ()) -> None:
    """Refuse senders that `owner` does not hold, all of them valid names: the key would be of no use there.

    Raises `NotHeld` for the first of them.
    """
    wanted = {parse_address(text) for text in addresses}
    strangers = wanted - may_send_as_each(owner, wanted) if wanted else set()
    if strangers:
        raise NotHeld("allowed_addresses", f"Its user may not send from {min(map(str, strangers))}.")
    if domains and not owner.is_superuser:
        own = Domain.objects.filter(name__in=domains, organization=owner.organization)
        if missing := set(domains) - set(own.values_list("name", flat=True)):
            raise NotHeld("allowed_domains", f"{min(missing)} is not a domain of its user's organization.")
