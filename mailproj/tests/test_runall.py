"""`manage.py runall` as a newcomer starts it, and what stands in its way."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from mailproj.embedded_redis import find_server, plan
from mailproj.ports import free_port
from mailproj.probes import redis_answers
from mailproj.tests.starting import PRODUCTION, ROOT, environment, run

PROCESSES = ["beat", "redis", "smtp", "web", "worker"]


def settings_on_free_ports(data: Path) -> dict[str, str]:
    names = ("HTTP_PORT", "SMTP_PORT", "SMTPS_PORT", "SMTP_METRICS_PORT")
    return environment(data, HTTP_EXTRA_PORTS="none", **{name: str(free_port()) for name in names})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def running(data: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "manage.py", "runall"],
        cwd=ROOT,
        env=settings_on_free_ports(data),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def read_until(process: subprocess.Popen[str], wanted: str) -> str:
    assert process.stdout is not None
    said: str = ""
    for line in process.stdout:
        said += line
        if wanted in line:
            return said
    pytest.fail(f"{wanted!r} was never said, only:\n{said}")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_the_whole_system_starts_heals_and_ends(running: subprocess.Popen[str], data: Path) -> None:
    welcome = read_until(running, "/api/v1/messages")
    assert "sk_test_default_key_123" in welcome
    assert (data / "admin_password").read_text().strip() in welcome
    assert stat.S_IMODE(data.stat().st_mode) == 0o700

    pids = {path.stem: int(path.read_text()) for path in (data / "run").glob("*.pid")}
    assert sorted(pids) == sorted([*PROCESSES, "runall"])
    assert all(is_alive(pid) for pid in pids.values())

    os.kill(pids["smtp"], signal.SIGKILL)
    assert f"smtp (process {pids['smtp']}) ended by SIGKILL" in read_until(running, "it is started again")

    running.send_signal(signal.SIGTERM)
    assert running.communicate(timeout=60)[0].splitlines()[-1] == "Everything has ended."
    assert running.returncode == 0
    assert not any(is_alive(pid) for pid in pids.values())
    assert list((data / "run").glob("*.url")) == []


@pytest.mark.slow
def test_in_production_every_line_of_the_log_is_json(data: Path) -> None:
    """Standard error is the processes', standard output the supervisor's and Celery's word of farewell."""
    variables = {
        **settings_on_free_ports(data),
        **PRODUCTION,
        "DATABASE_URL": f"sqlite:///{data}/mail.sqlite3",
        "HTTP_HOST": "127.0.0.1",
        "SMTP_HOST": "127.0.0.1",
        "PYTHONWARNINGS": "ignore",  # Celery's to whoever runs it as root
    }
    process = subprocess.Popen(
        [sys.executable, "manage.py", "runall"],
        cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        while "Ctrl-C" not in (line := process.stdout.readline()):
            assert line
    finally:
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    events = [json.loads(line) for line in log.splitlines()]
    assert "queue.engine_started" in [event["message"] for event in events]
    assert "Redis version" in (data / "redis" / "redis.log").read_text()


def test_a_taken_port_is_one_clear_line(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        ended = run(["manage.py", "runall"], {**settings_on_free_ports(data), "HTTP_PORT": str(port)})
    line = f"127.0.0.1:{port} is in use by another program; set HTTP_PORT to a free port."
    assert (ended.returncode, ended.stderr.strip()) == (1, line)


def test_all_ports_that_are_taken_are_named_at_once(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        http, metrics = (str(listener.getsockname()[1]) for listener in (one, other))
        taken = {"HTTP_PORT": http, "SMTP_METRICS_PORT": metrics}
        ended = run(["manage.py", "runall"], {**settings_on_free_ports(data), **taken})
    named = f"HTTP_PORT (127.0.0.1:{http}), SMTP_METRICS_PORT (127.0.0.1:{metrics})"
    line = f"These ports are in use by other programs; set each to a free one: {named}."
    assert (ended.returncode, ended.stderr.strip()) == (1, line)


def test_an_extra_port_that_is_left_out_is_said_in_the_terminal(data: Path) -> None:
    away = f"postgresql://u:p@127.0.0.1:{free_port()}/mail"  # so that it ends before it starts anything
    with socket.create_server(("127.0.0.1", 0)) as listener:
        extra = str(listener.getsockname()[1])
        variables = {**settings_on_free_ports(data), "HTTP_EXTRA_PORTS": extra, "DATABASE_URL": away}
        ended = run(["manage.py", "runall"], variables)
    assert f"HTTP_EXTRA_PORTS: 127.0.0.1:{extra} is in use by another program and is left out." in ended.stdout


def test_a_database_that_is_away_is_one_clear_line(data: Path) -> None:
    variables = {**settings_on_free_ports(data), "DATABASE_URL": f"postgresql://u:p@127.0.0.1:{free_port()}/mail"}
    ended = run(["manage.py", "runall"], variables)
    assert ended.returncode == 1
    assert ended.stderr.startswith("The database does not answer:")
    assert len(ended.stderr.strip().splitlines()) == 1


def test_stopping_what_does_not_run_is_no_error(data: Path) -> None:
    ended = run(["manage.py", "runall", "--stop"], settings_on_free_ports(data))
    assert (ended.returncode, ended.stdout.strip()) == (0, "Nothing was running.")


def test_seeding_is_refused_in_production(data: Path) -> None:
    variables = environment(
        data, MAIL_PROFILE="production", SECRET_KEY="s" * 40, ALLOWED_HOSTS="x", DATABASE_URL="sqlite:////dev/null"
    )
    ended = run(["manage.py", "seed"], variables)
    assert ended.returncode == 1
    assert "createapikey" in ended.stderr


def test_the_embedded_redis_wants_its_password_and_keeps_what_it_is_told(tmp_path: Path) -> None:
    binary = find_server()
    assert binary is not None
    planned = plan(binary, tmp_path / "redis")
    process = subprocess.Popen(planned.argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        assert process.stdin is not None
        process.stdin.write(planned.configuration)
        process.stdin.close()
        while not redis_answers(planned.url):
            assert process.poll() is None
        with redis.Redis.from_url(planned.url) as client:
            assert client.config_get("appendonly") == {"appendonly": "yes"}
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        with (
            redis.Redis.from_url(planned.url.replace("://:", "://:not")) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()
    finally:
        process.kill()
        process.wait()
