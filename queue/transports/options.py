"""What the operator chose for the way out, and how long a peer may take (RFC 5321 §4.5.3.2)."""

from __future__ import annotations

import enum
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from django.conf import settings

from mailflow import runtime
from mailflow.runtime import SmtpConfig
from queue.networks import IPNetwork

DEFAULT_TIMEOUT_SECONDS = 300.0  # OUTBOUND_TIMEOUT's default: with it, the RFC's own figures hold


class TlsPolicy(enum.StrEnum):
    """`opportunistic`: encrypted where the peer can, unverified, in clear where it cannot (RFC 7435)."""

    NEVER = "never"
    OPPORTUNISTIC = "opportunistic"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds, as the event loop takes them; each is the total for its step, however slowly octets come."""

    connect: float = 30.0
    greeting: float = 300.0
    command: float = 300.0  # EHLO, STARTTLS, AUTH, RSET
    tls: float = 60.0
    mail: float = 300.0
    rcpt: float = 300.0
    data_initiation: float = 120.0
    data_block: float = 180.0  # for the content, and in addition the time that it takes at the lowest rate
    data_termination: float = 600.0
    envelope: float = 900.0  # for all replies before the content together, however many recipients
    hops: float = 300.0  # once this is over, no further hop is tried
    quit: float = 2.0
    lowest_rate: float = 4096.0  # octets a second

    def scaled(self, command_seconds: float, connect_seconds: float) -> Timeouts:
        """Shorten every wait in the ratio of `command_seconds` to the default, never lengthen one."""
        factor = min(1.0, command_seconds / DEFAULT_TIMEOUT_SECONDS)
        kept = {"connect", "quit", "lowest_rate"}
        shorter = {f.name: getattr(self, f.name) * factor for f in fields(self) if f.name not in kept}
        return Timeouts(connect=connect_seconds, quit=self.quit, lowest_rate=self.lowest_rate, **shorter)


def unverified_context() -> ssl.SSLContext:
    """TLS against listeners only: who would stop at a wrong certificate would go on in clear instead."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@dataclass(frozen=True, slots=True)
class SmtpOptions:
    """Everything that the SMTP transport may vary in. The credentials are used for a smarthost alone."""

    own_name: str
    username: str = ""
    password: str = field(default="", repr=False)
    smarthost_tls: TlsPolicy = TlsPolicy.OPPORTUNISTIC
    direct_tls: TlsPolicy = TlsPolicy.OPPORTUNISTIC
    allowed_networks: Sequence[IPNetwork] = ()
    timeouts: Timeouts = Timeouts()
    pool_size: int = 5  # idle sessions kept for one next hop
    pool_total: int = 200  # idle sessions kept for all of them
    idle_seconds: float = 20.0
    messages_per_session: int = 100
    unverified_tls: ssl.SSLContext = field(default_factory=unverified_context, repr=False)
    verified_tls: ssl.SSLContext = field(default_factory=ssl.create_default_context, repr=False)


def from_settings() -> SmtpOptions:
    """Return what the settings say, and what was set over them while the system runs."""
    config = runtime.current()
    return SmtpOptions(
        own_name=settings.SMTP_HOSTNAME,
        username=settings.RELAY_USERNAME,
        password=settings.RELAY_PASSWORD,
        smarthost_tls=TlsPolicy(settings.RELAY_STARTTLS),
        allowed_networks=tuple(settings.OUTBOUND_ALLOWED_NETWORKS),
        timeouts=timeouts_of(config),
        pool_size=config.pool_size,
    )


def timeouts_of(config: SmtpConfig) -> Timeouts:
    return Timeouts().scaled(config.outbound_timeout, settings.OUTBOUND_CONNECT_TIMEOUT)
