"""A web application that tells what it was sent, for tests of the server in front of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any

import django

django.setup()  # the server's own refusals are told in the API's words

LARGE = 64 << 20


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """`/unread` reads no body, `/large` answers with more than any buffer between us and the client takes."""
    path = environ["PATH_INFO"]
    if path == "/large":
        start_response("200 OK", [("Content-Length", str(LARGE))])
        return [bytes(LARGE)]
    octets = b"" if path == "/unread" else environ["wsgi.input"].read()
    found = {"path": path, "octets": len(octets), "digest": hashlib.sha256(octets).hexdigest()}
    text = json.dumps(found).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(text)))])
    return [text]
