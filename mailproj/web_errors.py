"""What gunicorn answers by itself, where a request is none: the API's problem details in place of its page of HTML.

Such a request (a line or header that is too long, or is no HTTP) never comes to Django, so no view and no middleware
can give its answer the one shape of errors.
"""

from __future__ import annotations

import json
import socket

from gunicorn import util

from accounts.api import problems
from mailproj.middleware import API_VERSION


def install() -> None:
    """Let this process answer so: gunicorn has no setting for it."""
    util.write_error = write_problem


def write_problem(client: socket.socket, status: int, _reason: str, detail: str) -> None:
    members = problems.body(status, detail or "Something went wrong on our side.")
    octets = json.dumps(members).encode()
    head = (
        f"HTTP/1.1 {status} {members['title']}\r\n"
        "Connection: close\r\n"
        f"Content-Type: {problems.CONTENT_TYPE}\r\n"
        f"Content-Length: {len(octets)}\r\n"
        f"X-API-Version: {API_VERSION}\r\n\r\n"
    )
    util.write_nonblock(client, head.encode() + octets)
