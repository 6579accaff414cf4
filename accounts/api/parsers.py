"""Bodies of requests: JSON (RFC 8259), and no deeper than the parser can go."""

from __future__ import annotations

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
