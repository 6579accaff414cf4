"""Fields of request bodies: addresses, one line of text, header fields; each says in words what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from mailflow import compose
from mailflow.compose import InvalidPart


class NamedAddressField(serializers.CharField):
    """`a@example.com` or `Name <a@example.com>`; its value is a `Named`."""

    def to_internal_value(self, data: Any) -> Any:
        return _checked(compose.parse_named, super().to_internal_value(data))


@extend_schema_field({"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
class AddressListField(serializers.ListField):
    """One address or a list of them."""

    child = NamedAddressField()

    def to_internal_value(self, data: Any) -> Any:
        return super().to_internal_value([data] if isinstance(data, str) else data)


class HeaderTextField(serializers.CharField):
    """A text that goes into one header field."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(trim_whitespace=False, **kwargs)

    def to_internal_value(self, data: Any) -> Any:
        text = super().to_internal_value(data)
        _checked(compose.check_header_text, text)
        return text


class BodyTextField(serializers.CharField):
    """A text of any length; the size of the request is what limits it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(trim_whitespace=False, allow_blank=True, **kwargs)
        self.validators = []  # DRF's refuses NUL, which a transfer encoding carries well

    def to_internal_value(self, data: Any) -> Any:
        text = super().to_internal_value(data)
        _checked(compose.check_text, text)
        return text


class HeadersField(serializers.DictField):
    """Further header fields, by name; the value is a list of pairs in the order given."""

    child = HeaderTextField(allow_blank=True)

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict) and len(data) > compose.MAX_HEADERS:
            raise serializers.ValidationError(f"At most {compose.MAX_HEADERS} headers.")
        values = super().to_internal_value(data)
        errors = {}
        for name in values:
            try:
                compose.check_header_name(name)
            except InvalidPart as error:
                errors[name] = [_sentence(error)]
        if errors:
            raise serializers.ValidationError(errors)
        return list(values.items())


def _checked(check: Callable[[str], Any], value: str) -> Any:
    try:
        return check(value)
    except InvalidPart as error:
        raise serializers.ValidationError(_sentence(error)) from None


def _sentence(error: InvalidPart) -> str:
    text = str(error)
    return text[:1].upper() + text[1:] + "."
