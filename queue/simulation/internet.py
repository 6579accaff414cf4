"""The way into the simulated internet: lines to its hosts, and the transport that uses them.

The transport is the real one (`SmtpTransport`), down to TLS; only where it would open a connection, it gets one end of
a pair of sockets, and a task of this process talks at the other (`host`). No address is looked up, nothing listens.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import replace

from django.conf import settings

from queue.outcome import Outcome
from queue.simulation import personas
from queue.simulation.certificate import contexts
from queue.simulation.host import MAX_LINE_OCTETS, Conversation, Pause
from queue.simulation.personas import Host
from queue.transports.base import Job, NextHop, Route
from queue.transports.line import Line
from queue.transports.options import SmtpOptions, Timeouts
from queue.transports.smtp import SmtpTransport
from queue.transports.tls import REQUIRETLS

NETWORK = ipaddress.IPv4Network("192.0.2.0/24")  # for documentation (RFC 5737 §3): no host of the real internet
PORT = 25
PATIENCE = Timeouts().scaled(60.0, 10.0)
IMPATIENCE_SECONDS = 10.0
SESSIONS = 20  # with one host at once

HOPS = {host: NextHop(host.full_name, str(NETWORK[number]), PORT) for number, host in enumerate(Host, start=25)}
_HOSTS = {hop.address: host for host, hop in HOPS.items()}


def host_of(recipient: str) -> Host | None:
    """Return the host that takes an address's mail; None where it is captured."""
    persona = personas.find(recipient)
    return persona.host if persona else None


class SimulatedTransport:
    """Implements `queue.transports.base.Transport`; the recipients of a job share a host, the route is not looked at.

    Belongs to one event loop. `pause` is how the slow host lets time pass, `impatience` the seconds for which the
    silent one is waited for.
    """

    name = "simulation"

    def __init__(self, *, pause: Pause = asyncio.sleep, impatience: float = IMPATIENCE_SECONDS) -> None:
        self._pause = pause
        self._talks: set[asyncio.Task[None]] = set()
        self._patient = SmtpTransport(self._options(PATIENCE))
        self._impatient = SmtpTransport(self._options(Timeouts().scaled(impatience, impatience)))

    async def deliver(self, job: Job, route: Route) -> Mapping[str, Outcome]:
        host = host_of(job.recipients[0]) or Host.MX
        transport = self._impatient if host is Host.SILENT else self._patient
        hop = replace(HOPS[host], tls=REQUIRETLS) if job.requires_tls else HOPS[host]
        return await transport.deliver(job, Route([hop]))

    async def close(self) -> None:
        await self._patient.close()
        await self._impatient.close()
        for talk in self._talks:
            talk.cancel()

    def _options(self, timeouts: Timeouts) -> SmtpOptions:
        return SmtpOptions(
            own_name=settings.SMTP_HOSTNAME,
            allowed_networks=(NETWORK,),
            timeouts=timeouts,
            pool_size=SESSIONS,
            connect=self._connect,
            verified_tls=contexts().client,
        )

    async def _connect(self, address: str, _port: int, _seconds: float) -> Line:
        """Return a line to the host of that address, as `open_line` would."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        try:
            reader = asyncio.StreamReader(MAX_LINE_OCTETS, loop)

            def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                talk = loop.create_task(Conversation(_HOSTS[address], reader, writer, self._pause).hold())
                self._talks.add(talk)
                talk.add_done_callback(self._talks.discard)

            await loop.connect_accepted_socket(lambda: asyncio.StreamReaderProtocol(reader, converse, loop), theirs)
            _, line = await loop.create_unix_connection(Line, sock=ours)
        except BaseException:
            ours.close()
            theirs.close()
            raise
        return line
