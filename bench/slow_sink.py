"""Sixteen slow destinations in one process, each with an address of its own, and the DNS that names them.

Run by `bench.workers`. Every answer takes so many milliseconds. JSON lines on standard output tell how many messages
came, how many of them twice, and the most connections that one destination had at once.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import Counter
from typing import cast

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset

DESTINATIONS = 16
FIRST_ADDRESS = 20
_NUMBER = re.compile(rb"^Subject: number (\d+)", re.MULTILINE)


def address(number: int) -> str:
    return f"127.0.0.{FIRST_ADDRESS + number}"


def domain(number: int) -> str:
    """Half of them are domains with an MX of their own, half are address literals."""
    return f"d{number}.bench.test" if number % 2 else f"[{address(number)}]"


class Sink:
    def __init__(self, seconds: float, deferred: int) -> None:
        self._seconds, self._deferred = seconds, deferred
        self._messages: Counter[int] = Counter()
        self._open: Counter[int] = Counter()
        self._most = 0
        self._refused: set[int] = set()
        self._first_at = self._last_at = 0.0

    async def serve(self, port: int, dns_port: int) -> None:
        for number in range(DESTINATIONS):
            await asyncio.start_server(self._conversation(number), address(number), port)
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(Names, local_addr=("127.0.0.1", dns_port))
        while True:
            print(json.dumps(self.figures()), flush=True)
            await asyncio.sleep(0.2)

    def figures(self) -> dict[str, float]:
        return {
            "messages": len(self._messages),
            "twice": sum(count - 1 for count in self._messages.values()),
            "most": self._most,
            "refused": len(self._refused),
            "seconds": self._last_at - self._first_at,
        }

    def _conversation(self, number: int):  # type: ignore[no-untyped-def]
        async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._open[number] += 1
            self._most = max(self._most, self._open[number])
            try:
                await self._talk(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                self._open[number] -= 1
                writer.close()

        return hold

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._say(writer, b"220 sink.bench.test ESMTP")
        while True:
            verb = (await reader.readuntil(b"\r\n"))[:4].upper().strip()
            if verb == b"EHLO":
                await self._say(writer, b"250-sink.bench.test\r\n250 PIPELINING")
            elif verb == b"DATA":
                await self._say(writer, b"354 go ahead")
                content = await reader.readuntil(b"\r\n.\r\n")
                await self._say(writer, self._take(content))
            elif verb == b"QUIT":
                await self._say(writer, b"221 bye")
                return
            else:
                await self._say(writer, b"250 ok")

    def _take(self, content: bytes) -> bytes:
        found = _NUMBER.search(content)
        number = int(found[1]) if found else -1
        now = time.monotonic()
        self._first_at = self._first_at or now
        if self._deferred and number % self._deferred == 0 and number not in self._refused:
            self._refused.add(number)
            return b"450 4.2.1 this mailbox is busy, come again"
        self._messages[number] += 1
        self._last_at = now
        return b"250 2.0.0 taken"

    async def _say(self, writer: asyncio.StreamWriter, text: bytes) -> None:
        await asyncio.sleep(self._seconds)
        writer.write(text + b"\r\n")
        await writer.drain()


class Names(asyncio.DatagramProtocol):
    """Answers MX and A for the domains, and that there is nothing for whatever else is asked."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, peer: tuple[str | int, ...]) -> None:
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        question = query.question[0]
        name = question.name.to_text()
        found = re.fullmatch(r"(?:mx\.)?d(\d+)\.bench\.test\.", name)
        if found and question.rdtype == dns.rdatatype.MX and not name.startswith("mx."):
            answer.answer.append(dns.rrset.from_text(question.name, 300, "IN", "MX", f"10 mx.{name}"))
        elif found and question.rdtype == dns.rdatatype.A:
            answer.answer.append(dns.rrset.from_text(question.name, 300, "IN", "A", address(int(found[1]))))
        self._transport.sendto(answer.to_wire(), peer)


if __name__ == "__main__":
    port, dns_port, milliseconds, deferred = map(int, sys.argv[1:])
    asyncio.run(Sink(milliseconds / 1000, deferred).serve(port, dns_port))
