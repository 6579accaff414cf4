"""The web server before slow and rude clients: over real sockets, with gunicorn as it is and four threads."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from mailproj.ports import free_port
from mailproj.tests.large import LARGE, large
from mailproj.tests.whole_system import wait_until

THREADS = 4
HOST = b"Host: x\r\n"
GET = b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n"
RUN = """
import sys
import mailproj.web_worker as worker
{limits}
from gunicorn.app.wsgiapp import run
sys.argv = ["gunicorn", "--config", {config!r}, "mailproj.tests.echoing"]
run()
"""


@contextmanager
def serving(folder: Path, limits: str = "", connections: int = 1000) -> Iterator[int]:
    """Run the server on a port; `limits` are statements about `worker`, its module."""
    port, config = free_port(), folder / "web.conf.py"
    config.write_text(
        f"bind = '127.0.0.1:{port}'\nworker_class = 'mailproj.web_worker.PatientWorker'\nthreads = {THREADS}\n"
        f"worker_connections = {connections}\ngraceful_timeout = 2\nkeepalive = 60\ncontrol_socket_disable = True\n"
        "def post_worker_init(worker):\n    from mailproj import web_errors\n    web_errors.install()\n"
    )
    script = folder / "serve.py"
    script.write_text(RUN.format(limits=limits, config=str(config)))
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(settings.BASE_DIR),
        "DJANGO_SETTINGS_MODULE": "mailproj.settings",
        "MAIL_ENV_FILE": "/dev/null",
        "MAIL_DATA_DIR": str(folder),
    }
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, str(script)], cwd=settings.BASE_DIR, env=environment, stdout=log, stderr=log
        )
    try:
        wait_until(lambda: server.poll() is not None or _answers(port), 60)
        assert server.poll() is None, (folder / "log").read_text()
        yield port
    finally:
        server.terminate()
        assert server.wait(20) == 0, (folder / "log").read_text()
    assert "Traceback" not in (folder / "log").read_text()


def _answers(port: int) -> bool:
    try:
        return bool(ask(port))
    except OSError:
        return False


def ask(port: int, path: str = "/a", body: Any = None, **options: Any) -> dict[str, Any]:
    """Ask as any client does; it must be answered."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        client.request("POST" if body is not None else "GET", path, body, **options)
        answer = client.getresponse()
        found: dict[str, Any] = json.loads(answer.read())
        return found
    finally:
        client.close()


def connect(port: int, first: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), 30)
    client.sendall(first)
    return client


def answers(client: socket.socket, count: int) -> list[dict[str, Any]]:
    """Read whole answers that have a length."""
    file = client.makefile("rb")
    found = []
    for _ in range(count):
        length = 0
        while (line := file.readline()).strip():
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        found.append(json.loads(file.read(length)))
    return found


def everything(client: socket.socket) -> bytes:
    """Read until the server closes."""
    found = b""
    while data := client.recv(65536):
        found += data
    return found


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with serving(tmp_path_factory.mktemp("web")) as found:
        yield found


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"POST /slow HTTP/1.1\r\nHo",
        b"POST /slow HTTP/1.1\r\n" + HOST + b"Content-Length: 100\r\n\r\n{",
        b"POST /slow HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
        GET + b"POST /slow HTTP/1.1\r\nHo",
        b"GET /a HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n",
        b"GET /a HTTP/1.0\r\n\r\n",
        b"rubbish\r\n\r\n",
    ],
    ids=["nothing", "half a head", "half a body", "half a chunk", "behind a request", "stays", "stays 1.0", "rubbish"],
)
def test_forty_slow_clients_keep_nobody_waiting(port: int, beginning: bytes) -> None:
    with ExitStack() as stack:
        for _ in range(10 * THREADS):
            stack.enter_context(connect(port, beginning))
        for _ in range(5):
            assert ask(port, body=b"quick")["octets"] == 5


def test_clients_that_never_read_keep_nobody_waiting(port: int) -> None:
    with ExitStack() as stack:
        for _ in range(2 * THREADS):
            stack.enter_context(connect(port, b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n"))
        for _ in range(5):
            assert ask(port, body=b"quick")["octets"] == 5


@pytest.mark.parametrize("path", ["/large", "/file", "/pieces"])
def test_a_client_that_reads_late_has_all_of_it_and_asks_again(port: int, path: str) -> None:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    client.request("GET", path)
    assert ask(port)["path"] == "/a"  # meanwhile the answer fills what is between us, and a file
    digest, octets = hashlib.sha256(), 0
    answer = client.getresponse()
    while data := answer.read(1 << 20):
        digest.update(data)
        octets += len(data)
    assert (octets, digest.hexdigest()) == (LARGE, hashlib.sha256(large()).hexdigest())
    client.request("GET", "/again")
    assert json.loads(client.getresponse().read())["path"] == "/again"
    client.close()


def test_an_answer_that_nobody_takes_is_given_up(tmp_path: Path) -> None:
    limits = "worker.ANSWER_SECONDS = 0.1; worker.LEAST_RATE = 1 << 30"
    with serving(tmp_path, limits) as port, connect(port, b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n") as client:
        wait_until(lambda: _is_cut_off(client), 30)


def _is_cut_off(client: socket.socket) -> bool:
    """Whether the other end is gone: what is sent to it comes back as an error."""
    try:
        client.send(b"x")
    except OSError:
        return True
    return False


def test_one_connection_takes_request_after_request(port: int) -> None:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for number in range(20):
        client.request("POST", f"/{number}", b"x" * number)
        assert json.loads(client.getresponse().read())["octets"] == number
    client.close()


def test_requests_behind_each_other_are_answered_in_their_order(port: int) -> None:
    two = b"POST /1 HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc"
    three = b"POST /2 HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n"
    with connect(port, GET + two + three + GET[:10]) as client:
        client.sendall(GET[10:])
        found = answers(client, 4)
    assert [(one["path"], one["octets"]) for one in found] == [("/a", 0), ("/1", 3), ("/2", 2), ("/a", 0)]


@pytest.mark.parametrize("octets", [1, 65536, 65537, 3_000_000])
def test_a_body_comes_as_it_was_sent(port: int, octets: int) -> None:
    body = (bytes(range(251)) * (octets // 251 + 1))[:octets]
    assert ask(port, body=body) == {"path": "/a", "octets": octets, "digest": hashlib.sha256(body).hexdigest()}
    pieces = (body[start : start + 10_000] for start in range(0, octets, 10_000))
    found = ask(port, body=pieces, headers={"Transfer-Encoding": "chunked"}, encode_chunked=True)
    assert found["digest"] == hashlib.sha256(body).hexdigest()


def test_who_waits_for_a_word_before_the_body_gets_one(port: int) -> None:
    head = b"POST /a HTTP/1.1\r\n" + HOST + b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    with connect(port, head) as client:
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"abc")
        found = everything(client)
    assert found.startswith(b"HTTP/1.1 200") and b'"octets": 3' in found and b"Continue" not in found


def test_a_body_that_is_larger_than_any_that_is_taken_is_not_waited_for(port: int) -> None:
    head = b"POST /unread HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000000\r\n\r\n"
    with connect(port, head) as client:
        assert answers(client, 1)[0]["path"] == "/unread"
        assert everything(client) == b""


@pytest.mark.parametrize(
    ("beginning", "answer"),
    [
        (b"", b""),
        (b"POST /a HTTP/1.1\r\nHo", b"HTTP/1.1 408 "),
        (b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Length: 100\r\n\r\n{", b"HTTP/1.1 408 "),
        (b"POST /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", b""),
        (b"GET /a HTTP/1.1\r\nX: " + b"x" * 200_000, b"HTTP/1.1 431 "),
    ],
    ids=["nothing", "half a head", "half a body", "half a chunk", "endless"],
)
def test_what_does_not_come_in_time_is_told_so_and_ended(tmp_path: Path, beginning: bytes, answer: bytes) -> None:
    limits = "worker.HEAD_SECONDS = worker.BODY_SECONDS = 0.3; worker.LEAST_RATE = 1_000_000"
    with serving(tmp_path, limits) as port, connect(port, beginning) as client:
        found = everything(client)
    assert found.startswith(answer) and (found != b"") is (answer != b"")
    if answer:
        assert b"application/problem+json" in found


CHUNK = b"POST /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"


@pytest.mark.parametrize("beginning", [b"GET /a HT", CHUNK], ids=["half a head", "half a chunk"])
def test_where_all_places_are_taken_the_slowest_makes_room(tmp_path: Path, beginning: bytes) -> None:
    with serving(tmp_path, connections=10) as port, ExitStack() as stack:
        slow = [stack.enter_context(connect(port, beginning)) for _ in range(20)]
        assert ask(port)["path"] == "/a"
        place = 1 if beginning == CHUNK else 0  # the first has the thread
        assert slow[place].recv(1) == b""


def test_who_waits_for_too_long_behind_others_without_a_length_is_told_so(tmp_path: Path) -> None:
    with serving(tmp_path, "worker.QUEUE_SECONDS = 0.3") as port, connect(port, CHUNK), connect(port, CHUNK) as second:
        assert everything(second).startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize("octets", [70_000, 3_000_000])
def test_where_a_body_has_no_room_it_is_refused_and_others_are_served(tmp_path: Path, octets: int) -> None:
    full = "import mailproj.arrival as arrival; arrival.TemporaryFile = lambda: open('/dev/full', 'r+b', buffering=0)"
    with serving(tmp_path, full) as port:
        with connect(port, b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % octets + b"x") as client:
            assert everything(client).startswith(b"HTTP/1.1 503 ")
        assert ask(port, body=b"small")["octets"] == 5


def test_bodies_beyond_what_is_collected_are_read_by_a_thread_as_they_come(tmp_path: Path) -> None:
    begun = b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Length: 90000\r\n\r\nx"
    body = bytes(range(256)) * 400
    with serving(tmp_path, "worker.MAX_COLLECTED = 150_000") as port, connect(port, begun):
        for _ in range(3):
            assert ask(port, body=body)["digest"] == hashlib.sha256(body).hexdigest()
        with connect(port, begun):
            assert ask(port, body=b"small")["octets"] == 5
