"""Fetch a domain's MTA-STS policy by HTTPS (RFC 8461 §3.3).

Whoever owns the domain chooses where this goes: the addresses come from our resolver, are public ones as for mail, and
are those that are connected to. No redirects, no cookies, no proxy, 64 KiB, and one deadline for all of it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence

import aiohttp

from accounts.checked_http import PermittedAddresses
from accounts.dns.base import Resolver
from accounts.networks import IPNetwork, may_connect
from queue import mta_sts
from queue.mta_sts import InvalidPolicy, Policy
from queue.transports.tls import verified_context

MAX_OCTETS = 64 * 1024
SECONDS = 30.0

FETCH_ERROR = "sts-policy-fetch-error"
POLICY_INVALID = "sts-policy-invalid"
WEBPKI_INVALID = "sts-webpki-invalid"


class FetchFailed(Exception):
    """There is no policy to be had; `result` is the result type of RFC 8460 §4.3.2.2."""

    def __init__(self, result: str, words: str) -> None:
        super().__init__(words)
        self.result = result


class PolicyFetcher:
    """Fetches one policy after another; keeps nothing between them. A test gives another port and authority."""

    def __init__(
        self,
        resolver: Resolver,
        allowed_networks: Sequence[IPNetwork] = (),
        *,
        port: int = 443,
        tls: ssl.SSLContext | None = None,
        seconds: float = SECONDS,
    ) -> None:
        self._resolver = resolver
        self._allowed_networks = allowed_networks
        self._port = port
        self._tls = tls or verified_context()
        self._seconds = seconds

    async def __call__(self, domain: str) -> Policy:
        """Return the policy of a domain (A-labels); raise `FetchFailed`."""
        try:
            async with asyncio.timeout(self._seconds):
                body = await self._get(domain)
        except TimeoutError:
            raise FetchFailed(FETCH_ERROR, "the policy host did not answer in time") from None
        except aiohttp.ClientConnectorCertificateError as error:
            reason = getattr(error.certificate_error, "verify_message", "")
            raise FetchFailed(WEBPKI_INVALID, f"the policy host's certificate was not accepted: {reason}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise FetchFailed(FETCH_ERROR, f"the policy cannot be fetched: {_words(error)}") from None
        try:
            return mta_sts.parse(body)
        except InvalidPolicy as error:
            raise FetchFailed(POLICY_INVALID, str(error)) from None

    async def _get(self, domain: str) -> bytes:
        addresses = PermittedAddresses(self._resolver, lambda address: may_connect(address, self._allowed_networks))
        connector = aiohttp.TCPConnector(resolver=addresses, ssl=self._tls, limit=2, force_close=True)
        url = f"https://mta-sts.{domain}:{self._port}/.well-known/mta-sts.txt"
        headers = {"Accept": "text/plain", "Accept-Encoding": "identity"}
        async with (
            aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False) as session,
            session.get(url, allow_redirects=False, headers=headers) as answer,
        ):
            if answer.status != 200:
                raise FetchFailed(FETCH_ERROR, f"the policy host answered {answer.status}")
            if answer.content_type != "text/plain":
                raise FetchFailed(POLICY_INVALID, "the policy host answered with something else than text/plain")
            return await _limited(answer.content)


async def _limited(stream: aiohttp.StreamReader) -> bytes:
    pieces: list[bytes] = []
    octets = 0
    async for piece in stream.iter_any():
        octets += len(piece)
        if octets > MAX_OCTETS:
            raise FetchFailed(POLICY_INVALID, f"the policy has more than {MAX_OCTETS} octets")
        pieces.append(piece)
    return b"".join(pieces)


def _words(error: Exception) -> str:
    """Say what happened without what the other side wrote."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, aiohttp.ClientError):
        return type(cause).__name__
    return (cause.strerror or str(cause))[:200] if isinstance(cause, OSError) else type(cause).__name__
