"""Bodies of requests: JSON (RFC 8259), no deeper than the parser can go, and refused in words that a client can use."""

from __future__ import annotations

import codecs
import json
import math
import sys
from typing import IO, Any, NoReturn

from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser as DjangoJSONParser
from rest_framework.parsers import get_encoding  # type: ignore[attr-defined]  # not in the stubs yet


class JSONParser(DjangoJSONParser):
    """JSON, by `read_json`."""

    def parse(self, stream: IO[bytes], media_type: Any = None, parser_context: Any = None) -> Any:
        encoding = get_encoding(parser_context or {})
        try:
            text = codecs.getreader(encoding)(stream).read()
        except UnicodeError:
            raise ParseError(f"JSON parse error: the body is no text in {encoding}.") from None
        return read_json(text)


def read_json(text: str) -> Any:
    """Return the value; raises `ParseError`, in plain words: Python's own are for programmers.

    A text of thousands of brackets is a mistake of the client's, not of ours; so are numbers that nothing can keep.
    """
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_no_number)
    except RecursionError:
        raise ParseError("The JSON is nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise ParseError(f"JSON parse error: {error.msg}: line {error.lineno}, column {error.colno}.") from None
    except ValueError:
        digits = f"{sys.get_int_max_str_digits():,}"
        raise ParseError(f"JSON parse error: a number has at most {digits} digits.") from None


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ParseError("JSON parse error: a number is too large.")
    return number


def _no_number(name: str) -> NoReturn:
    raise ParseError(f"JSON parse error: {name} is no number of JSON.")
