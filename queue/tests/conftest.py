"""The cast of the queue's tests: Alice has a mailbox at example.com; an engine runs on what the test gives it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection, transaction

from accounts.dns.memory import MemoryResolver
from accounts.models import Domain, Organization, User
from accounts.names import parse_address
from mailflow import receiver
from mailflow.models import Message
from mailflow.smtp.envelope import Envelope, Recipient
from mailflow.spool.accepted import Origin
from queue import return_paths, suppress
from queue.engine import Engine
from queue.models import Entry
from queue.transports.memory import MemoryTransport


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    """What a process keeps of the database for a moment, the next test's database has not."""
    suppress.forget()
    return_paths.forget()


@pytest.fixture
def alice(db: None) -> User:
    organization = Organization.objects.create(name="Example")
    Domain.objects.create(name="example.com", organization=organization, is_trusted=True)
    return User.objects.create_user("alice", "alice@example.com", "correct horse", organization=organization)


@pytest.fixture
def accept(db: None) -> Callable[..., list[int]]:
    """Accept a message by the front door; return its entries' ids."""

    def accept_message(
        *recipients: str,
        sender: str | None = "alice@example.com",
        notify: str = "",
        original_recipient: str = "",
        body: bytes = b"x\r\n",
        is_test: bool = False,
        header: bytes = b"",
        **envelope_fields: Any,
    ) -> list[int]:
        envelope = Envelope(
            parse_address(sender) if sender else None,
            [Recipient(parse_address(recipient), notify, original_recipient) for recipient in recipients],
            **envelope_fields,
        )
        submission = receiver.Submission(
            source=Message.Source.SUBMISSION.value,
            envelope=envelope,
            origin=Origin(protocol="ESMTP", trace_id="trace", is_test=is_test),
            content=b"Subject: test\r\nMessage-ID: <m@example.com>\r\n" + header + b"\r\n" + body,
        )
        with transaction.atomic():
            return receiver.accept_within([submission])

    return accept_message


@contextmanager
def running_engine(transport: Any = None, resolver: Any = None) -> Iterator[Engine]:
    engine = Engine(transport=transport or MemoryTransport(), resolver=resolver or MemoryResolver())
    engine.start()
    try:
        yield engine
    finally:
        drain(engine)


def drain(engine: Engine, seconds: float = 2) -> None:
    """End what runs within `seconds`, and return when all of it is written down, however long that takes."""
    engine.drain(seconds)
    wait_until(engine._has_ended.is_set)


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Return the condition's first true value; fail where it does not come."""
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        found = condition()
        if found:
            return found
        time.sleep(0.01)  # polling another thread's work, bounded above
    raise AssertionError("it did not happen in time")


def open_entries() -> int:
    return Entry.objects.filter(next_attempt_at__isnull=False).count()


@pytest.fixture
def plans_for_a_tiny_table(postgresql_only: None) -> Iterator[None]:
    """PostgreSQL plans as for a table that it takes for tiny: there a subquery may be carried out for each row."""
    with connection.cursor() as cursor:
        for kind in ("hashjoin", "mergejoin", "hashagg", "sort", "material"):
            cursor.execute(f"SET enable_{kind} = off")
    yield
    connection.close()


@pytest.fixture
def postgresql_only() -> None:
    if connection.vendor != "postgresql":
        pytest.skip("PostgreSQL's row locks and plans are what is tested")
