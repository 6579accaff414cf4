"""Postfix's own test client and test server: smtp-source sends, smtp-sink takes and counts."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.postfix import program
from bench.processes import Child, Children, run

_COUNT = re.compile(rb"mesg=(\d+)")
SENDER = "a@source.test"


@dataclass(frozen=True, slots=True)
class Load:
    """How mail is sent: `sessions` at once, over a connection a message or (`reuse`) a few kept ones."""

    sessions: int
    octets: int
    reuse: bool

    def __str__(self) -> str:
        return f"{self.octets >> 10} KiB, s{self.sessions}, {'reuse' if self.reuse else 'new'}"


def send(port: int, load: Load, recipient: str, messages: int) -> None:
    """Send; returns when all are accepted. Raises `BenchError` where one is not."""
    options = ["-s", str(load.sessions), "-l", str(load.octets), "-m", str(messages), *(["-d"] if load.reuse else [])]
    run([program("smtp-source"), *options, "-f", SENDER, "-t", recipient, f"127.0.0.1:{port}"])


class Sink:
    """An smtp-sink that counts the messages it took."""

    def __init__(self, children: Children, port: int) -> None:
        argv = [program("smtp-sink"), "-u", "nobody", "-c", f"127.0.0.1:{port}", "1000"]
        self.port = port
        self._child: Child = children.start("sink", argv, port=port)

    def count(self) -> int:
        with self._child.log.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - 200))
            found = _COUNT.findall(stream.read())
        return int(found[-1]) if found else 0
