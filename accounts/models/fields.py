"""Model fields that keep names in the one form under which they are looked up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.db import models

from accounts.names import InvalidName, parse_address, parse_domain

if TYPE_CHECKING:
    _CharField = models.CharField[str, str]
else:
    _CharField = models.CharField


def validate_address(value: str) -> None:
    try:
        parse_address(value)
    except InvalidName as error:
        raise ValidationError(f"Not a valid address: {error}.") from None


def validate_domain(value: str) -> None:
    try:
        parse_domain(value)
    except InvalidName as error:
        raise ValidationError(f"Not a valid domain name: {error}.") from None


class AddressField(_CharField):
    """A mailbox address, kept in lower case: local mailboxes are found whatever the case."""

    default_validators = [validate_address]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("max_length", 254)
        super().__init__(*args, **kwargs)

    def get_prep_value(self, value: Any) -> Any:
        prepared = super().get_prep_value(value)
        return prepared.lower() if isinstance(prepared, str) else prepared


class DomainNameField(_CharField):
    """A domain name, kept as lower-case A-labels."""

    default_validators = [validate_domain]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("max_length", 255)
        super().__init__(*args, **kwargs)

    def get_prep_value(self, value: Any) -> Any:
        prepared = super().get_prep_value(value)
        if not isinstance(prepared, str):
            return prepared
        try:
            return parse_domain(prepared)
        except InvalidName:
            return prepared.lower()
