"""A real DNS server whose answers a test writes as in a zone file, over UDP and TCP on one port."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dnslib import QTYPE, RCODE, RR, DNSRecord
from dnslib.server import BaseResolver, DNSHandler, DNSLogger, DNSServer

MAX_UDP_OCTETS = 1232


class Zone(BaseResolver):  # type: ignore[misc]
    """Answers from `records`; SERVFAIL for the questions in `broken`; notes what it was asked.

    To who asks for it, it says that answers are validated (AD) whose names are all in `signed`. `garbled` questions get
    an answer that is none.
    """

    def __init__(self) -> None:
        self.address = ("", 0)
        self.records: dict[tuple[str, str], list[str]] = {}
        self.broken: set[tuple[str, str]] = set()
        self.garbled: dict[tuple[str, str], bytes] = {}
        self.asked_by_tcp = 0
        self.signed: set[str] = set()
        self.asked: list[tuple[str, str]] = []

    def resolve(self, request, handler):  # type: ignore[no-untyped-def]
        name, kind = str(request.q.qname).rstrip(".").lower(), QTYPE[request.q.qtype]
        self.asked.append((name, kind))
        self.asked_by_tcp += handler.protocol == "tcp"
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
        reply.header.ad = int(bool(request.header.ad) and {name, owner} <= self.signed)
        return reply


class _Handler(DNSHandler):  # type: ignore[misc]
    """Cuts what UDP cannot carry, as a real server does (RFC 1035 §4.2.1, RFC 6891 §6.2.5)."""

    def get_reply(self, data: bytes) -> bytes:
        reply: bytes = super().get_reply(data)
        request = DNSRecord.parse(data)
        place = (str(request.q.qname).rstrip(".").lower(), QTYPE[request.q.qtype])
        garbled: bytes | None = self.server.resolver.garbled.get(place)
        if garbled is not None:
            return data[:2] + garbled
        if self.protocol == "udp" and len(reply) > MAX_UDP_OCTETS:
            cut = request.reply()
            cut.header.tc = 1
            reply = bytes(cut.pack())
        return reply


def _pair(zone: Zone, logger: DNSLogger) -> tuple[DNSServer, DNSServer]:
    """Listen on one port over both; a port that is free for UDP may be taken for TCP."""
    for _ in range(20):
        udp = DNSServer(zone, address="127.0.0.1", port=0, logger=logger, handler=_Handler)
        try:
            return udp, DNSServer(
                zone, address="127.0.0.1", port=udp.server.server_address[1], tcp=True, logger=logger, handler=_Handler
            )
        except OSError:
            udp.server.server_close()
    raise AssertionError("no port is free for both")


@contextmanager
def serving(zone: Zone) -> Iterator[Zone]:
    """Answer from the zone on a free port of loopback; `zone.address` says which."""
    quiet = DNSLogger("-request,-reply,-truncated,-error", prefix=False)
    udp, tcp = _pair(zone, quiet)
    address = udp.server.server_address[:2]
    for part in (udp, tcp):  # as `start_thread` does, but ready to end at once
        threading.Thread(target=part.server.serve_forever, args=(0.02,), daemon=True).start()
    zone.address = address
    try:
        yield zone
    finally:
        for part in (udp, tcp):
            part.server.shutdown()
            part.server.server_close()
