"""What a request to `send` may be: JSON, a form with files, or a bare message (RFC 7578, RFC 5322)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import IO, Any

from django.http import QueryDict
from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser, MultiPartParser

from accounts.api import problems
from accounts.api.parsers import read_json

_LISTS = {"to", "recipient", "cc", "bcc", "reply_to", "tags"}
_OBJECTS = {"headers", "metadata", "template_data"}
_FILES = ("attachments", "attachment", "file", "files")


class FormWithFiles(MultiPartParser):
    """A form: lists as repeated fields, objects as JSON, files as `attachments`; a file named `inline` is shown in the
    HTML by its name (`cid:logo.png`)."""

    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> Any:
        parsed: Any = super().parse(stream, media_type, parser_context)
        if not parsed.data and not parsed.files:
            raise ParseError("The form cannot be read: no field stands between the boundaries that Content-Type names.")
        return _values(parsed.data, parsed.files)


class BareMessage(BaseParser):
    """`Content-Type: message/rfc822`: the body is the message, the query says who sends it to whom."""

    media_type = "message/rfc822"

    def parse(self, stream: IO[bytes], media_type: Any = None, parser_context: Any = None) -> Any:
        query = parser_context["request"].query_params if parser_context else QueryDict()
        data = {name: query.getlist(name) if name in _LISTS else query[name] for name in query}
        return {**data, "raw": base64.b64encode(stream.read()).decode("ascii")}


def _values(fields: Mapping[str, Any], files: Mapping[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for name in fields:
        values = fields.getlist(name)  # type: ignore[attr-defined]  # a QueryDict
        if name in _OBJECTS:
            data[name] = _json(name, values[-1])
        else:
            data[name] = values if name in _LISTS and len(values) > 1 else values[-1]
    uploaded = [file for name in _FILES if name in files for file in files.getlist(name)]  # type: ignore[attr-defined]
    inline = [_inline(file) for file in (files.getlist("inline") if "inline" in files else [])]  # type: ignore[attr-defined]
    if uploaded or inline:
        data["attachments"] = [*uploaded, *inline]
    return data


def _inline(file: Any) -> dict[str, Any]:
    content = base64.b64encode(file.read()).decode("ascii")
    found = {"filename": file.name, "content": content, "content_id": file.name}
    return {**found, "content_type": file.content_type} if file.content_type else found


def _json(name: str, text: str) -> Any:
    try:
        return read_json(text)
    except ParseError:
        raise problems.Unprocessable({name: ["In a form it is an object in JSON; this is not valid JSON."]}) from None
