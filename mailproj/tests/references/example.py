"""One request example of a reference: the line as it is printed, what must be there before, and what it answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mailproj.tests.references.world import World

NUMBER = (int, float)
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
MESSAGE_ID = re.compile(r"msg_[0-9a-z]{20,}")
ADDRESS = re.compile(r"[^@\s]+@[^@\s]+")
PAGE = {"items": list, "total": int, "page": int, "page_size": int, "total_pages": int}
ERROR = {
    "type": str, "title": str, "status": int, "error": str, "detail": str, "code": re.compile(r"[A-Z][A-Z_]+"),
}  # fmt: skip

Given = Callable[["World"], Mapping[str, str]]


def nothing(_: World) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """`given` makes what the example presumes and says which words of the line stand for it."""

    name: str
    line: str
    answer: Any = None
    status: int = 200
    given: Given = nothing
    is_open: bool = False

    def __str__(self) -> str:
        return self.name


def check(value: Any, shape: Any, at: str = "answer") -> None:
    """Assert that a JSON value has this shape.

    A type is that type, a tuple one of several, a pattern a text that matches, a mapping at least these fields, a list
    of one thing some of those; all else is the value itself.
    """
    if isinstance(shape, tuple):
        assert any(_fits(value, one) for one in shape), f"{at} is {value!r}"
    elif isinstance(shape, type):
        assert isinstance(value, shape) and isinstance(value, bool) == (shape is bool), f"{at} is {value!r}"
    elif isinstance(shape, re.Pattern):
        assert isinstance(value, str) and shape.fullmatch(value), f"{at} is {value!r}"
    elif isinstance(shape, dict):
        assert isinstance(value, dict) and value.keys() >= shape.keys(), f"{at} is {value!r}"
        for name, inner in shape.items():
            check(value[name], inner, f"{at}.{name}")
    elif isinstance(shape, list):
        assert isinstance(value, list) and value, f"{at} is {value!r}"
        for number, item in enumerate(value):
            check(item, shape[0], f"{at}[{number}]")
    else:
        assert value == shape and type(value) is type(shape), f"{at} is {value!r}"


def _fits(value: Any, shape: Any) -> bool:
    try:
        check(value, shape)
    except AssertionError:
        return False
    return True
