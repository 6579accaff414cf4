from __future__ import annotations

import datetime as dt
from dataclasses import fields
from typing import Any

import pytest

from queue.tests.outbound import LOOPBACK
from queue.transports.base import Relay, Route
from queue.transports.options import SmtpOptions, Timeouts, from_settings, silence_remembered


def test_secrets_are_in_no_text_of_a_route() -> None:
    assert "secret" not in repr(Route((), Relay("RELAY_HOST", "us", "secret")))


def test_the_options_come_from_the_settings(settings: Any) -> None:
    for name, value in {
        "SMTP_HOSTNAME": "mail.example.org",
        "OUTBOUND_TIMEOUT": 30.0,
        "OUTBOUND_CONNECT_TIMEOUT": 7.0,
        "OUTBOUND_ALLOWED_NETWORKS": list(LOOPBACK),
        "SMTP_POOL_SIZE": 3,
    }.items():
        setattr(settings, name, value)
    found = from_settings()
    assert (found.own_name, found.pool_size) == ("mail.example.org", 3)
    assert (found.timeouts.greeting, found.timeouts.data_termination, found.timeouts.connect) == (30.0, 60.0, 7.0)


def test_each_step_has_a_time_of_its_own_and_the_defaults_are_those_of_the_rfc(settings: Any) -> None:
    """RFC 5321 §4.5.3.2."""
    found = from_settings().timeouts
    assert found == Timeouts()
    steps = (found.greeting, found.mail, found.rcpt, found.data_initiation, found.data_block, found.data_termination)
    assert steps == (300, 300, 300, 120, 180, 600)
    assert (found.command, found.envelope, found.hops) == (300, 900, 300)
    names = {
        "GREETING": 1, "MAIL": 2, "RCPT": 3, "DATA": 4, "BLOCK": 5, "END": 6, "TLS": 7, "COMMAND": 8, "ENVELOPE": 9,
        "SEARCH": 10,
    }  # fmt: skip
    for name, seconds in names.items():
        setattr(settings, f"OUTBOUND_{name}_TIMEOUT", seconds)
    settings.OUTBOUND_TIMEOUT = 150.0
    found = from_settings().timeouts
    steps = (found.greeting, found.mail, found.rcpt, found.data_initiation, found.data_block, found.data_termination)
    assert steps == (0.5, 1, 1.5, 2, 2.5, 3)
    assert (found.tls, found.command, found.envelope, found.hops) == (3.5, 4, 4.5, 5)


def test_a_longer_silence_than_the_rfcs_lengthens_every_step(settings: Any) -> None:
    before = from_settings().timeouts
    settings.OUTBOUND_TIMEOUT = 600.0
    found = from_settings().timeouts
    kept = ("connect", "quit", "lowest_rate")
    for name in (field.name for field in fields(Timeouts)):
        assert getattr(found, name) == getattr(before, name) * (1 if name in kept else 2), name


@pytest.mark.parametrize(("minutes", "seconds"), [([5, 60, 1440], 6480), ([5], 2520), ([0, 0], 1800), ([1440], 21600)])
def test_a_host_that_hung_is_remembered_past_the_next_two_retries(minutes: list[int], seconds: float) -> None:
    """Each of them is stretched by a fifth at most, and the attempts take time too; a quarter of a day is the most."""
    assert silence_remembered([dt.timedelta(minutes=number) for number in minutes]) == seconds


def test_it_is_so_for_the_schedule_of_the_settings(settings: Any) -> None:
    assert from_settings().silent_seconds == SmtpOptions("x").silent_seconds
    settings.RETRY_SCHEDULE = [dt.timedelta(minutes=5)]
    assert from_settings().silent_seconds == 2520
