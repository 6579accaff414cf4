"""`manage.py runall`: the whole system on one machine, as one process tree in the foreground."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import psycopg
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandParser
from django.db import OperationalError, connection

from accounts.command import PlainCommand
from mailflow.certificates import ensure_self_signed
from mailproj import demo, embedded_redis, probes, welcome
from mailproj.ports import is_free, web_addresses, written
from mailproj.processes import command
from mailproj.supervisor import Service, StartFailed, Supervisor, only_one, stop_running

# For processes to end by themselves, in seconds: SMTP has 6 for transactions under way and web 2 for requests, the
# worker's engine 4 for its deliveries. The doors have 2.7 before the worker is asked to end beside them.
STOP_SECONDS = {"web": 2.7, "smtp": 8.0, "worker": 5.0, "beat": 5.0, "redis": 1.0}
DOORS_ALONE_SECONDS = 2.7
LONGEST_DRAIN = 6.0  # whatever SMTP_DRAIN_SECONDS says
PORT_PATIENCE = 3.0  # seconds; what a killed run leaves behind ends by itself, and then its ports are free


class Command(PlainCommand):
    help = (
        "Start web, SMTP, worker, beat and (unless REDIS_URL is set) Redis, keep them alive, and end them on Ctrl-C or"
        " SIGTERM."
    )
    examples = "Example:\n  manage.py runall"
    requires_system_checks = ()  # `migrate` makes them; here they would only make the start slower

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--log-to",
            choices=["files", "stderr"],
            default="files" if settings.DEMO else "stderr",
            help="where the processes' output goes: MAIL_DATA_DIR/log/NAME.log, or on (default: %(default)s)",
        )
        parser.add_argument("--stop", action="store_true", help="end the runall that works on this MAIL_DATA_DIR")

    def handle(self, *_args: object, log_to: str, stop: bool, **_options: object) -> None:
        try:
            if stop:
                ended = stop_running(_lock_path())
                self._say("Stopped." if ended else "Nothing was running.")
                return
            with only_one(_lock_path()):
                self._run(settings.MAIL_DATA_DIR / "log" if log_to == "files" else None)
        except StartFailed as error:
            raise SystemExit(str(error)) from None
        except OperationalError as error:
            raise SystemExit(f"The database does not answer: {str(error).splitlines()[0]}") from None
        except KeyboardInterrupt:
            sys.exit(130)  # before anything was started

    def _run(self, log_dir: Path | None) -> None:
        self._say(f"Starting ({settings.MAIL_PROFILE} profile, data in {settings.MAIL_DATA_DIR}) …")
        _prepare_folders(log_dir)
        _refuse_taken_ports()
        web_addresses(settings.HTTP_HOST, settings.HTTP_PORT, settings.HTTP_EXTRA_PORTS, self._say)  # for its warnings
        _refuse_absent_database()
        logins = _prepare_data()
        stages, environment = _plan(log_dir)
        supervisor = Supervisor(
            stages,
            run_dir=settings.RUN_DIR,
            log_dir=log_dir,
            folder=settings.BASE_DIR,
            environment=environment,
            say=self._say,
        )
        try:
            supervisor.run(announce=lambda: self._say(welcome.text(logins, log_dir)))
        finally:
            (settings.RUN_DIR / "redis.url").unlink(missing_ok=True)
        self._say("Everything has ended.")

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


def _lock_path() -> Path:
    settings.RUN_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Path(settings.RUN_DIR / "runall.pid")


def _prepare_folders(log_dir: Path | None) -> None:
    settings.MAIL_DATA_DIR.chmod(0o700)  # passwords, keys and mail lie here
    shutil.rmtree(_metrics_dir(), ignore_errors=True)  # counters of processes that are gone
    for folder in (_metrics_dir(), settings.STATIC_ROOT, log_dir):
        if folder:
            folder.mkdir(parents=True, exist_ok=True)


def _metrics_dir() -> Path:
    return Path(settings.RUN_DIR / "metrics")


def _refuse_taken_ports() -> None:
    wanted = {
        "HTTP_PORT": (settings.HTTP_HOST, settings.HTTP_PORT),
        "SMTP_PORT": (settings.SMTP_HOST, settings.SMTP_PORT),
        "SMTPS_PORT": (settings.SMTP_HOST, settings.SMTPS_PORT if settings.SMTP_ENABLE_TLS else 0),
        "SUBMISSION_PORT": (settings.SMTP_HOST, settings.SUBMISSION_PORT),
        "ODMR_PORT": (settings.SMTP_HOST, settings.ODMR_PORT if settings.ODMR_PORT_IS_WISHED else 0),
        "SMTP_METRICS_PORT": ("127.0.0.1", settings.SMTP_METRICS_PORT),
    }
    deadline = time.monotonic() + PORT_PATIENCE
    while taken := {name: written(*at) for name, at in wanted.items() if at[1] and not is_free(*at)}:
        if time.monotonic() > deadline:
            raise StartFailed(_taken_words(taken))
        time.sleep(0.1)


def _taken_words(taken: Mapping[str, str]) -> str:
    """Name all of them at once: beside another instance every one is taken."""
    if len(taken) == 1:
        ((name, address),) = taken.items()
        return f"{address} is in use by another program; set {name} to a free port."
    named = ", ".join(f"{name} ({address})" for name, address in taken.items())
    return f"These ports are in use by other programs; set each to a free one: {named}."


def _refuse_absent_database() -> None:
    """Ask PostgreSQL once, directly: the pool would try for ten seconds, and log each trial."""
    if connection.vendor != "postgresql":
        return
    try:
        psycopg.connect(settings.DATABASE_URL, connect_timeout=5).close()
    except psycopg.OperationalError as error:
        raise StartFailed(f"The database does not answer: {str(error).splitlines()[0]}") from None


def _prepare_data() -> demo.Logins | None:
    """Bring the database up to date; in the demo, make its cast and its certificate."""
    call_command("migrate", verbosity=0, interactive=False)
    logins = None
    if settings.DEMO:
        logins = demo.prepare(settings.MAIL_DATA_DIR, settings.ADMIN_USERNAME, settings.ADMIN_PASSWORD)
        own = settings.MAIL_DATA_DIR / "tls"
        certificate, key = Path(settings.SMTP_TLS_CERT), Path(settings.SMTP_TLS_KEY)
        if settings.SMTP_ENABLE_TLS and certificate.parent == key.parent == own:
            ensure_self_signed(certificate, key, settings.SMTP_HOSTNAME, dt.datetime.now(dt.UTC))
    else:
        call_command("collectstatic", verbosity=0, interactive=False)
    connection.close()
    if hasattr(connection, "close_pool"):
        connection.close_pool()  # its threads; what forks must have none
    return logins


def _plan(log_dir: Path | None) -> tuple[list[list[Service]], dict[str, str]]:
    """Return the services by stages, and the environment that they share."""
    environment = dict(os.environ)
    environment["PROMETHEUS_MULTIPROC_DIR"] = str(_metrics_dir())
    environment["SMTP_DRAIN_SECONDS"] = f"{min(settings.SMTP_DRAIN_SECONDS, LONGEST_DRAIN):g}"
    stages = []
    redis_url = os.environ.get("REDIS_URL", "").strip()
    if not redis_url:
        redis, redis_url = _own_redis(None if log_dir else settings.MAIL_DATA_DIR / "redis" / "redis.log")
        environment["REDIS_URL"] = redis_url
        stages.append([redis])
    stages.append([_service("worker", lambda: probes.worker_answers(redis_url, 0.3)), _service("beat", lambda: True)])
    stages.append([_service("web", probes.web_answers), _service("smtp", probes.smtp_greets)])
    return stages, environment


def _service(name: str, answers: Callable[[], bool]) -> Service:
    alone = DOORS_ALONE_SECONDS if name in ("web", "smtp") else None
    stop_seconds = STOP_SECONDS[name]
    return Service(name, command(name, sys.executable), answers, stop_seconds=stop_seconds, alone_seconds=alone)


def _own_redis(log: Path | None) -> tuple[Service, str]:
    """Plan the embedded Redis; its address is noted for commands that are run beside us."""
    binary = embedded_redis.find_server()
    if binary is None:
        raise StartFailed("No redis-server was found: install one (apt install redis-server), or set REDIS_URL.")
    redis = embedded_redis.plan(binary, settings.MAIL_DATA_DIR / "redis", log=log)
    note = settings.RUN_DIR / "redis.url"
    note.touch(mode=0o600)
    note.write_text(redis.url)
    answers = partial(probes.redis_answers, redis.url)
    return Service("redis", redis.argv, answers, redis.configuration, STOP_SECONDS["redis"]), redis.url
