from __future__ import annotations

from typing import Any

from queue.tests.outbound import (
    LOOPBACK,
    options,
)
from queue.transports.options import TlsPolicy, from_settings


def test_secrets_are_not_in_the_options_text() -> None:
    assert "secret" not in repr(options(password="secret"))


def test_the_options_come_from_the_settings(settings: Any) -> None:
    for name, value in {
        "SMTP_HOSTNAME": "mail.example.org",
        "RELAY_STARTTLS": "required",
        "RELAY_USERNAME": "us",
        "RELAY_PASSWORD": "secret",
        "OUTBOUND_TIMEOUT": 30.0,
        "OUTBOUND_CONNECT_TIMEOUT": 7.0,
        "OUTBOUND_ALLOWED_NETWORKS": list(LOOPBACK),
        "SMTP_POOL_SIZE": 3,
    }.items():
        setattr(settings, name, value)
    found = from_settings()
    assert (found.own_name, found.smarthost_tls, found.pool_size) == ("mail.example.org", TlsPolicy.REQUIRED, 3)
    assert (found.timeouts.greeting, found.timeouts.data_termination, found.timeouts.connect) == (30.0, 60.0, 7.0)
