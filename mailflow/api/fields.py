"""Fields of request bodies: addresses, one line of text, header fields; each says in words what is wrong with it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.fields import empty

from accounts.api.fields import SEVERAL, PatternField, TextField, names_several
from mailflow import compose
from mailflow.compose import InvalidPart

TAG = r"^[\w.:-]{1,64}\Z"
MAX_TAGS = 10
MAX_METADATA = 50
MAX_METADATA_NAME = 64
MAX_METADATA_VALUE = 500
_URL_ALPHABET = bytes.maketrans(b"-_", b"+/")


class NamedAddressField(TextField):
    """`a@example.com` or `Name <a@example.com>`; its value is a `Named`."""

    def to_internal_value(self, data: Any) -> Any:
        return _checked(compose.parse_named, super().to_internal_value(data))


class _ListedAddressField(NamedAddressField):
    """One of a list; where it is several in one text, that is what is wrong, and not the comma between them."""

    def to_internal_value(self, data: Any) -> Any:
        try:
            return super().to_internal_value(data)
        except serializers.ValidationError:
            if isinstance(data, str) and names_several(data):
                raise serializers.ValidationError(SEVERAL) from None
            raise


@extend_schema_field({"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
class AddressListField(serializers.ListField):
    """One address or a list of them; what is wrong with the one names the field, and no place in a list."""

    child = _ListedAddressField()

    def to_internal_value(self, data: Any) -> Any:
        return [self.child.run_validation(data)] if isinstance(data, str) else super().to_internal_value(data)


class HeaderTextField(TextField):
    """A text that goes into one header field."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(trim_whitespace=False, **kwargs)

    def to_internal_value(self, data: Any) -> Any:
        text = super().to_internal_value(data)
        _checked(compose.check_header_text, text)
        return text


class BodyTextField(TextField):
    """A text of any length; the size of the request is what limits it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(trim_whitespace=False, allow_blank=True, **kwargs)
        self.validators = []  # DRF's refuses NUL, which a transfer encoding carries well

    def to_internal_value(self, data: Any) -> Any:
        text = super().to_internal_value(data)
        _checked(compose.check_text, text)
        return text


class HeaderValueField(HeaderTextField):
    """A header field's text, which may be written as a number: `{"X-Priority": 1}`."""

    def to_internal_value(self, data: Any) -> Any:
        return super().to_internal_value(str(data) if type(data) in (int, float) else data)


class HeadersField(serializers.DictField):
    """Further header fields, by name; the value is a list of pairs in the order given."""

    child = HeaderValueField(allow_blank=True)

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


class Base64Field(serializers.CharField):
    """Octets in base64, of either alphabet, with or without line ends; its value is `bytes`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_blank=True, **kwargs)
        self.validators = []

    def run_validation(self, data: Any = empty) -> Any:
        return b"" if data == "" else super().run_validation(data)

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, str):
            raise serializers.ValidationError("A text in base64 is needed.")
        try:
            octets = data.encode("ascii").translate(_URL_ALPHABET, b" \t\r\n")
            return base64.b64decode(octets + b"=" * (-len(octets) % 4), validate=True)
        except (UnicodeEncodeError, binascii.Error):
            raise serializers.ValidationError("This is not valid base64.") from None


class TagsField(serializers.ListField):
    """Words to find a message by, each once; one word is a list of one."""

    child = PatternField(TAG, error_messages={"invalid": "A tag has 1 to 64 letters, digits or . _ : - signs."})

    def to_internal_value(self, data: Any) -> Any:
        words = [self.child.run_validation(data)] if isinstance(data, str) else super().to_internal_value(data)
        found = list(dict.fromkeys(words))
        if len(found) > MAX_TAGS:
            raise serializers.ValidationError(f"At most {MAX_TAGS} tags.")
        return found


@extend_schema_field({"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}})
class MetadataField(serializers.Field[Any, Any, Any, Any]):
    """Names with values that are texts, numbers or truth values."""

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, dict):
            raise serializers.ValidationError("An object is needed.")
        if len(data) > MAX_METADATA:
            raise serializers.ValidationError(f"At most {MAX_METADATA} names.")
        errors = {}
        for name, value in data.items():
            if not 0 < len(name) <= MAX_METADATA_NAME or not name.isprintable():
                errors[name[:MAX_METADATA_NAME]] = [f"A name has 1 to {MAX_METADATA_NAME} printable characters."]
            elif not isinstance(value, (str, int, float, bool)) or len(str(value)) > MAX_METADATA_VALUE:
                errors[name] = [f"A text of up to {MAX_METADATA_VALUE} characters, a number, true or false is needed."]
            elif isinstance(value, str) and ("\0" in value or not _is_unicode(value)):
                errors[name] = ["NUL and lone surrogates cannot be kept."]
        if errors:
            raise serializers.ValidationError(errors)
        return data

    def to_representation(self, value: Any) -> Any:
        return value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked(check: Callable[[str], Any], value: str) -> Any:
    try:
        return check(value)
    except InvalidPart as error:
        raise serializers.ValidationError(_sentence(error)) from None


def _sentence(error: InvalidPart) -> str:
    text = str(error)
    return text[:1].upper() + text[1:] + "."
