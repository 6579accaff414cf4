"""Bodies of requests: JSON (RFC 8259), no deeper than the parser can go, and refused in words that a client can use."""

from __future__ import annotations

import json
import sys
from typing import Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser as DjangoJSONParser


class JSONParser(DjangoJSONParser):
    """A text of thousands of brackets is a mistake of the client's, not of ours."""

    def parse(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().parse(*args, **kwargs)
        except RecursionError:
            raise ParseError("The JSON is nested too deeply.") from None
        except ParseError as error:
            raise ParseError(_words(error.__context__)) from None


def _words(cause: BaseException | None) -> str:
    """Say what is wrong with the text; Python's own words are for programmers, but for those of its JSON parser."""
    if isinstance(cause, json.JSONDecodeError):
        return f"JSON parse error: {cause.msg}: line {cause.lineno}, column {cause.colno}."
    if isinstance(cause, UnicodeError):
        return "JSON parse error: the body is not in UTF-8."
    if "JSON compliant" in str(cause):
        return "JSON parse error: NaN and Infinity are no numbers of JSON."
    return f"JSON parse error: a number has at most {sys.get_int_max_str_digits():,} digits."
