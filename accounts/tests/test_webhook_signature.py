"""Signatures of Standard Webhooks, held to the reference library and to its published example."""

from __future__ import annotations

import base64
import time

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from accounts.webhooks import signature

BODY = '{"event":"message.received","data":{"subject":"Grüße"}}'.encode()


def test_the_reference_library_accepts_our_headers() -> None:
    key = signature.new_secret()
    headers = dict(signature.headers([key], "evt_1", int(time.time()), BODY))
    assert Webhook(signature.spoken(key)).verify(BODY, headers)["event"] == "message.received"


def test_the_published_example_comes_out_alike() -> None:
    # From the specification's reference vectors.
    key = signature.parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = signature.sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_while_a_secret_is_replaced_both_are_content_and_a_third_is_not() -> None:
    old, new = signature.new_secret(), signature.new_secret()
    headers = dict(signature.headers([new, old], "evt_1", int(time.time()), BODY))
    for key in (old, new):
        Webhook(signature.spoken(key)).verify(BODY, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(signature.spoken(signature.new_secret())).verify(BODY, headers)


def test_what_is_signed_cannot_be_changed() -> None:
    key, now = signature.new_secret(), int(time.time())
    headers = signature.headers([key], "evt_1", now, BODY)
    for change in ({"webhook-id": "evt_2"}, {"webhook-timestamp": str(now - 1)}):
        with pytest.raises(WebhookVerificationError):
            Webhook(signature.spoken(key)).verify(BODY, {**headers, **change})


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_%%%", "whsec_" + base64.b64encode(b"x" * 23).decode(), "ä" * 40])
def test_a_text_that_is_no_secret_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(ValueError) as refusal:
        signature.parse_secret(text)
    assert not text or text not in str(refusal.value)
