"""One request of a webhook to a real HTTP server: what goes out, what each answer means, where it never goes."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import threading
from typing import Any

import pytest

from accounts import checked_http
from accounts.dns.memory import MemoryResolver
from accounts.models import WebhookEndpoint
from accounts.tests.webhook_receiver import Say, receiving
from accounts.webhooks.deliveries import Attempt, Parcel
from accounts.webhooks.sender import Sender
from queue.tests.authority import root

LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]


def parcel(url: str, **fields: Any) -> Parcel:
    endpoint = WebhookEndpoint()
    values: dict[str, Any] = {"attempts": 0, "keys": [b"k" * 32], **fields}
    return Parcel("evt_1", endpoint.pk, "message.sent", url, b'{"event":"message.sent"}', **values)


def sent(url: str, *, hosts: dict[str, list[str]] | None = None, **options: Any) -> Attempt:
    async def send() -> Attempt:
        allowed = options.pop("allowed", LOOPBACK)
        sender = Sender(MemoryResolver(hosts=hosts or {}), allowed, **{"seconds": 10.0, **options})
        try:
            return await sender.send(parcel(url))
        finally:
            await sender.close()

    return asyncio.run(send())


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_success(status: int) -> None:
    with receiving(Say(status)) as receiver:
        attempt = sent(receiver.url)
    assert (attempt.status, attempt.error) == (status, "")


@pytest.mark.parametrize("status", [400, 401, 404, 409, 429, 500, 503, 599])
def test_any_other_status_is_a_failure_in_words(status: int) -> None:
    with receiving(Say(status, body=b"no")) as receiver:
        attempt = sent(receiver.url)
    assert (attempt.status, attempt.answer, attempt.error) == (status, "no", f"It answered {status}.")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_failure_and_not_followed(status: int) -> None:
    with receiving() as elsewhere, receiving(Say(status, {"Location": elsewhere.url})) as receiver:
        attempt = sent(receiver.url)
        assert "redirects are not followed" in attempt.error
        assert len(receiver.heard) == 1 and elsewhere.heard == []


def test_of_a_huge_answer_the_beginning_is_kept_and_the_rest_not_waited_for() -> None:
    with receiving(Say(200, body=b"x" * 65536, endless=True)) as receiver:
        attempt = sent(receiver.url)
    assert (attempt.status, attempt.error, attempt.answer) == (200, "", "x" * 4096)


def test_a_compressed_answer_is_kept_as_it_is() -> None:
    with receiving(Say(200, {"Content-Encoding": "gzip"}, b"not gzip at all")) as receiver:
        assert sent(receiver.url).error == ""


def test_an_answer_that_does_not_come_is_not_waited_for() -> None:
    let_go = threading.Event()
    with receiving(Say(wait=let_go)) as receiver:
        attempt = sent(receiver.url, seconds=0.3)
        let_go.set()
    assert attempt.status is None and "within 0.3 seconds" in attempt.error


def test_a_connection_that_is_closed_is_a_failure_in_words() -> None:
    with receiving(Say(close=True)) as receiver:
        assert "closed the connection" in sent(receiver.url).error
    assert "The request failed" in sent(receiver.url).error, "nobody listens there any more"


def test_retry_after_is_read_where_it_means_later() -> None:
    with receiving(Say(503, {"Retry-After": "120"}), Say(500, {"Retry-After": "120"})) as receiver:
        assert sent(receiver.url).retry_after == dt.timedelta(seconds=120)
        assert sent(receiver.url).retry_after is None


def test_a_name_is_connected_to_only_where_its_addresses_may_be() -> None:
    with receiving() as receiver:
        url = f"http://hook.test:{receiver.port}/hook"
        assert sent(url, hosts={"hook.test": ["127.0.0.1"]}).error == ""
        for address in ("127.0.0.1", "10.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "0.0.0.0"):
            attempt = sent(url, hosts={"hook.test": [address]}, allowed=[])
            assert "no public address" in attempt.error, address
        assert "does not exist" in sent(url).error
        assert len(receiver.heard) == 1
        assert receiver.heard[0].headers["host"] == f"hook.test:{receiver.port}"


def test_an_address_that_was_kept_when_it_was_allowed_is_judged_anew() -> None:
    with receiving() as receiver:
        assert "not a public one" in sent(receiver.url, allowed=[]).error
        assert receiver.heard == []


def test_an_address_is_judged_once_more_where_its_socket_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[str] = []

    def only_at_first(address: str, allowed: Any) -> bool:
        judged.append(address)
        return len(judged) == 1

    monkeypatch.setattr(checked_http, "is_permitted", only_at_first)
    with receiving() as receiver:
        attempt = sent(f"http://hook.test:{receiver.port}/", hosts={"hook.test": ["127.0.0.1"]})
        assert "127.0.0.1 is not an address that may be connected to" in attempt.error
        assert judged == ["127.0.0.1"] * 2 and receiver.heard == []


def test_what_dns_says_after_the_check_is_not_asked() -> None:
    resolver = MemoryResolver(hosts={"hook.test": ["127.0.0.1"]})

    async def send() -> Attempt:
        sender = Sender(resolver, LOOPBACK, seconds=10)
        try:
            return await sender.send(parcel(f"http://hook.test:{receiver.port}/"))
        finally:
            await sender.close()

    with receiving() as receiver:
        assert asyncio.run(send()).error == ""
    assert resolver.asked == ["addresses hook.test"]


def test_this_machines_own_addresses_are_not_public(monkeypatch: pytest.MonkeyPatch) -> None:
    # No test machine has a public address of its own: what is public is widened for a moment.
    monkeypatch.setattr("accounts.checked_http.may_connect", lambda address, allowed: True)
    with receiving() as receiver:
        attempt = sent(f"http://hook.test:{receiver.port}/", hosts={"hook.test": ["127.0.0.1"]}, allowed=[])
        assert "no public address" in attempt.error and receiver.heard == []


def test_over_tls_the_receiver_must_prove_who_it_is() -> None:
    authority = root()
    issued = authority.issue("hook.test")
    hosts = {"hook.test": ["127.0.0.1"], "other.test": ["127.0.0.1"]}
    with receiving(tls=issued.server()) as receiver:
        trusting = authority.trusting()
        assert sent(f"https://hook.test:{receiver.port}/", hosts=hosts, tls=trusting).error == ""
        assert "certificate" in sent(f"https://other.test:{receiver.port}/", hosts=hosts, tls=trusting).error
        assert "certificate" in sent(f"https://hook.test:{receiver.port}/", hosts=hosts).error
        assert len(receiver.heard) == 1
