"""What a transport is given and what it must answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from queue.outcome import Outcome


@dataclass(frozen=True, slots=True)
class NextHop:
    """One address to connect to; `host` is the name it came from (TLS server name, shown to people)."""

    host: str
    address: str
    port: int

    def __str__(self) -> str:
        return (
            f"{self.host}[{self.address}]:{self.port}" if self.host != self.address else f"{self.address}:{self.port}"
        )


@dataclass(frozen=True, slots=True)
class Route:
    """Where mail for a domain goes: hops in the order to try. `smarthost`: with our credentials."""

    hops: Sequence[NextHop]
    smarthost: bool = False

    @property
    def key(self) -> str:
        """Equal routes share sessions."""
        return ",".join(f"{hop.address}:{hop.port}" for hop in self.hops)


@dataclass(frozen=True, slots=True)
class Job:
    """One message for one or more recipients that share a route. `content` is the whole message, CRLF line ends.

    `is_smtputf8` and `body_type` are what was declared when it came (RFC 6531 §3.4, RFC 6152, RFC 3030).
    """

    message_id: str
    trace_id: str
    reverse_path: str
    recipients: Sequence[str]
    content: bytes
    body_type: str
    is_smtputf8: bool = False


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
