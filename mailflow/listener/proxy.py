"""The PROXY protocol, versions 1 and 2: a load balancer tells whose connection it carries; read by aiosmtpd's parser.

Taken from SMTP_PROXY_NETWORKS alone, where it is demanded: whoever else could send it could choose its own address.
"""

from __future__ import annotations

import asyncio
import socket

from aiosmtpd.proxy_protocol import AF, V2_CMD, get_proxy

HEADER_SECONDS = 5.0
MAX_V1_OCTETS = 107
MAX_V2_OCTETS = 4096  # addresses, and what else a balancer may tell


class NoHeader(Exception):
    """What came is no header; the text says why."""


async def client_behind(loop: asyncio.AbstractEventLoop, peer_socket: socket.socket) -> str:
    """Read the header and not an octet more; return the client's address, "" where the balancer speaks for itself.

    Raises `NoHeader`.
    """
    try:
        async with asyncio.timeout(HEADER_SECONDS):
            found = await get_proxy(_SocketReader(loop, peer_socket))
    except TimeoutError:
        raise NoHeader("no PROXY header came in time") from None
    except (OSError, EOFError) as error:
        raise NoHeader(f"the connection ended before its PROXY header ({error})") from None
    if not found.valid:
        raise NoHeader(found.error or "malformed PROXY header")
    if found.command == V2_CMD.LOCAL and found.version == 2:
        return ""
    if found.family not in (AF.INET, AF.INET6) or found.src_addr is None:
        return ""
    return str(found.src_addr)


class _SocketReader:
    """What the parser reads from: a socket, octet for octet, for behind the header TLS may begin."""

    def __init__(self, loop: asyncio.AbstractEventLoop, peer_socket: socket.socket) -> None:
        self._loop = loop
        self._socket = peer_socket

    async def read(self, n: int = -1) -> bytes:
        if n > MAX_V2_OCTETS:
            raise EOFError(f"a header of {n} octets")
        data = await self._loop.sock_recv(self._socket, n)
        if not data:
            raise EOFError("end of file")
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
                raise EOFError("a line that is too long")
            line += await self.read(1)
        return line
