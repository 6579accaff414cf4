"""What the tests of the SMTP transport share: both event loops, a message, deliveries to scripted peers."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import pytest
import uvloop

from queue.outcome import Outcome
from queue.tests.peers import Peer
from queue.transports.base import Job, NextHop, Route
from queue.transports.options import SmtpOptions, Timeouts
from queue.transports.smtp import SmtpTransport

T = TypeVar("T")

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
BASIS = SmtpOptions(own_name="mail.example.org", allowed_networks=LOOPBACK)
TO = "rcpt@example.net"
CONTENT = b"Subject: hello\r\n\r\nA line.\r\n"
SHORT = 0.15


def _all_of(seconds: float) -> Timeouts:
    return Timeouts(
        connect=seconds,
        greeting=seconds,
        command=seconds,
        tls=seconds,
        mail=seconds,
        rcpt=seconds,
        data_initiation=seconds,
        data_block=seconds,
        data_termination=seconds,
        envelope=4 * seconds,
        hops=seconds,
        quit=seconds,
        lowest_rate=1e9,
    )


# As short as possible for tests in which a peer says nothing; only those use it.
IMPATIENT = _all_of(SHORT)
# For those in which another has to answer meanwhile, on however busy a machine.
FAIR = _all_of(0.6)


def _on_asyncio(body: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner() as runner:
        return runner.run(body)


def _on_uvloop(body: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(body)


class Run(Protocol):
    """Runs a test's coroutine on one of the event loops."""

    def __call__(self, body: Coroutine[Any, Any, T]) -> T: ...


on_both_loops = pytest.mark.parametrize("run", [_on_asyncio, _on_uvloop], ids=["asyncio", "uvloop"])


def options(**changes: Any) -> SmtpOptions:
    return replace(BASIS, **changes)


def job(
    *recipients: str,
    content: bytes = CONTENT,
    body_type: str = "",
    reverse_path: str = "from@example.org",
    is_smtputf8: bool = False,
    **requests: Any,
) -> Job:
    return Job("msg_1", "trace", reverse_path, recipients or (TO,), content, body_type, is_smtputf8, **requests)


async def deliver_over(*peers: Peer, message: Job | None = None, **changes: Any) -> Mapping[str, Outcome]:
    """Deliver one message by the peers as hops in this order, with a transport of its own."""
    transport = SmtpTransport(options(**changes))
    try:
        return await transport.deliver(message or job(), Route([peer.hop for peer in peers]))
    finally:
        await transport.close()


async def outcome_at(peer: Peer, message: Job | None = None, **changes: Any) -> Outcome:
    async with peer.run():
        outcomes = await deliver_over(peer, message=message, **changes)
    assert len(set(outcomes.values())) == 1
    return next(iter(outcomes.values()))


async def until_open(hop: NextHop) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection(hop.address, hop.port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
