"""A real DNS server whose answers a test writes as in a zone file, over UDP and TCP on one port."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dnslib import QTYPE, RCODE, RR
from dnslib.server import BaseResolver, DNSLogger, DNSServer


class Zone(BaseResolver):  # type: ignore[misc]
    """Answers from `records`; SERVFAIL for the questions in `broken`; notes what it was asked."""

    def __init__(self) -> None:
        self.address = ("", 0)
        self.records: dict[tuple[str, str], list[str]] = {}
        self.broken: set[tuple[str, str]] = set()
        self.asked: list[tuple[str, str]] = []

    def resolve(self, request, handler):  # type: ignore[no-untyped-def]
        name, kind = str(request.q.qname).rstrip(".").lower(), QTYPE[request.q.qtype]
        self.asked.append((name, kind))
        reply = request.reply()
        if (name, kind) in self.broken:
            reply.header.rcode = RCODE.SERVFAIL
            return reply
        alias = self.records.get((name, "CNAME"), [])
        for target in alias:
            reply.add_answer(*RR.fromZone(f"{name}. 60 CNAME {target}"))
        owner = alias[0].rstrip(".") if alias else name
        for record in self.records.get((owner, kind), []):
            reply.add_answer(*RR.fromZone(f"{owner}. 60 {kind} {record}"))
        if not any(known == owner or known.endswith("." + owner) for known, _ in self.records):
            reply.header.rcode = RCODE.NXDOMAIN
        return reply


def _pair(zone: Zone, logger: DNSLogger) -> tuple[DNSServer, DNSServer]:
    """Listen on one port over both; a port that is free for UDP may be taken for TCP."""
    for _ in range(20):
        udp = DNSServer(zone, address="127.0.0.1", port=0, logger=logger)
        try:
            return udp, DNSServer(zone, address="127.0.0.1", port=udp.server.server_address[1], tcp=True, logger=logger)
        except OSError:
            udp.server.server_close()
    raise AssertionError("no port is free for both")


@contextmanager
def serving(zone: Zone) -> Iterator[Zone]:
    """Answer from the zone on a free port of loopback; `zone.address` says which."""
    quiet = DNSLogger("-request,-reply,-truncated,-error", prefix=False)
    udp, tcp = _pair(zone, quiet)
    address = udp.server.server_address[:2]
    udp.start_thread()
    tcp.start_thread()
    zone.address = address
    try:
        yield zone
    finally:
        for part in (udp, tcp):
            part.stop()
            part.server.server_close()
