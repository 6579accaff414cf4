"""The writer process of a listener: what it commits, what its death costs, what happens without it (docs/adr/0011)."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import uvloop
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from accounts.billing import plans
from accounts.models import Plan, User
from accounts.names import parse_address
from mailflow import content, receiver
from mailflow.errors import Refused, Unavailable
from mailflow.events import NewEvent
from mailflow.handoff import MemoryHandoff
from mailflow.models import Event, Message
from mailflow.policy.decision import Decision, Verdict
from mailflow.smtp.envelope import DeliverBy, Envelope, Recipient
from mailflow.smtp.reply import Reply
from mailflow.spool import client, commit, group, writer
from mailflow.spool.accepted import Origin, Receipt
from mailflow.spool.client import WriterClient
from mailflow.spool.frames import Frames, Work, pack_results, pack_work
from mailflow.tests.test_listener import MAIL, connect, send_mail
from mailflow.tests.wire import running_listener, until


def submission(body: bytes = b"body\r\n") -> receiver.Submission:
    reply = Reply(250, "1.5", "noted")
    return receiver.Submission(
        source=Message.Source.RECEPTION.value,
        envelope=Envelope(
            parse_address("用户@例え.jp"),
            [Recipient(parse_address("alice@example.com"), "NEVER", "rfc822;a@b")],
            "8BITMIME",
            envelope_id="id",
            is_smtputf8=True,
            deliver_by=DeliverBy(60, "NT"),
        ),
        origin=Origin(protocol="ESMTP", trace_id="trace", client_address="192.0.2.1"),
        content=b"Subject: x\r\n\r\n" + body,
        decisions=[Decision("sender", "reception", Verdict.NOTE, "why", "saw", reply)],
    )


# --- frames -----------------------------------------------------------------------------------------------------------


@given(bodies=st.lists(st.binary(max_size=300), max_size=5), cuts=st.lists(st.integers(1, 400), max_size=20))
def test_a_frame_says_what_was_put_in_however_it_is_cut(bodies: list[bytes], cuts: list[int]) -> None:
    messages = [
        (number, receiver.examine(submission(body.replace(b"\r", b"").replace(b"\n", b""))))
        for number, body in enumerate(bodies)
    ]
    notes = [NewEvent(kind="refused", summary="no", reply="550")]
    wire = pack_work(Work(messages, notes)) + pack_work(Work(is_last=True))
    frames, found = Frames(), []
    for size in [*cuts, len(wire)]:
        frames.feed(wire[:size])
        wire = wire[size:]
        found += list(frames.work())
    assert [work.is_last for work in found] == [False, True]
    assert list(found[0].messages) == messages
    assert list(found[0].notes) == notes


def test_results_go_the_other_way() -> None:
    frames = Frames()
    results = [
        (7, None, "", ""),
        (8, Reply(452, "3.1", "full"), "no space", ""),
        (9, Reply(452, "7.1", "no"), "no", "rule"),
    ]
    frames.feed(pack_results([]) + pack_results(results))
    assert [list(found) for found in frames.results()] == [[], results]


# --- client and writer ------------------------------------------------------------------------------------------------


class Waiting:
    """A message's sender, who hears in `result`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop: asyncio.AbstractEventLoop | None = loop
        self.result: asyncio.Future[Receipt | Exception] = loop.create_future()

    def resolve(self, result: Receipt | Exception) -> None:
        self.result.set_result(result)


class Writers:
    """Starts writers that are threads here, for the test's database; each can be cut off from its client."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self.threads: list[threading.Thread] = []
        self.may_serve = threading.Event()
        self.may_serve.set()

    def __call__(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        end = socket.socket(fileno=theirs.dup().detach())
        self.sockets.append(end)
        thread = threading.Thread(target=self._serve, args=[end], daemon=True)
        self.threads.append(thread)
        thread.start()
        return subprocess.Popen([sys.executable, "-c", ""])  # what stands for the process

    def _serve(self, end: socket.socket) -> None:
        self.may_serve.wait(60)
        try:
            writer.serve(end)
        finally:
            end.close()
            connection.close()

    def cut_off(self) -> None:
        """What a kill looks like from the client's side."""
        self.sockets[-1].shutdown(socket.SHUT_RDWR)


@pytest.fixture
def writers() -> Iterator[Writers]:
    made = Writers()
    yield made
    for thread in made.threads:
        thread.join(60)


def run(main: Any) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


async def ready(spool: WriterClient) -> None:
    while not spool.is_ready:  # noqa: ASYNC110  (there is nothing to wait on)
        await asyncio.sleep(0.01)


pytestmark_rows = pytest.mark.django_db(transaction=True)


@pytestmark_rows
def test_what_the_writer_commits_is_stored_whole_with_its_events(
    alice: User, memory_handoff: MemoryHandoff, writers: Writers
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        spool = WriterClient(loop, writers)
        spool.start()
        await ready(spool)
        waiting = [Waiting(loop) for _ in range(150)]
        for one in waiting:
            spool.put(receiver.examine(submission()), one)
        spool.note(NewEvent(kind="refused", summary="a refusal"))
        results = [await one.result for one in waiting]
        assert {type(result) for result in results} == {Receipt}
        assert {getattr(result, "message_id", "") for result in results} == set(
            await asyncio.to_thread(lambda: list(Message.objects.values_list("pk", flat=True)))
        )
        await spool.stop()

    run(main)
    message = Message.objects.first()
    assert message is not None and content.read(message.pk).endswith(b"Subject: x\r\n\r\nbody\r\n")
    assert (message.reverse_path, message.is_smtputf8) == ("用户@xn--r8jz45g.jp", True)
    assert Event.objects.filter(kind="accepted").count() == 150
    assert Event.objects.get(kind="refused").summary == "a refusal"
    assert set(memory_handoff.rung) == set(range(150))


@pytestmark_rows
def test_what_a_plan_refuses_comes_back_as_that_refusal_and_leaves_its_event_to_the_session(
    alice: User, memory_handoff: MemoryHandoff, writers: Writers
) -> None:
    plans.message_limits.forget()
    Plan.objects.create(name="Free", is_default=True, max_messages_a_day=1)
    sent = submission()
    origin = replace(sent.origin, organization_id=alice.organization_id)
    sent = replace(sent, source=Message.Source.SUBMISSION.value, origin=origin)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        spool = WriterClient(loop, writers)
        spool.start()
        await ready(spool)
        first, second = Waiting(loop), Waiting(loop)
        spool.put(receiver.examine(sent), first)
        spool.put(receiver.examine(sent), second)
        assert isinstance(await first.result, Receipt)
        refusal = await second.result
        assert isinstance(refusal, Refused)
        assert (refusal.rule, refusal.reply.code) == ("plan_limit", 452)
        assert refusal.reason == refusal.reply.text
        await spool.stop()

    run(main)
    assert not Event.objects.filter(kind="refused").exists()


@pytestmark_rows
def test_until_the_writer_is_ready_the_listener_commits_by_itself(
    alice: User, memory_handoff: MemoryHandoff, writers: Writers
) -> None:
    writers.may_serve.clear()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        spool = WriterClient(loop, writers)
        spool.start()
        one = Waiting(loop)
        spool.put(receiver.examine(submission()), one)
        assert isinstance(await one.result, Receipt)
        assert not spool.is_ready
        writers.may_serve.set()
        await ready(spool)
        await spool.stop()

    run(main)


@pytestmark_rows
def test_who_waited_for_a_writer_that_died_hears_451_and_the_next_one_serves(
    alice: User, memory_handoff: MemoryHandoff, writers: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)
    committing, may_go_on = threading.Event(), threading.Event()
    real = commit.commit

    def slow(*arguments: Any) -> Any:
        committing.set()
        may_go_on.wait(60)
        return real(*arguments)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        spool = WriterClient(loop, writers)
        spool._pause = 0.01
        spool.start()
        await ready(spool)
        monkeypatch.setattr(writer, "commit", slow)
        lost = Waiting(loop)
        spool.put(receiver.examine(submission()), lost)
        await asyncio.to_thread(committing.wait, 60)
        writers.cut_off()
        result = await lost.result
        assert isinstance(result, Unavailable) and str(result.reply).startswith("451 4.3.0")
        monkeypatch.setattr(writer, "commit", real)
        may_go_on.set()
        meanwhile = Waiting(loop)
        spool.put(receiver.examine(submission()), meanwhile)
        assert isinstance(await meanwhile.result, Receipt)
        await ready(spool)
        after = Waiting(loop)
        spool.put(receiver.examine(submission()), after)
        assert isinstance(await after.result, Receipt)
        assert len(writers.sockets) == 2
        await spool.stop()

    run(main)
    writers.threads[0].join(60)
    assert Message.objects.count() == 3  # the one in doubt had been committed: rather twice than never


@pytestmark_rows
def test_one_message_that_cannot_be_committed_fails_alone(
    alice: User, memory_handoff: MemoryHandoff, writers: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = iter(["msg_same", "msg_same", "msg_other"])
    monkeypatch.setattr(receiver, "new_message_id", lambda: next(ids))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        spool = WriterClient(loop, writers)
        spool.start()
        await ready(spool)
        waiting = [Waiting(loop) for _ in range(3)]
        for one in waiting:
            spool.put(receiver.examine(submission()), one)
        results = [await one.result for one in waiting]
        assert [isinstance(result, Receipt) for result in results] == [True, False, True]
        await spool.stop()

    run(main)
    assert set(Message.objects.values_list("pk", flat=True)) == {"msg_same", "msg_other"}


@pytest.fixture
def spooling(writers: Writers, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a running listener a writer."""

    @contextmanager
    def give(listener: Any) -> Iterator[WriterClient]:
        async def begin() -> WriterClient:
            spool = WriterClient(listener.loop, writers)
            spool.start()
            await ready(spool)
            return spool

        spool = asyncio.run_coroutine_threadsafe(begin(), listener.loop).result(60)
        before = group.current()
        group.use(spool)
        try:
            yield spool
        finally:
            asyncio.run_coroutine_threadsafe(spool.stop(), listener.loop).result(60)
            group.use(before)

    return give


@pytestmark_rows
def test_a_listener_with_a_writer_takes_small_and_large_mail(
    alice: User, memory_handoff: MemoryHandoff, settings: Any, spooling: Any
) -> None:
    settings.SMTP_PORT = settings.SMTPS_PORT = 0
    large = MAIL + (b"x" * 78 + b"\r\n") * 20_000
    with running_listener() as listener:
        with spooling(listener), connect(listener) as session:
            for octets in (MAIL, large, MAIL):
                assert send_mail(session, octets).startswith("250")
        until(lambda: listener.open_connections == 0)
    stored = [content.read(pk) for pk in Message.objects.order_by("pk").values_list("pk", flat=True)]
    assert [found.endswith(octets) for found, octets in zip(stored, (MAIL, large, MAIL), strict=True)] == [True] * 3


def test_an_accepted_message_keeps_all_its_fields() -> None:
    accepted = receiver.examine(submission())
    frames = Frames()
    frames.feed(pack_work(Work([(1, accepted)])))
    ((_, found),) = next(frames.work()).messages
    assert found == accepted
