"""What stands for a connection's socket while its answer is made: the client takes what it will, the rest is kept.

The application is never kept waiting by a client that reads slowly, and head and body of an answer leave together.
"""

from __future__ import annotations

import socket
from tempfile import TemporaryFile
from typing import IO, Any

AT_ONCE = 32 << 10  # octets that wait for more before they are sent
KEPT_IN_MEMORY = 64 << 10  # of what the client does not take yet; more goes to a file
PIECE = 64 << 10
PIECES_A_TURN = 8


class Outgoing:
    """For one answer. All that is not about sending is the socket's."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._octets = bytearray()
        self._file: IO[bytes] | None = None
        self.kept = 0  # octets that the client has not taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def sendall(self, data: bytes) -> None:
        if self._file is not None:
            self._file.write(data)
            return
        self._octets += data
        if len(self._octets) >= AT_ONCE:
            self._send_what_is_taken()

    def send(self, data: bytes) -> int:
        """Send at once: something is expected before the answer (`100 Continue`)."""
        self.sendall(data)
        self._send_what_is_taken()
        return len(data)

    def sendfile(self, file: IO[bytes], offset: int = 0, count: int | None = None) -> int:
        file.seek(offset)
        sent = 0
        while count is None or sent < count:
            data = file.read(PIECE if count is None else min(PIECE, count - sent))
            if not data:
                break
            self.sendall(data)
            sent += len(data)
        return sent

    def finish(self) -> bool:
        """Send what is left; return whether the client has taken all. Raises `OSError` where the client is gone."""
        if self._file is None:
            self._send_what_is_taken()
        self.kept = len(self._octets)
        if self._file is not None:
            self.kept += self._file.tell()
            self._file.seek(0)
        return not self.kept

    def go_on(self) -> bool:
        """Send more of what was kept, as the client takes it; return whether that was all. Raises `OSError`."""
        for _ in range(PIECES_A_TURN):
            if not self._octets and self._file is not None:
                self._octets += self._file.read(PIECE)
            if not self._octets:
                self.close()
                return True
            if not self._send_piece():
                return False
        return False

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _send_what_is_taken(self) -> None:
        self._client.setblocking(False)
        while self._octets and self._send_piece():
            pass
        if len(self._octets) > KEPT_IN_MEMORY:
            self._file = TemporaryFile()  # noqa: SIM115  (`close`)
            self._file.write(self._octets)
            self._octets.clear()

    def _send_piece(self) -> bool:
        try:
            with memoryview(self._octets) as view:
                sent = self._client.send(view[:PIECE])
        except (BlockingIOError, InterruptedError):
            return False
        del self._octets[:sent]
        return True
