"""What signs for a domain at this moment: its active keys, opened (RFC 6376 §5.1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from accounts import sealed
from accounts.key_pairs import SigningKey, load_private
from accounts.models import DkimKey, Domain


@dataclass(frozen=True, slots=True)
class Holding:
    """What a domain name is to whoever wants to sign for it, at one moment.

    `organization_id` is None where the domain is not ours, or not usable. `trouble` names, in words, an active key that
    cannot be opened: then nothing may go out under this domain, for it would be unsigned.
    """

    organization_id: int | None = None
    keys: tuple[SigningKey, ...] = ()
    trouble: str = ""


NOT_OURS = Holding()


def holding_of(domain_name: str, known: Iterable[SigningKey] = ()) -> Holding:
    """Look up who holds a domain and with which keys it signs: two queries. What is `known` is not opened again."""
    domain = Domain.objects.filter(name=domain_name).first()
    if domain is None or not domain.is_usable:
        return NOT_OURS
    opened = {key.sealed_text: key for key in known}
    keys = []
    for row in domain.dkim_keys.filter(state=DkimKey.State.ACTIVE).order_by("-algorithm"):  # RSA first
        row.domain = domain
        try:
            keys.append(_opened(row, opened))
        except (sealed.CannotOpen, ValueError) as error:
            return Holding(domain.organization_id, trouble=f"the DKIM key {row} cannot be opened: {error}")
    return Holding(domain.organization_id, tuple(keys))


def _opened(row: DkimKey, opened: Mapping[str, SigningKey]) -> SigningKey:
    text = row.sealed_private_key
    if text in opened:
        return opened[text]
    key = load_private(sealed.open_sealed(text, row.place))
    return SigningKey(row.domain.name, row.selector, row.algorithm, key, text)
