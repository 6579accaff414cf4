"""Each curl line of the references gone wrong as any may: no credentials, another method, a body that is none."""

from __future__ import annotations

import http.client
import re
import shlex
import socket

import pytest

from mailproj.tests.curl_lines import Answered, curl
from mailproj.tests.references import test_r1, test_r2, test_r3, test_r4, test_r5
from mailproj.tests.references.example import Example
from mailproj.tests.references.world import ADMIN, World
from mailproj.tests.references.wrong import check_problem

pytestmark = pytest.mark.slow

CREDENTIALS = re.compile(r"-u \S+ |-H \"X-API-Key: [^\"]+\" ")
BODY = re.compile(r" -d '.*'", re.DOTALL)
METRICS = Example("GET /metrics", "curl http://localhost:8000/metrics", is_open=True)
EXAMPLES = {
    f"R{number} {example}": example
    for number, lines in enumerate(
        [test_r1.LINES, test_r2.LINES, test_r3.LINES, test_r4.LINES, [*test_r5.LINES, METRICS]], start=1
    )
    for example in lines
    if "testing" not in str(example)
}
CLOSED = [name for name, example in EXAMPLES.items() if not example.is_open]
WITH_BODY = [name for name in CLOSED if BODY.search(EXAMPLES[name].line)]
KNOWS_PUT = re.compile(r"/api/config|/api/users/john")


@pytest.mark.parametrize("name", CLOSED)
def test_without_credentials_it_is_a_401_that_says_which_to_add(world: World, name: str) -> None:
    answer = curl(CREDENTIALS.sub("", EXAMPLES[name].line), world.ports)
    body = check_problem(answer, 401)
    assert body["code"] == "NOT_AUTHENTICATED" and "X-API-Key" in body["detail"] and "Basic" in body["detail"]
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")


@pytest.mark.parametrize(
    "header", ["X-API-Key: sk_test_wrong", "Authorization: Basic ???", "Authorization: Basic eA=="]
)
def test_with_wrong_credentials_it_is_a_401(world: World, header: str) -> None:
    check_problem(curl(f'curl http://localhost:8000/messages -H "{header}"', world.ports), 401)


def test_a_key_in_the_url_opens_nothing(world: World) -> None:
    for name in ("api_key", "X-API-Key"):
        line = f"curl http://localhost:8000/messages?{name}=sk_test_default_key_123"
        check_problem(curl(line, world.ports), 401)


@pytest.mark.parametrize("name", EXAMPLES)
def test_another_method_is_a_405_that_says_which_there_are(world: World, name: str) -> None:
    words = shlex.split(EXAMPLES[name].line.replace("\\\n", " "))
    url = next(word for word in words if word.startswith("http://"))
    method = words[words.index("-X") + 1] if "-X" in words else "GET"
    other = "POST" if KNOWS_PUT.search(url) else "PUT"
    answer = curl(f'curl -X {other} "{url}"', world.ports, user=ADMIN)
    assert check_problem(answer, 405)["code"] == "METHOD_NOT_ALLOWED"
    known = answer.headers["Allow"].split(", ")
    assert method in known and other not in known


@pytest.mark.parametrize("body", ['{"subject": ', "[]", "null", "\\ud800"])
@pytest.mark.parametrize("name", WITH_BODY)
def test_a_body_that_is_no_json_object_is_refused(world: World, name: str, body: str) -> None:
    line = BODY.sub("", world.line_of(EXAMPLES[name])) + f" -d '{body}'"
    answer = curl(line, world.ports, user=ADMIN)
    check_problem(answer, 422 if "/send" in name else 400)


@pytest.mark.parametrize("name", WITH_BODY)
def test_a_body_of_another_type_is_a_415(world: World, name: str) -> None:
    line = world.line_of(EXAMPLES[name]).replace("application/json", "application/pdf")
    check_problem(curl(line, world.ports, user=ADMIN), 415)


@pytest.mark.parametrize("name", [name for name in WITH_BODY if "/send" not in name])
def test_a_body_that_is_too_large_is_a_413(world: World, name: str) -> None:
    words = shlex.split(EXAMPLES[name].line.replace("\\\n", " "))
    url = next(word for word in words if word.startswith("http://"))
    path = "/" + url.split("/", 3)[3]
    method = words[words.index("-X") + 1]
    answer = world.system.request(method, path, {"name": "x" * 262_144}, auth=("admin", "password"))
    assert check_problem(answer, 413)["code"] == "REQUEST_TOO_LARGE"


@pytest.mark.parametrize(
    ("request_octets", "status"),
    [
        (b"GET /messages?q=" + b"x" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
        (b"GET /messages HTTP/1.1\r\nHost: localhost\r\nX-API-Key: " + b"x" * 9000 + b"\r\n\r\n", 431),
        (b"GET /messages HTTP/1.1\r\nHost localhost\r\n\r\n", 400),
        (b"EHLO client.example.net\r\n\r\n", 400),
    ],
    ids=["a URL that is too long", "a header that is too long", "a header that is none", "another protocol"],
)
def test_what_is_no_request_is_refused_in_the_same_shape(world: World, request_octets: bytes, status: int) -> None:
    with socket.create_connection(("127.0.0.1", world.ports[8000]), timeout=30) as connection:
        connection.sendall(request_octets)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        body = check_problem(Answered(answer.status, dict(answer.headers), answer.read()), status)
    assert "4094" in body["detail"] if status == 414 else body["detail"]
