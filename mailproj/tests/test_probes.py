"""Whether the listener lives, as `runall` and the containers' health checks ask it: over a real socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from mailflow.listener.server import Listener
from mailflow.models import Event
from mailflow.spool import group
from mailflow.tests.wire import running_listener, until
from mailproj import probes
from mailproj.ports import free_port

pytestmark = pytest.mark.django_db(transaction=True)


@contextmanager
def serving(settings: Any, **changes: Any) -> Iterator[Listener]:
    settings.SMTP_PORT, settings.SMTPS_PORT = free_port(), 0
    for name, value in changes.items():
        setattr(settings, name, value)
    with running_listener() as listener:
        yield listener


def test_a_listener_lives_whatever_it_greets_with(settings: Any) -> None:
    with serving(settings) as listener:
        assert probes.smtp_greets()
        listener.max_connections = 0
        assert probes.smtp_greets()
    with serving(settings, SMTP_ACCEPTS_MAIL=False):
        assert probes.smtp_greets()
        call_command("probe", "smtp")


def test_a_listener_that_expects_a_proxy_is_asked_as_one(settings: Any) -> None:
    with serving(settings, SMTP_PROXY_NETWORKS=settings.SMTP_RATE_LIMIT_EXEMPT, SMTP_RATE_LIMIT_EXEMPT=[]) as listener:
        for _ in range(2 * settings.SMTP_RATE_LIMIT_CONNECTIONS):
            assert probes.smtp_greets()
        until(lambda: listener.open_connections == 0)
    spool = group.current()
    assert isinstance(spool, group.GroupCommit)
    until(lambda: spool._idle)
    assert not Event.objects.exists()


def test_what_does_not_answer_or_is_no_listener_does_not_live(settings: Any) -> None:
    settings.SMTP_PORT = free_port()
    assert not probes.smtp_greets()
    with socket.create_server(("127.0.0.1", settings.SMTP_PORT)) as server:

        def answer() -> None:
            with server.accept()[0] as peer:
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(CommandError):
            call_command("probe", "smtp")
