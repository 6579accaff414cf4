"""Model fields that keep names in the one form under which they are looked up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.db import models

from accounts.names import InvalidName, fold, fold_address, parse_address, parse_domain, parse_next_hop

if TYPE_CHECKING:
    _CharField = models.CharField[str, str]
else:
    _CharField = models.CharField


def validate_address(value: str) -> None:
    try:
        parse_address(value)
    except InvalidName as error:
        raise ValidationError(f"Not a valid address: {error}.") from None


def validate_kept_address(value: str) -> None:
    """Folding may make an address longer: what is kept must be one too."""
    validate_address(value)
    validate_address(fold_address(value))


def validate_domain(value: str) -> None:
    try:
        parse_domain(value)
    except InvalidName as error:
        raise ValidationError(f"Not a valid domain name: {error}.") from None


def validate_next_hop(value: str) -> None:
    try:
        parse_next_hop(value)
    except InvalidName as error:
        raise ValidationError(f"Not host or host:port: {error}.") from None


class _FoldedField(_CharField):
    """A text that is kept, and looked up, in one form whatever the case and the normal form it came in."""

    def get_prep_value(self, value: Any) -> Any:
        prepared = super().get_prep_value(value)
        return self.folded(prepared) if isinstance(prepared, str) else prepared

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        """Give the instance the form that is kept: it is what others compare it with."""
        value = super().pre_save(model_instance, add)
        if isinstance(value, str):
            value = self.folded(value)
            setattr(model_instance, self.attname, value)
        return value

    def folded(self, text: str) -> str:
        return fold(text)


class AddressField(_FoldedField):
    """A mailbox address (RFC 6531 §3.3 too), folded: local mailboxes are found whatever the case."""

    default_validators = [validate_kept_address]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("max_length", 254)
        super().__init__(*args, **kwargs)

    def folded(self, text: str) -> str:
        return fold_address(text)


class LocalPartField(_FoldedField):
    """The part of an address before the @, without quotes, folded as in `Address.folded_local_part`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("max_length", 64)
        super().__init__(*args, **kwargs)


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
