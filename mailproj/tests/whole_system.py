"""The whole system as a user starts it: `manage.py runall` in a process of its own, on free ports."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

import queue as standard_queue
from mailproj.ports import free_port
from mailproj.tests.starting import ROOT, environment

ADMIN = "admin"
ADMIN_PASSWORD = "tests-own-passphrase"
KEY = "sk_test_default_key_123"
START_SECONDS = 180


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    octets: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.octets)


@dataclass
class System:
    """One running tree. `lines` is what it printed so far."""

    data: Path
    variables: dict[str, str]
    http_port: int
    smtp_port: int
    process: subprocess.Popen[str] = field(init=False)
    lines: list[str] = field(default_factory=list)

    def start(self) -> None:
        self.lines = []
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "runall"],
            cwd=ROOT,
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        printed: standard_queue.Queue[str] = standard_queue.Queue()
        threading.Thread(target=self._read, args=(printed,), daemon=True).start()
        ends_at = time.monotonic() + START_SECONDS
        while time.monotonic() < ends_at:
            try:
                line = printed.get(timeout=1)
            except standard_queue.Empty:
                if self.process.poll() is not None:
                    break
                continue
            if "is running" in line:
                return
        raise AssertionError("the system did not start:\n" + "".join(self.lines))

    def _read(self, printed: standard_queue.Queue[str]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            printed.put(line)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it as a user would; return its exit status."""
        self.process.send_signal(number)
        return self.wait(60)

    def wait(self, seconds: float) -> int:
        """Wait for its end; return its exit status."""
        status = self.process.wait(timeout=seconds)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status

    def pid(self, name: str) -> int:
        return int((self.data / "run" / f"{name}.pid").read_text())

    def greets(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.smtp_port), timeout=5) as connection:
                return connection.recv(3) == b"220"
        except OSError:
            return False

    def is_healthy(self) -> bool:
        try:
            return self.request("GET", "/health").status == 200
        except OSError:
            return False

    def mailbox_password(self) -> str:
        return (self.data / "mailbox_password").read_text().strip()

    def request(
        self, method: str, path: str, body: object = None, *, auth: tuple[str, str] | None = None, key: str = ""
    ) -> Answer:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if auth:
            headers["Authorization"] = "Basic " + base64.b64encode(":".join(auth).encode()).decode()
        if key:
            headers["X-API-Key"] = key
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http_port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers=headers,
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return Answer(response.status, dict(response.headers), response.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, dict(error.headers), error.read())

    def as_admin(self, method: str, path: str, body: object = None) -> Answer:
        return self.request(method, path, body, auth=(ADMIN, ADMIN_PASSWORD))

    def inbox(self, username: str) -> list[dict[str, Any]]:
        answer = self.request("GET", "/emails", auth=(username, self.mailbox_password()))
        assert answer.status == 200, answer
        emails: list[dict[str, Any]] = answer.json["emails"]
        return emails


def database_settings() -> dict[str, str]:
    """The run's kind of database: SQLite in the data folder, or a new database on the tests' PostgreSQL."""
    server = os.environ.get("TEST_DATABASE_URL")
    if not server:
        return {}
    name = f"e2e_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return {"DATABASE_URL": server.replace("/postgres?", f"/{name}?")}


def plan(data: Path, **settings: str) -> System:
    """Describe a system on free ports; `settings` are environment variables on top of the usual ones."""
    http_port, smtp_port = free_port(), free_port()
    usual = {
        "HTTP_PORT": str(http_port),
        "HTTP_EXTRA_PORTS": "none",
        "SMTP_PORT": str(smtp_port),
        "SMTPS_PORT": str(free_port()),
        "ODMR_PORT": "0",
        "SMTP_METRICS_PORT": str(free_port()),
        "ADMIN_PASSWORD": ADMIN_PASSWORD,
    }
    variables = environment(data, **{**usual, **settings})
    return System(data, variables, http_port, smtp_port)


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        found = condition()
        if found:
            return found
        time.sleep(0.05)  # polling another process, bounded above
    raise AssertionError("it did not happen in time")


def is_alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        os.kill(pid, 0)
        state = re.search(r"^State:\s+(\w)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state is None or state[1] != "Z"
