"""The cast and the peers of mailflow's tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from accounts.models import Domain, Organization, User
from mailflow import handoff
from mailflow.handoff import MemoryHandoff
from mailflow.listener.server import Listener
from mailflow.tests.wire import running_listener


@pytest.fixture
def memory_handoff(settings: Any) -> Iterator[MemoryHandoff]:
    """The accept leg alone: what it hands over is kept in memory."""
    settings.HANDOFF = "mailflow.handoff.MemoryHandoff"
    handoff.current.cache_clear()
    found = handoff.current()
    assert isinstance(found, MemoryHandoff)
    yield found
    handoff.current.cache_clear()


@pytest.fixture
def alice(db: None) -> User:
    """Alice has a mailbox at example.com, a trusted domain of her organization."""
    organization = Organization.objects.create(name="Example")
    Domain.objects.create(name="example.com", organization=organization, is_trusted=True)
    return User.objects.create_user("alice", "alice@example.com", "correct horse", organization=organization)


@pytest.fixture
def listener(transactional_db: None, alice: User, memory_handoff: MemoryHandoff, settings: Any) -> Iterator[Listener]:
    """A listener on a free port; example.com is local, alice@example.com its one mailbox."""
    settings.SMTP_PORT = 0
    settings.SMTPS_PORT = 0
    with running_listener() as running:
        yield running
