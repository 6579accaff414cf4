"""Bodies that are not what they should be are refused in JSON's words, not in Python's."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rest_framework import serializers
from rest_framework.exceptions import ParseError

from accounts.api import problems
from accounts.api.fields import names_several
from accounts.api.parsers import JSONParser


class Inner(serializers.Serializer[Any]):
    names = serializers.ListField(child=serializers.CharField(), required=False)
    values = serializers.DictField(required=False)
    choices = serializers.MultipleChoiceField(choices=["a"], required=False)


class Body(Inner):
    inner = Inner(required=False)
    rows = Inner(many=True, required=False)


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ([], "", "An object is needed, not a list."), ("x", "", "An object is needed, not a text."),
        (5, "", "An object is needed, not a number."), (True, "", "An object is needed, not true or false."),
        ({"names": {}}, "names", "A list is needed, not an object."),
        ({"names": "x"}, "names", "A list is needed, not a text."),
        ({"values": [1]}, "values", "An object is needed, not a list."),
        ({"values": 1.5}, "values", "An object is needed, not a number."),
        ({"choices": "a"}, "choices", "A list is needed, not a text."),
        ({"inner": [1]}, "inner", "An object is needed, not a list."),
        ({"rows": {"a": 1}}, "rows", "A list is needed, not an object."),
        ({"rows": [b""]}, "rows.0", "An object is needed."),
        ({"names": ["x", []]}, "names.1", "Not a valid string."),
    ],
)  # fmt: skip
def test_a_wrong_type_is_told_of_in_jsons_words(body: Any, field: str, message: str) -> None:
    checked = Body(data=body)
    with pytest.raises(serializers.ValidationError) as error:
        checked.is_valid(raise_exception=True)
    # DRF numbers the items of a nested list from a list of errors, not by their names
    [found] = problems.members_of(error.value)["errors"]
    assert found["message"] == message and field.startswith(found["field"])


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (b'{"a": ' + b"9" * 5000 + b"}", "JSON parse error: a number has at most 4,300 digits."),
        (b'{"a": NaN}', "JSON parse error: NaN is no number of JSON."),
        (b"[-1e400]", "JSON parse error: a number is too large."),
        (b"\xff\xfe", "JSON parse error: the body is no text in utf-8."),
        (b'{"a": }', "JSON parse error: Expecting value: line 1, column 7."),
        (b"[" * 100_000, "The JSON is nested too deeply."),
    ],
)  # fmt: skip
def test_what_is_no_json_is_refused_in_plain_words(octets: bytes, words: str) -> None:
    with pytest.raises(ParseError) as error:
        JSONParser().parse(io.BytesIO(octets))
    assert str(error.value.detail) == words


def test_a_charset_that_is_none_is_named() -> None:
    with pytest.raises(ParseError, match="Unsupported charset"):
        JSONParser().parse(io.BytesIO(b"{}"), parser_context={"encoding": "bz2_codec"})


@pytest.mark.parametrize(
    ("text", "several"),
    [
        ("a@x.example, b@x.example", True), ("a@x.example;b@x.example", True),
        ("A <a@x.example>, B <b@x.example>", True),
        ("a@x.example", False), ("Doe, Jane <jane@x.example>", False), ("nobody", False), ("a@b@c", False),
    ],
)  # fmt: skip
def test_several_addresses_in_one_text_are_known(text: str, several: bool) -> None:
    assert names_several(text) is several
