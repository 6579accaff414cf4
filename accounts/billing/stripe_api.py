"""What we ask of Stripe, by its own library, which is loaded only where there is a key (it takes a while)."""

from __future__ import annotations

import importlib
import json
from functools import lru_cache
from typing import Any

import structlog
from django.conf import settings

logger = structlog.get_logger(__name__)

TIMEOUT_SECONDS = 15


class NotConfigured(Exception):
    """No Stripe key is set."""


class StripeRefused(Exception):
    """Stripe said no to a request; the text is what it said of our input, and may be shown."""


class StripeAway(Exception):
    """Stripe cannot be reached, or answered with an error of its own."""


class WrongSignature(Exception):
    """A webhook call was not signed by Stripe, or too long ago."""


def _library() -> Any:
    return importlib.import_module("stripe")


@lru_cache(maxsize=4)
def _client(key: str, base: str) -> Any:
    stripe = _library()
    return stripe.StripeClient(
        key,
        base_addresses={"api": base} if base else {},
        max_network_retries=2 if not base else 0,
        http_client=stripe.RequestsClient(timeout=TIMEOUT_SECONDS),
    )


def client() -> Any:
    """Return the client; raises `NotConfigured`."""
    if not settings.STRIPE_API_KEY:
        raise NotConfigured
    return _client(settings.STRIPE_API_KEY, settings.STRIPE_API_BASE)


def call(make: Any, *arguments: Any, idempotency_key: str = "", **named: Any) -> Any:
    """Call one method of the client, and translate what its library raises."""
    stripe = _library()
    options = {"idempotency_key": idempotency_key} if idempotency_key else {}
    try:
        return make(*arguments, options=options, **named)
    except (stripe.InvalidRequestError, stripe.CardError) as error:
        raise StripeRefused(error.user_message or "Stripe refused the request.") from None
    except stripe.StripeError as error:
        logger.error("billing.stripe_failed", cause=f"{type(error).__name__}: {error.code or error.http_status}")
        raise StripeAway(type(error).__name__) from None


def verified_event(body: bytes, signature: str) -> dict[str, Any]:
    """Return the event that Stripe signed; raises `NotConfigured`, `WrongSignature` or ValueError for no event."""
    if not settings.STRIPE_WEBHOOK_SECRET:
        raise NotConfigured
    stripe = _library()
    try:
        stripe.WebhookSignature.verify_header(
            body.decode(), signature, settings.STRIPE_WEBHOOK_SECRET, stripe.Webhook.DEFAULT_TOLERANCE
        )
    except stripe.SignatureVerificationError:
        raise WrongSignature from None
    event = json.loads(body)  # as it came, not as the library's version of it
    return event if isinstance(event, dict) else {}
