"""Texts in the bodies of requests: those of JSON, and nothing that could be made one."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

SEVERAL = "Several addresses are a list, each of them an item (in a form or a query: the field several times)."


class TextField(serializers.CharField):
    """A text, and nothing that could be made one: a number in its place is a slip of the client's."""

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class PatternField(TextField, serializers.RegexField):
    """A text of a certain form."""


@extend_schema_field({"type": ["string", "integer"]})
class IdOrNameField(TextField):
    """An id, as the number that answers have or as a text, or a name; its value is the text."""

    def to_internal_value(self, data: Any) -> Any:
        return super().to_internal_value(str(data) if type(data) is int else data)


def names_several(text: str) -> bool:
    """Whether a text that is no address looks like several in one: `a@example.com, b@example.com`."""
    return sum("@" in piece for piece in text.replace(";", ",").split(",")) > 1
