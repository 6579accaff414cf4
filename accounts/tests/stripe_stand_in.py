"""A stand-in for Stripe on a real port, and the signature that Stripe gives its events, made without its library."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

SECRET = "whsec_stand_in"


@dataclass
class StripeStandIn:
    """`asked` are the requests: method, path, form, Idempotency-Key. `answers[path]` is status and body."""

    url: str = ""
    asked: list[tuple[str, str, dict[str, str], str]] = field(default_factory=list)
    answers: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)


@contextmanager
def stripe_stand_in() -> Iterator[StripeStandIn]:
    stand_in = StripeStandIn()
    stand_in.answers = {
        "/v1/checkout/sessions": (200, {"id": "cs_test_1", "object": "checkout.session", "url": "https://pay.test/cs"}),
        "/v1/billing_portal/sessions": (
            200, {"id": "bps_1", "object": "billing_portal.session", "url": "https://pay.test/portal"},
        ),
    }  # fmt: skip

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            form = dict(parse_qsl(self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()))
            stand_in.asked.append((self.command, self.path, form, self.headers.get("Idempotency-Key") or ""))
            missing = {"error": {"type": "invalid_request_error", "message": f"No such path: {self.path}"}}
            status, body = stand_in.answers.get(self.path, (404, missing))
            octets = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(octets)))
            self.end_headers()
            self.wfile.write(octets)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815  (the names that http.server calls)

        def log_message(self, *_: Any) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stand_in.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield stand_in
    finally:
        server.shutdown()
        server.server_close()


def signature(body: bytes, *, secret: str = SECRET, at: float | None = None) -> str:
    moment = int(at if at is not None else time.time())
    digest = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest}"
