"""Runs a curl line as a reference prints it, over a real socket, so that it stands in a test as it stands there.

By curl itself where it is installed, else by what curl would send.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

SECONDS = 60
_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Answered:
    status: int
    headers: dict[str, str]
    octets: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.octets)


def curl(line: str, ports: Mapping[int, int], *, user: str = "", key: str = "") -> Answered:
    """Do what the line says, at the port of loopback that stands for the one that it names.

    `user` (name:password) and `key` are added where the line has no credentials.
    """
    words = shlex.split(line.replace("\\\n", " "))
    assert words.pop(0) == "curl"
    words = [_moved(word, ports) if word.startswith("http://") else word for word in words]
    if user and "-u" not in words:
        words += ["-u", user]
    if key:
        words += ["-H", f"X-API-Key: {key}"]
    return _by_curl(words) if _has_curl() else _by_hand(words)


def _moved(url: str, ports: Mapping[int, int]) -> str:
    parts = urlsplit(url)
    assert parts.port is not None, url
    return parts._replace(netloc=f"127.0.0.1:{ports[parts.port]}").geturl()


@cache
def _has_curl() -> bool:
    return shutil.which("curl") is not None


def _by_curl(words: Sequence[str]) -> Answered:
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--include", "--noproxy", "*", *words],
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    head, _, octets = done.stdout.partition(b"\r\n\r\n")
    first, *fields = head.decode("latin-1").split("\r\n")
    found = re.fullmatch(r"HTTP/1\.[01] (\d{3}) .*", first)
    assert found is not None, first
    return Answered(int(found[1]), dict(field.split(": ", 1) for field in fields), octets)


def _by_hand(words: Sequence[str]) -> Answered:
    left = list(words)
    method, url, body = "", "", None
    headers = {"Accept": "*/*"}
    while left:
        word = left.pop(0)
        if word == "-X":
            method = left.pop(0)
        elif word == "-u":
            headers["Authorization"] = "Basic " + base64.b64encode(left.pop(0).encode()).decode()
        elif word == "-H":
            name, _, value = left.pop(0).partition(":")
            headers[name] = value.strip()
        elif word == "-d":
            body = left.pop(0).encode()
        else:
            assert not word.startswith("-"), word
            url = word
    if body is not None:
        headers.setdefault("Content-Type", _FORM)
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection = http.client.HTTPConnection(parts.netloc, timeout=SECONDS)
    try:
        connection.request(method or ("GET" if body is None else "POST"), target, body, headers)
        answer = connection.getresponse()
        return Answered(answer.status, dict(answer.headers), answer.read())
    finally:
        connection.close()
