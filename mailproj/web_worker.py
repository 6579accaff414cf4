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
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from enum import Enum, auto
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
QUEUE_SECONDS = 20.0  # for a thread that reads a body
ANSWER_SECONDS = 30.0  # for an answer, and more for a long one, by the same rate
MAX_COLLECTED = 256 << 20  # octets in the files of all bodies that are on their way
LEAVING_SECONDS = 2.0
LEAVING_OCTETS = 64 << 10
RECEIVED_OCTETS = 64 << 10
OPEN_SHARE = 4  # one thread of so many at most reads a body that was not collected

_NOTHING = (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_UNFINISHED = object()


class Stage(Enum):
    """What a connection that has no thread waits for; kept ones without a request are gunicorn's."""

    ARRIVING = auto()  # the rest of its request
    QUEUED = auto()  # one of the threads that read bodies
    TAKING = auto()  # that the client takes its answer
    LEAVING = auto()  # the client's end of it


class Connection(TConn):  # type: ignore[misc]
    """`since`: when its stage began. `rest`: octets behind the request. `drained`: those that nobody reads.

    `trouble`: why its request cannot be collected. `outgoing`: what the client has not taken of its answer; is_kept:
    another request may follow that.
    """

    def __init__(self, arrival: Arrival, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.arrival = arrival
        self.stage = Stage.ARRIVING
        self.since = time.monotonic()
        self.rest = b""
        self.trouble = ""
        self.drained = 0
        self.outgoing: Outgoing | None = None
        self.is_kept = False
        self.is_watched = False  # by the poller

    def until(self) -> float:
        """Return until when its stage may last."""
        match self.stage:
            case Stage.ARRIVING if not self.arrival.has_head:
                return self.since + HEAD_SECONDS
            case Stage.ARRIVING:
                return self.since + HEAD_SECONDS + BODY_SECONDS + self.arrival.missing / LEAST_RATE
            case Stage.QUEUED:
                return self.since + QUEUE_SECONDS
            case Stage.TAKING:
                return self.since + ANSWER_SECONDS + (self.outgoing.kept if self.outgoing else 0) / LEAST_RATE
            case Stage.LEAVING:
                return self.since + LEAVING_SECONDS


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
    """Its poller's thread calls all but `handle` and `handle_request`."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._held: dict[Connection, None] = {}  # those at a stage, the one that is there for the longest first
        self._readers: set[Connection] = set()  # whose bodies threads read
        self._largest = max(
            settings.MAX_REQUEST_SIZE, settings.SEND_MAX_REQUEST_SIZE, 2 * settings.SUPPRESSION_IMPORT_SIZE
        )

    def _room(self) -> int:
        """Return how long a body may be to be collected; whoever sends a longer one is refused, or read by a thread.

        Nobody has asked yet who sends it, so many together must not fill the disk.
        """
        return min(self._largest, MAX_COLLECTED - sum(conn.arrival.in_file for conn in list(self._held)))

    # --- stages ---

    def _hold(
        self,
        conn: Connection,
        stage: Stage,
        then: Callable[[Connection, socket.socket], None] | None = None,
        event: int = selectors.EVENT_READ,
    ) -> None:
        """Keep a connection at a stage; `then` is called when the client has sent, or can take, something."""
        if stage is not Stage.ARRIVING:  # that began with the request's first octet, or with the connection
            conn.since = time.monotonic()
        conn.stage = stage
        self._held[conn] = None
        if then is not None:
            conn.is_watched = True
            self.poller.register(conn.sock, event, partial(then, conn))

    def _release(self, conn: Connection) -> None:
        self._held.pop(conn, None)
        if conn.is_watched:
            conn.is_watched = False
            self.poller.unregister(conn.sock)

    def _drop(self, conn: Connection) -> None:
        self._release(conn)
        with suppress(OSError):
            conn.arrival.close()
        if conn.outgoing is not None:
            conn.outgoing.close()
        self._close(conn)

    def _close(self, conn: Connection) -> None:
        self.nr_conns -= 1
        conn.close()

    def _refuse(self, conn: Connection, status: int, detail: str) -> None:
        self._release(conn)
        with suppress(OSError):
            util.write_error(conn.sock, status, "", detail)
        with suppress(OSError):
            conn.arrival.close()
        self._let_go(conn)

    def murder_pending(self) -> None:
        """Once a second: end what is too late, and at the end what has not begun."""
        now = time.monotonic()
        for conn in list(self._held):
            if now > conn.until():
                self._end_late(conn)
            elif not self.alive and conn.stage is Stage.ARRIVING and not conn.arrival.has_begun:
                self._drop(conn)

    def _end_late(self, conn: Connection) -> None:
        if conn.stage is Stage.ARRIVING and conn.arrival.has_begun:
            self._refuse(conn, 408, "The request did not come in time.")
        elif conn.stage is Stage.QUEUED:
            self._refuse(conn, 503, "Too many bodies without a length are read just now. Try again later.")
        else:
            self._drop(conn)

    # --- in ---

    def accept(self, listener: socket.socket) -> None:
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno not in _NOTHING:
                raise
            return
        self.nr_conns += 1
        if self.nr_conns >= self.worker_connections and self._held:
            self._drop(next(iter(self._held)))  # the slowest makes room
        conn = Connection(Arrival(self._room), self.cfg, client, address, listener.getsockname())
        self._hold(conn, Stage.ARRIVING, self._hear)

    def on_client_socket_readable(self, conn: Connection, client: socket.socket) -> None:
        conn.since = time.monotonic()
        super().on_client_socket_readable(conn, client)

    def _hear(self, conn: Connection, client: socket.socket) -> None:
        if not conn.arrival.has_begun:  # most often all of it is here, and a thread has it sooner
            self._release(conn)
            self.enqueue_req(conn)
        elif (data := _received(client)) is not None:
            self._take(conn, data)

    def _take(self, conn: Connection, data: bytes) -> None:
        """Take in more of a request: `data` is empty where the client has ended."""
        if not data:
            self._drop(conn)
            return
        self._feed(conn, data)
        if conn.arrival.is_awaited and not conn.trouble:
            self._answer_expectation(conn)
        else:
            self._release(conn)
            self._dispatch(conn)

    def _feed(self, conn: Connection, data: bytes) -> None:
        try:
            conn.rest = conn.arrival.feed(data)
        except OSError as error:  # of the temporary file: the disk is full
            self.log.error("No room for the body of a request: %s", error)
            conn.trouble = "There is no room for the body just now. Try again later."

    @staticmethod
    def _answer_expectation(conn: Connection) -> None:
        if conn.arrival.wants_continue:
            conn.arrival.wants_continue = False
            with suppress(OSError):
                conn.sock.send(_CONTINUE)

    def _dispatch(self, conn: Connection) -> None:
        if conn.trouble:
            self._refuse(conn, 503, conn.trouble)
        elif conn.arrival.is_too_long:
            self._refuse(conn, 431, "The head of the request is too long.")
        elif not conn.arrival.is_open:
            self.enqueue_req(conn)
        elif len(self._readers) < max(1, self.cfg.threads // OPEN_SHARE):
            self._readers.add(conn)
            self.enqueue_req(conn)
        else:
            self._hold(conn, Stage.QUEUED)

    # --- in a thread ---

    def handle(self, conn: Connection) -> Any:
        """Serve the request if all of it is here; where it is not, the poller waits for the rest."""
        if not conn.arrival.has_begun:
            data = _received(conn.sock)
            if data == b"":
                return False
            self._feed(conn, data or b"")
            if not conn.arrival.is_whole or conn.trouble:
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
        if conn in self._readers:
            self._readers.remove(conn)
            self._call_next_reader()
        result = False if future.cancelled() or future.exception() is not None else future.result()
        if result is _UNFINISHED:
            self._go_on(conn)
            return
        conn.is_kept = bool(result)
        if conn.outgoing is not None:
            conn.sock.setblocking(False)
            self._hold(conn, Stage.TAKING, self._has_taken, selectors.EVENT_WRITE)
        else:
            self._answered(conn)

    def _call_next_reader(self) -> None:
        for conn in self._held:
            if conn.stage is Stage.QUEUED:
                self._release(conn)
                self._dispatch(conn)
                return

    def _go_on(self, conn: Connection) -> None:
        if conn.arrival.is_awaited and not conn.trouble:
            self._answer_expectation(conn)
            self._hold(conn, Stage.ARRIVING, self._hear)
        else:
            self._dispatch(conn)

    def _has_taken(self, conn: Connection, _client: socket.socket) -> None:
        """Send what the client takes of the rest of its answer."""
        try:
            if conn.outgoing is None or not conn.outgoing.go_on():
                return
        except OSError:
            self._drop(conn)
            return
        self._release(conn)
        conn.outgoing = None
        self._answered(conn)

    def _answered(self, conn: Connection) -> None:
        if conn.is_kept:
            self._keep(conn)
        else:
            self._let_go(conn)

    def _keep(self, conn: Connection) -> None:
        """Wait for the connection's next request, some of which may be here."""
        behind = conn.parser.unreader.take_buffered() + conn.rest
        conn.arrival, conn.since, conn.rest = Arrival(self._room), time.monotonic(), b""
        conn.sock.setblocking(False)
        if behind:
            self._hold(conn, Stage.ARRIVING, self._hear)
            self._take(conn, behind)
            return
        conn.set_timeout()
        if not self.alive:
            conn.timeout = min(conn.timeout, time.monotonic() + STOP_KEEPALIVE_LINGER)
        self.keepalived_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_client_socket_readable, conn))

    def _let_go(self, conn: Connection) -> None:
        """Close so that the end of the answer is not lost (RFC 9112 §9.6): what the client still sends is read away."""
        conn.drained = 0
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            conn.sock.setblocking(False)
        except OSError:  # it is closed already
            self._close(conn)
        else:
            self._hold(conn, Stage.LEAVING, self._drain)

    def _drain(self, conn: Connection, client: socket.socket) -> None:
        data = _received(client)
        if data is None:
            return
        conn.drained += len(data)
        if not data or conn.drained > LEAVING_OCTETS:
            self._drop(conn)


def _received(client: socket.socket) -> bytes | None:
    """Return what is here: nothing at the end, None where the end is not here either."""
    try:
        return client.recv(RECEIVED_OCTETS)
    except (BlockingIOError, InterruptedError):
        return None
    except OSError:
        return b""
