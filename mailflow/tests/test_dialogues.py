"""Whole dialogues over a real socket against a model of SMTP: each command one reply, whatever came before.

Hypothesis makes the client: commands in any order, right and wrong, in any grouping and any split into packets.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from accounts.models import User
from mailflow import content
from mailflow.handoff import MemoryHandoff
from mailflow.limits.rules import WITHIN, Verdict
from mailflow.listener import conduct, connection, intake
from mailflow.listener.commands import auth
from mailflow.listener.server import Listener
from mailflow.models import Message
from mailflow.tests import dialogue_model
from mailflow.tests.dialogue_client import (
    BROKEN,
    EXCHANGES,
    KNOWN,
    MAX_OCTETS,
    OTHERS,
    STATES,
    chunks,
    data_of,
    ends,
    packets,
    said,
    transactions,
)
from mailflow.tests.dialogue_model import Model
from mailflow.tests.reply_form import check_form
from mailflow.tests.test_listener import connect
from mailflow.tests.wire import running_listener, until

pytestmark = pytest.mark.django_db(transaction=True)

CREDENTIALS = [(name, b"correct horse") for name in (b"alice", b"alice@example.com")]
RATES = ("CONNECTIONS", "COMMANDS", "MESSAGES", "SENDER_MESSAGES", "ACCOUNT_MESSAGES", "ACCOUNT_COMMANDS",
         "AUTH_FAILURES", "USER_NAME_AUTH_FAILURES")  # fmt: skip
TLS_HELLO = b"\x16\x03"  # at the beginning of a packet it ends the session; that has a test of its own


def dialogues(examples: int) -> Callable[[Any], Any]:
    slow = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=examples, suppress_health_check=slow)


@pytest.fixture(params=["in memory", "through files", "asked before each command"])
def served(
    transactional_db: None, alice: User, memory_handoff: MemoryHandoff, settings: Any,
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Listener]:  # fmt: skip
    """A listener that keeps messages in memory; one whose messages go to files after a few octets; one with limits.

    The limits' answer to each command has to be waited for, as it has where Redis is asked.
    """
    settings.SMTP_PORT = settings.SMTPS_PORT = 0
    if request.param == "through files":
        monkeypatch.setattr(intake, "MEMORY_OCTETS", 8)
        monkeypatch.setattr(intake, "LEAST_MEMORY_OCTETS", 4)
    if request.param == "asked before each command":
        settings.SMTP_RATE_LIMIT_EXEMPT = []
        settings.SMTP_TARPIT_SECONDS = settings.SMTP_MAX_CONNECTIONS_PER_ADDRESS = 0
        for name in RATES:
            setattr(settings, f"SMTP_RATE_LIMIT_{name}", 0)
    with running_listener() as running:
        running.max_message_octets = MAX_OCTETS
        if request.param == "asked before each command":
            running.gate.commands = lambda _session: _within_soon()  # type: ignore[method-assign, assignment]
        yield running


async def _within_soon() -> Verdict:
    await asyncio.sleep(0)
    return WITHIN


def hold(listener: Listener, wire: bytes, plan: list[tuple[int, bool]]) -> Model:
    """Say it all, in these packets; check each reply, and that the session then goes on or has ended as it must."""
    with connect(listener) as client:
        assert check_form(client.greeting, is_greeting=True) == 220
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        model = Model(client.reply, MAX_OCTETS, CREDENTIALS, KNOWN)
        steps = iter(plan)
        while wire and not model.is_over:
            octets, waits = next(steps, (len(wire), False))
            packet, wire = wire[:octets], wire[octets:]
            with suppress(ConnectionError):  # closed by the listener, and rightly so if the model agrees
                client.send(packet)
            model.take(packet)
            if waits:
                model.run()
        with suppress(OSError):
            client.socket.shutdown(socket.SHUT_WR)
        model.run()
        assert client.line() == ""
    return model


def check_stored(model: Model, before: set[str]) -> None:
    """What was answered 250 is there as it was sent, below our trace fields; nothing else is."""
    assert set(Message.objects.values_list("pk", flat=True)) - before == set(model.accepted)
    for message_id, octets in model.accepted.items():
        stored = content.read(message_id)
        assert stored.endswith(octets)
        top = stored[: len(stored) - len(octets)]
        assert re.fullmatch(rb"Received: (?:[^\r\n]+\r\n)+", top), top
        assert message_id.encode() in top
        before.add(message_id)


def test_the_model_has_the_limits_of_the_listener() -> None:
    assert dialogue_model.MAX_BAD == conduct.MAX_BAD_COMMANDS
    assert dialogue_model.MAX_AUTH_FAILURES == auth.MAX_FAILURES
    assert dialogue_model.MAX_LINE == connection.MAX_AUTH_OCTETS


def test_any_dialogue_gets_the_replies_of_the_model_and_what_was_answered_250_is_stored(served: Listener) -> None:
    before: set[str] = set()

    @dialogues(150)
    @given(said, packets)
    @example(
        b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<alice@example.com>\r\nDATA\r\n.\r\nNOOP\r\nQUIT\r\nNOOP\r\n",
        [(1, False)] * 99,
    )
    def run(wire: bytes, plan: list[tuple[int, bool]]) -> None:
        check_stored(hold(served, wire.replace(TLS_HELLO, b"\x16"), plan), before)

    run()
    until(lambda: served.open_connections == 0 and served.rooms.open == 0)


def test_any_dots_and_line_ends_in_any_split_are_content_until_the_end(served: Listener) -> None:
    before: set[str] = set()

    @dialogues(120)
    @given(
        st.one_of(st.tuples(transactions, data_of(ends)), st.tuples(transactions, chunks(ends))).map(b"".join), packets
    )
    def run(wire: bytes, plan: list[tuple[int, bool]]) -> None:
        check_stored(hold(served, b"EHLO x\r\n" + wire + b"NOOP\r\n", plan), before)

    run()


@pytest.mark.parametrize("state", STATES)
def test_each_command_is_answered_as_its_time_is(listener: Listener, state: str) -> None:
    listener.max_message_octets = MAX_OCTETS
    before: set[str] = set()
    for line in [*KNOWN, *OTHERS, *BROKEN]:
        check_stored(hold(listener, STATES[state] + line + b"\r\nNOOP\r\nRSET\r\nMAIL FROM:<>\r\n", []), before)


@pytest.mark.parametrize("said", EXCHANGES, ids=" / ".join)
def test_rset_and_mail_have_no_place_in_an_exchange_and_do_no_harm_behind_it(
    listener: Listener, said: list[str]
) -> None:
    for broken_off in range(1, len(said) + 1):
        wire = "".join(f"{line}\r\n" for line in ["EHLO x", *said[:broken_off], "RSET", "MAIL FROM:<>", "NOOP"])
        hold(listener, wire.encode(), [(7, False)] * 20)
