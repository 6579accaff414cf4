"""Templates of users: Django's language, cut down to what only reads the data that it is given. Pure.

No tag loads, includes, or reaches anything outside the template; no filter makes much of little; the data is plain
JSON, so a variable leads to no object of ours. Loops are counted over the whole template, and the result is bounded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any

from django.template import Context, Engine, Library, TemplateSyntaxError, defaultfilters, defaulttags

MAX_TEMPLATE_CHARACTERS = 200_000
MAX_DATA_CHARACTERS = 100_000
MAX_RESULT_CHARACTERS = 2_000_000
MAX_STEPS = 20_000
MAX_WORK = 50_000_000  # steps times the size of template and data: what a loop can write at most
MAX_FILTERED = 500_000

_TAGS = (
    "autoescape", "comment", "cycle", "filter", "firstof", "for", "if", "ifchanged", "now", "spaceless", "templatetag",
    "verbatim", "widthratio", "with",
)  # fmt: skip
# Left out: what multiplies (center, ljust, rjust, …), what shows insides (pprint), what depends on more than its input
# (random), and what searches a text for addresses at length (urlize).
_FILTERS = (
    "add", "addslashes", "capfirst", "cut", "date", "default", "default_if_none", "dictsort", "dictsortreversed",
    "divisibleby", "escape", "escapejs", "filesizeformat", "first", "floatformat", "force_escape", "get_digit",
    "iriencode", "join", "json_script", "last", "length", "linebreaks", "linebreaksbr", "linenumbers", "lower",
    "make_list", "phone2numeric", "pluralize", "safe", "safeseq", "slice", "slugify", "stringformat", "striptags",
    "time", "timesince", "timeuntil", "title", "truncatechars", "truncatechars_html", "truncatewords",
    "truncatewords_html", "unordered_list", "upper", "urlencode", "wordcount", "wordwrap", "yesno",
)  # fmt: skip
_FORMATS = {"stringformat", "floatformat"}
_LIMITED = {"date", "join", "time", *_FORMATS}  # what is written more than once, or read as a format
_MAX_ARGUMENT = 100  # characters; what a format, a width or a separator needs
_WIDTH = re.compile(r"[0-9*]{3,}")  # of stringformat and floatformat: a width or precision that makes much of little


class InvalidTemplate(ValueError):
    """The template is wrong, or does too much with this data; the text says what, and may be shown to its author."""


@dataclass(frozen=True, slots=True)
class Rendered:
    subject: str
    text: str | None
    html: str | None


@dataclass(frozen=True, slots=True)
class Source:
    """The three texts of a template; an empty body is none."""

    subject: str
    text: str = ""
    html: str = ""


class _Steps(Context):
    """A context that counts what loops set; a template that goes on without end is stopped."""

    steps_left = MAX_STEPS

    def __setitem__(self, name: Any, value: Any) -> None:
        self.steps_left -= 1
        if self.steps_left < 0:
            raise InvalidTemplate("its loops take more steps than there are for a template and data of this size")
        super().__setitem__(name, value)


def _library() -> Library:
    library = Library()
    library.tags = {name: defaulttags.register.tags[name] for name in _TAGS}
    library.filters = {name: _bounded(name, defaultfilters.register.filters[name]) for name in _FILTERS}
    return library


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the filter with its arguments and its result limited: chained, some would double a text each time."""

    @wraps(function)
    def limited(value: Any, *arguments: Any, **named: Any) -> Any:
        for argument in arguments:
            text = str(argument) if name in _LIMITED else ""
            if len(text) > _MAX_ARGUMENT or (name in _FORMATS and _WIDTH.search(text)):
                raise InvalidTemplate(f"the argument of the filter {name} is too long or too large")
        found = function(value, *arguments, **named)
        if isinstance(found, (str, list)) and len(found) > MAX_FILTERED:
            raise InvalidTemplate(f"the filter {name} makes more than {MAX_FILTERED} characters")
        return found

    return limited


def _engine(*, autoescape: bool) -> Engine:
    engine = Engine(autoescape=autoescape, loaders=[])
    engine.template_builtins = [_library()]
    return engine


_TEXT, _HTML = _engine(autoescape=False), _engine(autoescape=True)


def check(source: Source) -> dict[str, str]:
    """Return what is wrong, by field (`subject`, `text_body`, `html_body`); nothing where all can be parsed."""
    parts = {"subject": (_TEXT, source.subject), "text_body": (_TEXT, source.text), "html_body": (_HTML, source.html)}
    found = {}
    for field, (engine, text) in parts.items():
        try:
            _parsed(engine, text)
        except InvalidTemplate as error:
            found[field] = str(error)
    return found


def render(source: Source, data: Mapping[str, Any]) -> Rendered:
    """Fill the template in; raises `InvalidTemplate`. A variable that the data lacks is empty."""
    size = len(json.dumps(data))
    if size > MAX_DATA_CHARACTERS:
        raise InvalidTemplate(f"the data has at most {MAX_DATA_CHARACTERS} characters as JSON")
    subject = _rendered(_TEXT, source.subject, data, size)
    return Rendered(
        subject=" ".join(subject.split()),  # one line, whatever the data holds
        text=_rendered(_TEXT, source.text, data, size) if source.text else None,
        html=_rendered(_HTML, source.html, data, size) if source.html else None,
    )


def _parsed(engine: Engine, text: str) -> Any:
    if len(text) > MAX_TEMPLATE_CHARACTERS:
        raise InvalidTemplate(f"a template has at most {MAX_TEMPLATE_CHARACTERS} characters")
    try:
        return engine.from_string(text)
    except (TemplateSyntaxError, RecursionError) as error:
        raise InvalidTemplate(
            str(error) if isinstance(error, TemplateSyntaxError) else "it is nested too deep"
        ) from None


def _rendered(engine: Engine, text: str, data: Mapping[str, Any], size: int) -> str:
    template = _parsed(engine, text)
    try:
        context = _Steps(dict(data), autoescape=engine.autoescape)
        context.steps_left = min(MAX_STEPS, MAX_WORK // (len(text) + size))
        found = str(template.render(context))
    except InvalidTemplate:
        raise
    except Exception:  # noqa: BLE001  (whatever a template does with odd data is its author's to put right)
        raise InvalidTemplate("it cannot be filled in with this data") from None
    if len(found) > MAX_RESULT_CHARACTERS:
        raise InvalidTemplate(f"filled in, it has more than {MAX_RESULT_CHARACTERS} characters")
    return found
