"""Aliases: made, changed, removed; one local part of a domain is one mailbox or one alias."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from accounts.models import Alias, Domain, TrailEntry, User
from accounts.models.alias import CATCH_ALL
from accounts.names import Address, InvalidName, fold, parse_address


class InvalidAlias(Exception):
    """Values that no alias can have; `errors` names each field."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__(" ".join(errors.values()))
        self.errors = errors


class AliasTaken(Exception):
    """The address is an alias or a mailbox already; the text says which."""


def create(domain: Domain, local_part: str, values: Mapping[str, Any], *, actor: str, client: str = "") -> Alias:
    """Make an alias; raise `InvalidAlias` or `AliasTaken`."""
    alias = Alias(domain=domain, local_part=checked_local_part(local_part, domain), **values)
    _check(alias)
    try:
        with transaction.atomic():
            alias.save(force_insert=True)
            _trail("alias.created", alias, actor, client, words(alias))
    except IntegrityError:
        raise AliasTaken(f"There is an alias {alias} already.") from None
    return alias


def change(alias: Alias, values: Mapping[str, Any], *, actor: str, client: str = "") -> None:
    """Set fields of the alias; what is as it was leaves no trace. Raises `InvalidAlias` or `AliasTaken`."""
    new = {name: value for name, value in values.items() if getattr(alias, name) != value}
    if not new:
        return
    for name, value in new.items():
        setattr(alias, name, value)
    _check(alias)
    with transaction.atomic():
        alias.save(update_fields=list(new))
        _trail("alias.changed", alias, actor, client, words(alias))


def delete(alias: Alias, *, actor: str, client: str = "") -> None:
    with transaction.atomic():
        _trail("alias.deleted", alias, actor, client, words(alias))
        alias.delete()


def checked_local_part(text: str, domain: Domain) -> str:
    """Return the form in which it is kept; `*` is the catch-all. Raises `InvalidAlias`."""
    if text == CATCH_ALL:
        return text
    address = _parsed(f"{text}@{domain.name}")
    if address.folded_local_part != fold(address.unquoted_local_part):
        raise InvalidAlias({"local_part": "An alias can have no + in it: what follows one is the owner's own."})
    return address.folded_local_part


def _parsed(text: str) -> Address:
    try:
        return parse_address(text)
    except InvalidName as error:
        raise InvalidAlias({"local_part": f"Not a valid local part: {error}."}) from None


def _check(alias: Alias) -> None:
    try:
        alias.clean_fields(exclude=["domain"])
        alias.clean()
    except ValidationError as error:
        raise InvalidAlias({name: " ".join(texts) for name, texts in error.message_dict.items()}) from None
    if leads_to_itself(alias):
        raise InvalidAlias({"targets": "An alias cannot lead to itself."})
    if is_mailbox(alias):
        raise AliasTaken(f"{alias} is a mailbox.")


def leads_to_itself(alias: Alias) -> bool:
    return any(parse_address(target).lookup_key == str(alias) for target in alias.targets)


def is_mailbox(alias: Alias) -> bool:
    """Whether the alias, being on, would stand in a mailbox's place: the mailbox gets the mail."""
    return alias.is_active and User.objects.filter(email=str(alias), is_active=True).exists()


def words(alias: Alias) -> str:
    """Say what an alias does, for the trail."""
    shown = ", ".join(alias.targets[:5])
    return f"To {shown}{' …' if alias.targets[5:] else ''}, {'on' if alias.is_active else 'off'}, {alias.announcement}."


def _trail(kind: str, alias: Alias, actor: str, client: str, detail: str) -> None:
    TrailEntry.objects.create(
        kind=kind, actor=actor[:254], subject=str(alias)[:254], client_address=client, detail=detail
    )
