"""What the operator chose for the way out, and how long a peer may take (RFC 5321 §4.5.3.2)."""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, fields

from django.conf import settings

from accounts.networks import IPNetwork
from mailflow import runtime
from mailflow.runtime import SmtpConfig
from queue.schedule import JITTER
from queue.transports.line import Line, open_line
from queue.transports.tls import TlsPolicy, unverified_context, verified_context

Connect = Callable[[str, int, float], Awaitable[Line]]  # as `open_line`: address, port, seconds

ATTEMPT_SECONDS = 1800.0  # what attempts between the retries may take themselves
MAX_SILENT_SECONDS = 6 * 3600.0
DEFAULT_TIMEOUT_SECONDS = 300.0  # OUTBOUND_TIMEOUT's default: with it, the RFC's own figures hold


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
    hops: float = 300.0  # once this is over, no third host is tried
    quit: float = 2.0
    lowest_rate: float = 4096.0  # octets a second

    def scaled(self, silence_seconds: float, connect_seconds: float) -> Timeouts:
        """Shorten or lengthen every wait in the ratio of `silence_seconds` to the default."""
        factor = silence_seconds / DEFAULT_TIMEOUT_SECONDS
        kept = {"connect", "quit", "lowest_rate"}
        others = {f.name: getattr(self, f.name) * factor for f in fields(self) if f.name not in kept}
        return Timeouts(connect=connect_seconds, quit=self.quit, lowest_rate=self.lowest_rate, **others)


@dataclass(frozen=True, slots=True)
class SmtpOptions:
    """Everything that the SMTP transport may vary in. `default_tls`: for hops that say nothing of TLS themselves."""

    own_name: str
    default_tls: TlsPolicy = TlsPolicy.OPPORTUNISTIC
    allowed_networks: Sequence[IPNetwork] = ()
    timeouts: Timeouts = Timeouts()
    pool_size: int = 5  # idle sessions kept for one next hop
    pool_total: int = 200  # idle sessions kept for all of them
    idle_seconds: float = 20.0
    silent_seconds: float = 6480.0  # for so long a host that hung is tried after the others
    messages_per_session: int = 100
    connect: Connect = open_line
    unverified_tls: ssl.SSLContext = field(default_factory=unverified_context, repr=False)
    verified_tls: ssl.SSLContext = field(default_factory=verified_context, repr=False)


def from_settings() -> SmtpOptions:
    """Return what the settings say, and what was set over them while the system runs."""
    config = runtime.current()
    return SmtpOptions(
        own_name=settings.SMTP_HOSTNAME,
        allowed_networks=tuple(settings.OUTBOUND_ALLOWED_NETWORKS),
        timeouts=timeouts_of(config),
        pool_size=config.pool_size,
        silent_seconds=silence_remembered(settings.RETRY_SCHEDULE),
    )


def silence_remembered(schedule: Sequence[dt.timedelta]) -> float:
    """Return for how long a host that hung is tried last: past the next two retries of what it kept waiting.

    So these begin with the hosts that have not been asked yet. Not much longer, for while it lasts mail goes to hosts
    that its domain prefers less.
    """
    waits = sum(wait.total_seconds() for wait in (*schedule[:2], schedule[-1])[:2])
    return min(MAX_SILENT_SECONDS, waits * (1 + JITTER) + ATTEMPT_SECONDS)


def timeouts_of(config: SmtpConfig) -> Timeouts:
    """Return each step's own time, in the ratio of OUTBOUND_TIMEOUT to its default."""
    steps = Timeouts(
        greeting=settings.OUTBOUND_GREETING_TIMEOUT,
        command=settings.OUTBOUND_COMMAND_TIMEOUT,
        tls=settings.OUTBOUND_TLS_TIMEOUT,
        mail=settings.OUTBOUND_MAIL_TIMEOUT,
        rcpt=settings.OUTBOUND_RCPT_TIMEOUT,
        data_initiation=settings.OUTBOUND_DATA_TIMEOUT,
        data_block=settings.OUTBOUND_BLOCK_TIMEOUT,
        data_termination=settings.OUTBOUND_END_TIMEOUT,
        envelope=settings.OUTBOUND_ENVELOPE_TIMEOUT,
        hops=settings.OUTBOUND_SEARCH_TIMEOUT,
    )
    return steps.scaled(config.outbound_timeout, settings.OUTBOUND_CONNECT_TIMEOUT)
