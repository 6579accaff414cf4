from __future__ import annotations

import asyncio

from queue.outcome import Kind, failed
from queue.transports.base import Job, Route
from queue.transports.memory import MemoryTransport
from queue.transports.sandbox import SandboxTransport

JOB = Job("msg_1", "trace", "from@example.org", ["a@example.net", "b@example.net"], b"Subject: x\r\n\r\n", "")


def test_the_sandbox_takes_everything_and_says_that_nothing_was_sent() -> None:
    outcomes = asyncio.run(SandboxTransport().deliver(JOB, Route(())))
    assert list(outcomes) == ["a@example.net", "b@example.net"]
    outcome = outcomes["a@example.net"]
    assert (outcome.kind, outcome.code, outcome.enhanced_code) == (Kind.DELIVERED, 250, "2.0.0")
    assert outcome.reply == "captured by the sandbox; nothing left this machine"
    assert (outcome.transport, outcome.next_hop) == ("sandbox", "sandbox")


def test_the_memory_transport_follows_its_script_for_each_recipient() -> None:
    transport = MemoryTransport()
    no = failed("no such user", transport="memory", enhanced_code="5.1.1")
    transport.script["a@example.net"].append(no)
    first, second = (asyncio.run(transport.deliver(JOB, Route(()))) for _ in range(2))
    assert first["a@example.net"] is no
    assert {outcome.kind for outcome in (*second.values(), first["b@example.net"])} == {Kind.DELIVERED}
    assert [job for job, _ in transport.jobs] == [JOB, JOB]
