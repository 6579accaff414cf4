"""One request of a webhook over the wire, and its answer as a value (Standard Webhooks; RFC 9110)."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import aiohttp
from django.utils import timezone

from accounts import checked_http
from accounts.dns.base import Resolver
from accounts.networks import IPNetwork
from accounts.webhooks import signature, target
from accounts.webhooks.deliveries import Attempt, Parcel
from accounts.webhooks.schedule import parse_retry_after
from accounts.webhooks.target import InvalidTarget

KEPT_OCTETS = 4096  # of an answer
BODY_SECONDS = 2.0  # for these octets
USER_AGENT = "mailproj-webhooks/1.0"
_RETRY_LATER = (429, 503)


class Sender:
    """Made and used on one loop. Nothing is raised: whatever happens is the attempt's end."""

    def __init__(
        self,
        resolver: Resolver,
        allowed: Sequence[IPNetwork],
        *,
        seconds: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._allowed = allowed
        self._seconds = seconds
        timeout = aiohttp.ClientTimeout(total=None, connect=min(seconds, 10.0))
        self._session = checked_http.session(resolver, allowed, timeout=timeout, tls=tls)

    async def close(self) -> None:
        await self._session.close()

    async def send(self, parcel: Parcel) -> Attempt:
        started_at, began = timezone.now(), time.monotonic()
        headers = self._headers(parcel, started_at)
        status: int | None = None
        answer, error, retry_after = "", parcel.trouble, None
        if not error:
            try:
                async with asyncio.timeout(self._seconds):
                    status, answer, retry_after = await self._post(parcel, headers)
                error = _verdict(status)
            except TimeoutError:
                error = f"There was no whole answer within {self._seconds:g} seconds."
            except InvalidTarget as wrong:
                error = f"Nothing is sent to this URL: {wrong}."
            except (aiohttp.ClientError, OSError, ValueError) as trouble:
                error = f"The request failed: {_words(trouble)}."
        return Attempt(
            parcel,
            started_at,
            dt.timedelta(seconds=time.monotonic() - began),
            _shown(headers),
            status,
            answer,
            error,
            retry_after,
        )

    def _headers(self, parcel: Parcel, at: dt.datetime) -> Mapping[str, str]:
        signed = signature.headers(parcel.keys, parcel.delivery_id, int(at.timestamp()), parcel.body)
        return {
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            "Accept-Encoding": "identity",
            **signed,
        }

    async def _post(self, parcel: Parcel, headers: Mapping[str, str]) -> tuple[int, str, dt.timedelta | None]:
        """The URL is judged anew: the networks that are allowed may be others since it was kept."""
        url = target.parse(parcel.url, self._allowed).url
        async with self._session.post(url, data=parcel.body, headers=headers, allow_redirects=False) as answer:
            text = await _beginning(answer)
            asked = answer.headers.get("Retry-After", "")
            wait = parse_retry_after(asked, timezone.now()) if asked and answer.status in _RETRY_LATER else None
            if not answer.content.at_eof():
                answer.close()  # what is more than a person would read is not waited for
            return answer.status, text, wait


async def _beginning(answer: aiohttp.ClientResponse) -> str:
    """Return the first octets of the answer; the status has decided already, so what does not come is not missed."""
    pieces: list[bytes] = []
    missing = KEPT_OCTETS
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(BODY_SECONDS):
            while missing and (piece := await answer.content.read(missing)):
                pieces.append(piece)
                missing -= len(piece)
    return b"".join(pieces).decode("utf-8", "replace")


def _verdict(status: int) -> str:
    if 200 <= status < 300:
        return ""
    if 300 <= status < 400:
        return f"It answered {status}: redirects are not followed."
    return f"It answered {status}."


def _shown(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return the headers as they are kept: a signature that was read there must not pass for another request's."""
    count = len(headers[signature.SIGNATURE].split())
    return {**headers, signature.SIGNATURE: " ".join(["v1,(hidden)"] * count)}


def _words(error: Exception) -> str:
    """Say what happened without what the other side wrote."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = getattr(error.certificate_error, "verify_message", "")
        return f"its certificate was not accepted ({reason})" if reason else "its certificate was not accepted"
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, aiohttp.ServerDisconnectedError):
        return "it closed the connection without an answer"
    if isinstance(cause, aiohttp.ClientError):
        return type(cause).__name__
    if isinstance(cause, OSError):
        return (cause.strerror or str(cause) or type(cause).__name__)[:200]
    return type(cause).__name__
