"""gunicorn's worker with threads, in which a slow client holds a connection and no thread (docs/adr/0021).

gunicorn reads a request in a thread from its first octet on, and closes connections on the thread that serves all
others: sixteen clients that send half a request, or one that does not close, would stop everybody. Here a thread takes
what has come, and where that is not a whole request the poller collects the rest. What a client does not take of its
answer the poller sends, and it closes the connections too.
"""

from __future__ import annotations

import errno
import selectors
import socket
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import IO, Any

from django.conf import settings
from gunicorn import util
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker

from mailproj.arrival import Arrival
from mailproj.outgoing import Outgoing

HEAD_SECONDS = 10.0  # for a request's head
BODY_SECONDS = 20.0  # for its body, and more for a long one:
LEAST_RATE = 4096  # octets a second
ANSWER_SECONDS = 30.0  # for an answer, and more for a long one, by the same rate
LEAVING_SECONDS = 2.0
LEAVING_OCTETS = 64 << 10
RECEIVED_OCTETS = 64 << 10
OPEN_SHARE = 4  # one thread of so many at most reads a body whose end is not known beforehand

_NOTHING = (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_UNFINISHED = object()


class Connection(TConn):  # type: ignore[misc]
    """`since`: when it began what it does now. `rest`: octets behind the request. `drained`: those that nobody reads.

    `outgoing`: what the client has not taken of its answer; is_kept: another request may follow that. is_watched: the
    poller has it.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.arrival = Arrival(0)
        self.since = time.monotonic()
        self.rest = b""
        self.drained = 0
        self.outgoing: Outgoing | None = None
        self.is_kept = False
        self.is_watched = False

    def until(self) -> float:
        """Return until when what is waited for has to be here, or to be taken."""
        if self.outgoing is not None:
            return self.since + ANSWER_SECONDS + self.outgoing.kept / LEAST_RATE
        if not self.arrival.has_head:
            return self.since + HEAD_SECONDS
        return self.since + HEAD_SECONDS + BODY_SECONDS + self.arrival.missing / LEAST_RATE


class CollectedReader(SocketUnreader):  # type: ignore[misc]
    """Reads what was collected; from the socket only a body that is open, and no slower than `LEAST_RATE`."""

    def __init__(self, client: socket.socket) -> None:
        super().__init__(client)
        self._body: IO[bytes] | None = None
        self._is_open = False
        self._began = 0.0
        self._octets = 0

    def give(self, arrival: Arrival, behind: bytes) -> None:
        """Take over a request; `behind` are octets after the head of one that is open."""
        head, self._body = arrival.taken()
        self._is_open, self._began, self._octets = arrival.is_open, time.monotonic(), 0
        self.unread(head + behind)

    def chunk(self, size_hint: int | None = None) -> bytes:
        if self._body is not None:
            data = self._body.read(max(size_hint or 0, self.mxchunk))
            if data:
                return data
            self._body.close()
            self._body = None
        if not self._is_open:
            return b""
        left = self._began + BODY_SECONDS + self._octets / LEAST_RATE - time.monotonic()
        if left <= 0:
            raise TimeoutError("the body came too slowly")
        self.sock.settimeout(left)
        data = bytes(super().chunk(size_hint))
        self._octets += len(data)
        return data

    def close(self) -> None:
        if self._body is not None:
            self._body.close()


class PatientWorker(ThreadWorker):  # type: ignore[misc]
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._arriving: dict[Connection, None] = {}  # the first to have begun stands first
        self._taking: dict[Connection, None] = {}
        self._leaving: dict[Connection, None] = {}
        self._open: set[Connection] = set()  # whose bodies threads read
        self._open_waiting: deque[Connection] = deque()
        self._largest = max(
            settings.MAX_REQUEST_SIZE, settings.SEND_MAX_REQUEST_SIZE, 2 * settings.SUPPRESSION_IMPORT_SIZE
        )

    # --- in ---

    def accept(self, listener: socket.socket) -> None:
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno not in _NOTHING:
                raise
            return
        self.nr_conns += 1
        if self.nr_conns >= self.worker_connections and (slow := self._leaving or self._arriving or self._taking):
            self._drop(next(iter(slow)))  # the slowest makes room
        conn = Connection(self.cfg, client, address, listener.getsockname())
        conn.arrival = Arrival(self._largest)
        self._collect(conn)

    def _collect(self, conn: Connection) -> None:
        """Have the poller wait for more of a request."""
        self._arriving[conn] = None
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._hear, conn))
        conn.is_watched = True

    def _hear(self, conn: Connection, client: socket.socket) -> None:
        if not conn.arrival.has_begun:  # most often all of it is here, and a thread has it sooner
            self._forget(conn)
            self.enqueue_req(conn)
        elif (data := _received(client)) is not None:
            self._take(conn, data)

    def _take(self, conn: Connection, data: bytes) -> None:
        """Take in more of a request: `data` is empty where the client has ended."""
        if not data:
            self._drop(conn)
            return
        conn.rest = conn.arrival.feed(data)
        if conn.arrival.is_awaited:
            self._answer_expectation(conn)
        else:
            self._forget(conn)
            self._end_of_wait(conn)

    def _end_of_wait(self, conn: Connection) -> None:
        if conn.arrival.is_too_long:
            self._refuse(conn, 431, "The head of the request is too long.")
        else:
            self._dispatch(conn)

    @staticmethod
    def _answer_expectation(conn: Connection) -> None:
        if conn.arrival.wants_continue:
            conn.arrival.wants_continue = False
            with suppress(OSError):
                conn.sock.send(_CONTINUE)

    def _dispatch(self, conn: Connection) -> None:
        if not conn.arrival.is_open:
            self.enqueue_req(conn)
        elif len(self._open) < max(1, self.cfg.threads // OPEN_SHARE):
            self._open.add(conn)
            self.enqueue_req(conn)
        else:
            self._open_waiting.append(conn)

    # --- in a thread ---

    def handle(self, conn: Connection) -> Any:
        """Serve the request if all of it is here; where it is not, the poller waits for the rest."""
        if not conn.arrival.has_begun:
            data = _received(conn.sock)
            if data == b"":
                return False
            conn.rest = conn.arrival.feed(data or b"")
            if conn.arrival.has_begun:
                conn.since = time.monotonic()
            if not conn.arrival.is_whole:
                return _UNFINISHED
        conn.sock.setblocking(True)
        conn.data_ready = True
        conn.init()
        reader = conn.parser.unreader
        if not isinstance(reader, CollectedReader):
            reader = conn.parser.unreader = CollectedReader(conn.sock)
        behind = b""
        if conn.arrival.is_open:
            behind, conn.rest = conn.rest, b""
        reader.give(conn.arrival, behind)
        try:
            return super().handle(conn)
        finally:
            reader.close()

    def handle_request(self, req: Any, conn: Connection) -> Any:
        client = conn.sock
        conn.sock = outgoing = Outgoing(client)
        try:
            is_kept = super().handle_request(req, conn)
        except TimeoutError as error:
            self.log.info("A client was too slow: %s", error)
            is_kept = False
        except BaseException:
            outgoing.close()
            raise
        finally:
            conn.sock = client
        if not outgoing.finish():
            conn.outgoing = outgoing
        return is_kept

    # --- out ---

    def finish_request(self, conn: Connection, future: Future[Any]) -> None:
        if conn in self._open:
            self._open.remove(conn)
            if self._open_waiting:
                self._dispatch_waiting()
        result = False if future.cancelled() or future.exception() is not None else future.result()
        if result is _UNFINISHED:
            self._go_on(conn)
        elif conn.outgoing is not None:
            self._send_on(conn, bool(result))
        elif result:
            self._keep(conn)
        else:
            self._let_go(conn)

    def _send_on(self, conn: Connection, is_kept: bool) -> None:
        """Have the poller send what the client has not taken yet."""
        conn.is_kept, conn.since, conn.is_watched = is_kept, time.monotonic(), True
        conn.sock.setblocking(False)
        self._taking[conn] = None
        self.poller.register(conn.sock, selectors.EVENT_WRITE, partial(self._has_taken, conn))

    def _has_taken(self, conn: Connection, _client: socket.socket) -> None:
        try:
            if conn.outgoing is None or not conn.outgoing.go_on():
                return
        except OSError:
            self._drop(conn)
            return
        self._forget(conn)
        conn.outgoing = None
        (self._keep if conn.is_kept else self._let_go)(conn)

    def _go_on(self, conn: Connection) -> None:
        if conn.arrival.is_awaited:
            self._answer_expectation(conn)
            self._collect(conn)
        else:
            self._end_of_wait(conn)

    def _keep(self, conn: Connection) -> None:
        """Wait for the connection's next request, some of which may be here."""
        behind = conn.parser.unreader.take_buffered() + conn.rest
        conn.arrival, conn.since, conn.rest = Arrival(self._largest), time.monotonic(), b""
        conn.sock.setblocking(False)
        if behind:
            self._collect(conn)
            self._take(conn, behind)
            return
        conn.set_timeout()
        if not self.alive:
            conn.timeout = min(conn.timeout, time.monotonic() + STOP_KEEPALIVE_LINGER)
        self.keepalived_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_client_socket_readable, conn))

    def _dispatch_waiting(self) -> None:
        conn = self._open_waiting.popleft()
        self._open.add(conn)
        self.enqueue_req(conn)

    def _let_go(self, conn: Connection) -> None:
        """Close so that the end of the answer is not lost (RFC 9112 §9.6): what the client still sends is read away."""
        conn.since, conn.drained = time.monotonic(), 0
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            conn.sock.setblocking(False)
        except OSError:  # it is closed already
            self._close(conn)
            return
        conn.is_watched = True
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._drain, conn))
        self._leaving[conn] = None

    def _drain(self, conn: Connection, client: socket.socket) -> None:
        data = _received(client)
        if data is None:
            return
        conn.drained += len(data)
        if not data or conn.drained > LEAVING_OCTETS:
            self._drop(conn)

    def murder_pending(self) -> None:
        """Once a second: end what is too late, and at the end what has not begun."""
        now = time.monotonic()
        for conn in list(self._arriving):
            if not self.alive and not conn.arrival.has_begun:
                self._drop(conn)
            elif now > conn.until():
                if conn.arrival.has_begun:
                    self._refuse(conn, 408, "The request did not come in time.")
                else:
                    self._drop(conn)
        for conn in list(self._taking):
            if now > conn.until():
                self._drop(conn)
        for conn in list(self._leaving):
            if now > conn.since + LEAVING_SECONDS:
                self._drop(conn)

    def _refuse(self, conn: Connection, status: int, detail: str) -> None:
        self._forget(conn)
        with suppress(OSError):
            util.write_error(conn.sock, status, "", detail)
        conn.arrival.close()
        self._let_go(conn)

    def _drop(self, conn: Connection) -> None:
        self._forget(conn)
        conn.arrival.close()
        if conn.outgoing is not None:
            conn.outgoing.close()
        self._close(conn)

    def _forget(self, conn: Connection) -> None:
        self._arriving.pop(conn, None)
        self._taking.pop(conn, None)
        self._leaving.pop(conn, None)
        if conn.is_watched:
            conn.is_watched = False
            self.poller.unregister(conn.sock)

    def _close(self, conn: Connection) -> None:
        self.nr_conns -= 1
        conn.close()


def _received(client: socket.socket) -> bytes | None:
    """Return what is here: nothing at the end, None where the end is not here either."""
    try:
        return client.recv(RECEIVED_OCTETS)
    except (BlockingIOError, InterruptedError):
        return None
    except OSError:
        return b""
