"""The system under test, started as a user starts it: `manage.py runall`, with a data folder and ports of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import smtplib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

ROOT = Path(__file__).resolve().parent.parent
PROCESSES = ("worker", "smtp", "web", "redis", "beat")
LEASE_SECONDS = 5
_START_LIMIT = 90.0


WRITER = "writer"  # no process of the supervisor's: the listener starts it


class Stuck(Exception):
    """The system did not do in time what it must; the text says what."""


class System:
    """One data folder, and the process tree that works on it while it runs."""

    def __init__(self, folder: Path, *, database_url: str, http_port: int, smtp_port: int, relay_port: int) -> None:
        self.folder = folder
        self.http_port, self.smtp_port = http_port, smtp_port
        self._process: subprocess.Popen[bytes] | None = None
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self._environment = {
            **kept,
            **({"DATABASE_URL": database_url} if database_url else {}),
            "MAIL_ENV_FILE": os.devnull,
            "MAIL_DATA_DIR": str(folder),
            "HTTP_PORT": str(http_port),
            "HTTP_EXTRA_PORTS": "none",
            "SMTP_PORT": str(smtp_port),
            "SMTPS_PORT": "0",
            "ODMR_PORT": "0",
            "SMTP_METRICS_PORT": "0",
            "SMTP_TRUSTED_NETWORKS": "127.0.0.0/8",
            "DELIVERY_MODE": "live",
            "RELAY_HOST": "127.0.0.1",
            "RELAY_PORT": str(relay_port),
            "RELAY_TLS": "never",
            "RETRY_SCHEDULE": "1s,1s,2s",
            "QUEUE_MAX_ATTEMPTS": "20",
            "QUEUE_LEASE_SECONDS": str(LEASE_SECONDS),
            "SWEEP_INTERVAL_SECONDS": "1",
        }

    @property
    def log(self) -> Path:
        return self.folder / "runall.log"

    def start(self) -> None:
        """Start the tree and wait until both doors answer."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "manage.py", "runall"],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._wait_for(self._doors_answer, _START_LIMIT, "answer at its doors")

    def _doors_answer(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise Stuck(f"runall has ended; see {self.log}")
        with contextlib.suppress(OSError, smtplib.SMTPException, http.client.HTTPException):
            smtplib.SMTP("127.0.0.1", self.smtp_port, timeout=2).close()
            client = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=2)
            client.request("GET", "/health")
            answered = client.getresponse().status == 200
            client.close()
            return answered
        return False

    def stop(self) -> float:
        """End the tree by SIGTERM, as Ctrl-C does; return the seconds it took."""
        if self._process is None:
            return 0.0
        began = time.monotonic()
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise Stuck("the system did not end within 30 s of SIGTERM") from None
        self._process = None
        return time.monotonic() - began

    def kill_all(self) -> None:
        """Kill -9 the supervisor and every process that it started."""
        if self._process is None:
            return
        pids = [pid for name in PROCESSES if (pid := self._pid(name)) is not None]
        self._process.kill()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def kill(self, name: str) -> None:
        """Kill -9 one process and wait until another one runs in its place."""
        self._wait_for(lambda: self._pid(name) is not None, 30, f"run its {name}")
        before = self._pid(name)
        if before is None:
            return  # it ended by itself this very moment
        os.kill(before, signal.SIGKILL)
        self._wait_for(lambda: self._pid(name) not in (None, before), 30, f"start its {name} again")

    def _pid(self, name: str) -> int | None:
        """Return the process's id if it runs and is our supervisor's child: nobody else's process is ever killed."""
        assert self._process is not None
        if name == WRITER:
            return self._writer()
        try:
            pid = int((self.folder / "run" / f"{name}.pid").read_text())
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            return None
        state, parent = fields[0], int(fields[1])
        return pid if state != "Z" and parent == self._process.pid else None

    def _writer(self) -> int | None:
        """Return the process that commits for the listener: the listener's own child."""
        listener = self._pid("smtp")
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, IndexError, ValueError):
                fields = (path / "stat").read_text().rpartition(")")[2].split()
                if (
                    int(fields[1]) == listener
                    and fields[0] != "Z"
                    and b"spoolwriter" in (path / "cmdline").read_bytes()
                ):
                    return int(path.name)
        return None

    def flush_redis(self) -> bool:
        """Empty the Redis, queue of rings and all; False where none answers."""
        try:
            url = (self.folder / "run" / "redis.url").read_text().strip()
            with redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2) as client:
                return bool(client.flushall())
        except (OSError, redis.RedisError):
            return False

    def make_api_key(self, daily_limit: int) -> str:
        printed = self._run("manage.py", "createapikey", "--name", "chaos", "--limit", str(daily_limit))
        return printed.split()[-1]

    def open_entries(self) -> int:
        return int(self._run("-m", "chaos.books", "open"))

    def books(self) -> dict[str, Any]:
        """Return what the system itself has written down (`chaos.books`), read in a process with its settings."""
        found: dict[str, Any] = json.loads(self._run("-m", "chaos.books", "all"))
        return found

    def _run(self, *arguments: str) -> str:
        ended = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if ended.returncode:
            raise Stuck(f"{' '.join(arguments)} failed: {ended.stderr.strip()[-500:]}")
        return ended.stdout

    def _wait_for(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise Stuck(f"the system did not {what} within {seconds:.0f} s; see {self.log}")
            time.sleep(0.05)
