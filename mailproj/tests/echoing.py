"""A web application that tells what it was sent, for tests of the server in front of it."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable
from functools import partial
from tempfile import TemporaryFile
from typing import Any

import django

from mailproj.tests.large import LARGE, large

django.setup()  # the server's own refusals are told in the API's words


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """`/unread` reads no body; `/large`, `/file` and `/pieces` answer at length: at once, by a file, in chunks."""
    path = environ["PATH_INFO"]
    length = ("Content-Length", str(LARGE))
    if path == "/large":
        start_response("200 OK", [length])
        return [large()]
    if path == "/pieces":
        start_response("200 OK", [])
        return iter(partial(io.BytesIO(large()).read, 100_000), b"")
    if path == "/file":
        file = TemporaryFile()  # noqa: SIM115  (the server closes it)
        file.write(large())
        file.seek(0)
        start_response("200 OK", [length])
        found: Iterable[bytes] = environ["wsgi.file_wrapper"](file)
        return found
    octets = b"" if path == "/unread" else environ["wsgi.input"].read()
    text = json.dumps({"path": path, "octets": len(octets), "digest": hashlib.sha256(octets).hexdigest()}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(text)))])
    return [text]
