"""A Django e-mail backend that sends through the API. This one file is all that another project needs of ours.

In the settings of that project:

    EMAIL_BACKEND = "mailflow.email_backend.ApiEmailBackend"   # or wherever the file was put
    MAILPROJ_URL = "https://mail.example.com"
    MAILPROJ_API_KEY = "sk_live_…"
    MAILPROJ_TIMEOUT = 10    # seconds; the default

Each message goes as it was built, attachments and all (`raw`), with Bcc in the envelope alone. It is sent with an
Idempotency-Key, so that a repeat after a lost answer makes no second message.
"""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Sequence
from email.utils import parseaddr
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend

_TRIES = 2


class ApiError(Exception):
    """The API refused the message; the text is its answer's own words, `status` its HTTP status, 0 where none came."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class ApiEmailBackend(BaseEmailBackend):
    """Takes url, api_key and timeout as arguments too, in place of the settings."""

    def __init__(
        self, *, url: str = "", api_key: str = "", timeout: float | None = None, fail_silently: bool = False, **_: Any
    ) -> None:
        super().__init__(fail_silently=fail_silently)
        self._url = (url or getattr(settings, "MAILPROJ_URL", "")).rstrip("/")
        self._api_key = api_key or getattr(settings, "MAILPROJ_API_KEY", "")
        self._timeout = timeout or getattr(settings, "MAILPROJ_TIMEOUT", 10)
        if not self._url.startswith(("http://", "https://")) or not self._api_key:
            raise ImproperlyConfigured("MAILPROJ_URL (http:// or https://) and MAILPROJ_API_KEY are needed.")

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        """Return how many were taken; their ids are on them as `email_id`. Raises `ApiError`, unless silent."""
        sent = 0
        for message in email_messages:
            if not message.recipients():
                continue
            try:
                message.email_id = self._send(message)  # type: ignore[attr-defined]  # as other backends do
            except ApiError:
                if not self.fail_silently:
                    raise
            else:
                sent += 1
        return sent

    def _send(self, message: EmailMessage) -> str:
        body = json.dumps(
            {
                "raw": base64.b64encode(_octets(message)).decode("ascii"),
                "sender": parseaddr(message.from_email)[1],
                "to": [parseaddr(address)[1] for address in message.recipients()],
            }
        ).encode()
        request = urllib.request.Request(  # noqa: S310  (its scheme was checked)
            f"{self._url}/api/v1/send",
            data=body,
            headers={
                "Content-Type": "application/json",
                "X-API-Key": self._api_key,
                "Idempotency-Key": uuid.uuid4().hex,
            },
        )
        for left in reversed(range(_TRIES)):
            try:
                with urllib.request.urlopen(request, timeout=self._timeout) as answer:  # noqa: S310
                    return str(json.load(answer)["email_id"])
            except urllib.error.HTTPError as error:
                raise ApiError(error.code, _detail(error)) from None
            except OSError as error:
                if not left:
                    raise ApiError(0, f"{self._url} cannot be reached: {error}") from None
        raise AssertionError("unreachable")


def _octets(message: EmailMessage) -> bytes:
    built: Any = message.message()  # of a class of Django's, which knows of line ends
    found: bytes = built.as_bytes(linesep="\r\n")
    return found


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["detail"])
    except (ValueError, KeyError, TypeError, OSError):
        return f"HTTP status {error.code}"
