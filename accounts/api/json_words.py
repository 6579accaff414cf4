"""What the framework says of a value of a wrong type, in JSON's words (RFC 8259 §3) in place of Python's."""

from __future__ import annotations

import re

_WRONG_TYPE = re.compile(
    r"(?:Invalid data\. )?Expected a (?P<needed>dictionary|list)(?: of items)?,? "
    r'but got (?:type )?"?(?P<given>\w+)"?\.\Z'
)
_NEEDED = {"dictionary": "An object", "list": "A list"}
_GIVEN = {
    "dict": "an object",
    "list": "a list",
    "str": "a text",
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "NoneType": "null",
}


def reworded(message: str) -> str:
    """Return the message; one that names a type of Python's says the same by JSON's names."""
    found = _WRONG_TYPE.match(message)
    if found is None:
        return message
    given = _GIVEN.get(found["given"])
    return f"{_NEEDED[found['needed']]} is needed{f', not {given}' if given else ''}."
