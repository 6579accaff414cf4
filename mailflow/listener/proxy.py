"""The PROXY protocol, versions 1 and 2: a load balancer tells whose connection it carries; read by aiosmtpd's parser.

Taken from SMTP_PROXY_NETWORKS alone, where it is demanded: whoever else could send it could choose its own address.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from dataclasses import dataclass

from aiosmtpd.proxy_protocol import AF, V2_CMD, ProxyData, get_proxy

HEADER_SECONDS = 5.0
MAX_V1_OCTETS = 107
MAX_V2_OCTETS = 4096  # addresses, and what else a balancer may tell


class NoHeader(Exception):
    """What came is no header; the text says why."""


@dataclass(frozen=True, slots=True)
class Client:
    """Who is behind the balancer: `address` is empty where it does not say, or where `is_balancer` speaks itself."""

    address: str = ""
    is_balancer: bool = False


async def client_behind(loop: asyncio.AbstractEventLoop, peer_socket: socket.socket) -> Client:
    """Read the header and not an octet more; raises `NoHeader`."""
    reader = _SocketReader(loop, peer_socket)
    try:
        async with asyncio.timeout(HEADER_SECONDS):
            found = await get_proxy(reader)
    except TimeoutError:
        raise NoHeader("no PROXY header came in time") from None
    except EOFError as error:
        raise NoHeader(str(error)) from None
    # Of LOCAL nothing else counts, as long as the header is there to its end.
    if found.version == 2 and found.command == V2_CMD.LOCAL and found.whole_raw:
        return Client(is_balancer=True)
    if not found.valid:
        raise NoHeader(reader.trouble or _fault(found))
    if found.family not in (AF.INET, AF.INET6) or found.src_addr is None:
        return Client()
    address = found.src_addr
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return Client(str(address))


def _fault(found: ProxyData) -> str:
    """Return what is wrong with a header; what the parser stumbled over itself says nothing to anybody."""
    error = str(found.error)
    return "malformed PROXY header" if not error or error.startswith("PROXY exception") else error


class _SocketReader:
    """What the parser reads from: a socket, octet for octet, for behind the header TLS may begin.

    `trouble` says what ended the reading.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, peer_socket: socket.socket) -> None:
        self._loop = loop
        self._socket = peer_socket
        self.trouble = ""

    async def read(self, n: int = -1) -> bytes:
        if n > MAX_V2_OCTETS:
            raise self._end(f"a PROXY header of {n} octets, at most {MAX_V2_OCTETS} are read")
        try:
            data = await self._loop.sock_recv(self._socket, n)
        except OSError as error:
            raise self._end(f"the connection ended within its PROXY header ({error})") from None
        if not data:
            raise self._end("the connection ended within its PROXY header")
        return data

    async def readexactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            data += await self.read(n - len(data))
        return data

    async def readuntil(self, separator: bytes = b"\n") -> bytes:
        line = b""
        while not line.endswith(separator):
            if len(line) > MAX_V1_OCTETS:
                raise self._end("a PROXY line that is too long")
            line += await self.read(1)
        return line

    def _end(self, trouble: str) -> EOFError:
        self.trouble = trouble
        return EOFError(trouble)
