"""What a transport is given and what it must answer."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from queue.outcome import Outcome
from queue.transports.tls import TlsDemand


@dataclass(frozen=True, slots=True)
class NextHop:
    """One address to connect to; `host` is the name it came from (TLS server name, shown to people).

    `tls`: what TLS with it must be; None leaves it to the transport's options.
    """

    host: str
    address: str
    port: int
    tls: TlsDemand | None = None

    def __str__(self) -> str:
        return (
            f"{self.host}[{self.address}]:{self.port}" if self.host != self.address else f"{self.address}:{self.port}"
        )


@dataclass(frozen=True, slots=True)
class Relay:
    """That a hop is not the domain's own exchanger but a host that somebody of ours named, and our account there.

    `label` is what people know it as. Sessions of different accounts are never mixed up: the account is part of what
    they are kept under.
    """

    label: str
    username: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Route:
    """Where mail for a domain goes: hops in the order to try, and as what they are spoken to.

    `policy_domain`: whose TLS policy was asked for, and whose figures sessions count for (RFC 8460); empty for none.
    """

    hops: Sequence[NextHop]
    relay: Relay | None = None
    policy_domain: str = ""


@dataclass(frozen=True, slots=True)
class DsnRequest:
    """What the sender wants to hear of one recipient: NOTIFY and ORCPT, decoded; empty where absent (RFC 3461 §4)."""

    notify: str = ""
    original_recipient: str = ""


@dataclass(frozen=True, slots=True)
class Deadline:
    """The BY of the message as a time; `mode` R, N, RT or NT (RFC 2852 §4)."""

    at: dt.datetime
    mode: str


@dataclass(frozen=True, slots=True)
class Job:
    """One message for one or more recipients that share a route. `content` is the whole message, CRLF line ends.

    `attempts`: the number of the attempt for each recipient, in the sandbox alone; only simulated hosts are told.
    `is_smtputf8` and `body_type` are what was declared when it came (RFC 6531 §3.4, RFC 6152, RFC 3030); `dsn_return`,
    `envelope_id` (decoded) and, for each recipient that has any, `dsn_requests` what DSN was to do (RFC 3461 §4).
    `destination`: the domain of the recipients, whose connections are counted.
    `requires_tls`: it goes to hosts alone that proved who they are and promise the same (RFC 8689 §4.2.1).
    """

    message_id: str
    trace_id: str
    reverse_path: str
    recipients: Sequence[str]
    content: bytes
    body_type: str
    is_smtputf8: bool = False
    dsn_return: str = ""
    envelope_id: str = ""
    dsn_requests: Mapping[str, DsnRequest] = field(default_factory=dict)
    deadline: Deadline | None = None
    attempts: Mapping[str, int] = field(default_factory=dict)
    requires_tls: bool = False
    destination: str = ""


class Transport(Protocol):
    """Carries jobs to the next hop.

    `deliver` answers one outcome for every recipient of the job and raises nothing but CancelledError: what went wrong
    is an outcome. An answer lost after the content was sent is deferred (RFC 5321 §4.5.5 prefers the duplicate to the
    loss).
    """

    async def deliver(self, job: Job, route: Route) -> Mapping[str, Outcome]: ...

    async def close(self) -> None:
        """Say QUIT on idle sessions; called once, at shutdown."""
        ...
