"""What watchers hear, whatever is away meanwhile: changes, and requests to restart."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import TrailEntry
from mailflow import runtime
from mailflow.models import RestartRequest, RuntimeSetting
from mailflow.runtime import RuntimeConfig, Watcher
from mailflow.runtime_fields import FIELDS, InvalidConfig
from mailflow.tests.wire import until

pytestmark = pytest.mark.django_db(transaction=True)
ROOT = Path(__file__).resolve().parents[2]
POLL_SECONDS = runtime.POLL_SECONDS  # of the product; the tests hurry


@pytest.fixture(autouse=True)
def _hurried_and_forgetful(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(runtime, "POLL_SECONDS", 0.05)
    runtime._kept.forget()
    yield
    runtime._kept.forget()


class Heard:
    """What one watcher told."""

    def __init__(self, service: str = "smtp") -> None:
        self.configs: list[RuntimeConfig] = []
        self.restarts = 0
        self.fails = False
        self.watcher = Watcher(service)

    def change(self, config: RuntimeConfig) -> None:
        self.configs.append(config)
        if self.fails:
            raise RuntimeError("whoever was told cannot bear it")

    def restart(self) -> None:
        self.restarts += 1


@contextmanager
def watching(service: str = "smtp") -> Iterator[Heard]:
    heard = Heard(service)
    heard.watcher.start(heard.change, heard.restart)
    try:
        yield heard
    finally:
        heard.watcher.stop(10)


def put(**values: Any) -> None:
    runtime.change(runtime.checked(["smtp"], values), actor="test")


def looked_again(heard: Heard) -> None:
    """Wait until the watcher has looked after now: a change of IMAP's is told like any other."""
    told = len(heard.configs)
    others = {"max_workers": 1 + (told + runtime.current().max_workers) % 900}
    runtime.change(runtime.checked(["imap"], others), actor="test")
    until(lambda: len(heard.configs) > told)


# --- changes ---


def test_before_any_watcher_the_environments_values_hold(settings: Any) -> None:
    settings.SMTP_MAX_WORKERS, settings.SMTP_TIMEOUT, settings.OUTBOUND_TIMEOUT = 3, 7.5, 9.5
    put(max_workers=8)
    found = runtime.current()
    assert (found.max_workers, found.timeout, found.idle_timeout, found.outbound_timeout) == (3, 7.5, 7.5, 9.5)
    assert found.enabled


def test_a_watcher_knows_what_was_set_once_it_has_started() -> None:
    put(max_workers=8, enabled=False)
    with watching() as heard:
        assert (runtime.current().max_workers, runtime.current().enabled) == (8, False)
        assert [config.smtp.max_workers for config in heard.configs] == [8]
    assert runtime.current().enabled  # of a process that is ending


def test_where_nothing_was_set_nothing_is_told() -> None:
    with watching() as heard:
        looked_again(heard)
        assert [config.smtp for config in heard.configs] == [runtime.current()]


def test_two_watchers_see_a_change_and_a_return_without_redis() -> None:
    with watching() as one, watching("worker") as two:
        put(max_workers=8, timeout=60)
        until(lambda: bool(one.configs and two.configs))
        assert one.configs[-1] == two.configs[-1] and one.configs[-1].smtp == runtime.current()
        assert (runtime.current().max_workers, runtime.current().outbound_timeout) == (8, 60)
        put(max_workers=None, timeout=None)
        until(lambda: runtime.current().max_workers == 50 and runtime.current().outbound_timeout == 300)


def test_a_change_that_is_rolled_back_is_not_heard() -> None:
    with watching() as heard:
        with transaction.atomic():
            put(max_workers=8)
            transaction.set_rollback(True)
        looked_again(heard)
        assert runtime.current().max_workers == 50
    assert not RuntimeSetting.objects.filter(service="smtp").exists()


def test_a_row_that_does_not_fit_is_passed_over() -> None:
    rows: list[tuple[str, str, Any]] = [
        ("smtp", "max_workers", 10**9), ("smtp", "pool_size", "many"), ("smtp", "enabled", 0),
        ("smtp", "colour", 1), ("pop3", "timeout", 1), ("smtp", "timeout", [1]), ("smtp", "max_connections", 5),
    ]  # fmt: skip
    for service, name, value in rows:
        RuntimeSetting.objects.create(service=service, name=name, value=value, set_by="hand", set_at=timezone.now())
    with watching():
        found = runtime.current()
    assert (found.max_workers, found.pool_size, found.enabled, found.max_connections) == (50, 10, True, 5)


def test_a_watcher_outlives_a_database_in_trouble_and_a_callback_that_breaks() -> None:
    put(max_workers=8)
    with watching() as heard:
        with away("mailflow_runtimesetting"):
            until(lambda: heard.watcher._is_away)
            assert runtime.current().max_workers == 8
        heard.fails = True
        put(max_workers=9)
        runtime.request_restart("smtp", actor="test")
        until(lambda: runtime.current().max_workers == 9 and len(heard.configs) == 2 and heard.restarts == 1)
        heard.fails = False
        put(max_workers=10)
        until(lambda: len(heard.configs) == 3)


def test_a_watcher_starts_while_the_database_is_away() -> None:
    with away("mailflow_runtimesetting"):
        heard = Heard()
        heard.watcher.start(heard.change, heard.restart)
        assert runtime.current().max_workers == 50
    try:
        put(max_workers=8)
        until(lambda: runtime.current().max_workers == 8)
    finally:
        heard.watcher.stop(10)


@contextmanager
def away(table: str) -> Iterator[None]:
    _sql(f"ALTER TABLE {table} RENAME TO {table}_away")
    try:
        yield
    finally:
        _sql(f"ALTER TABLE {table}_away RENAME TO {table}")


def _sql(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


# --- without a watcher ---


def test_a_process_without_a_watcher_asks_once_in_a_while_and_at_once_after_its_own_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime, "POLL_SECONDS", 3600)
    with CaptureQueriesContext(connection) as queries:
        assert all(runtime.fresh().enabled for _ in range(100))
    assert len(queries) == 1
    put(enabled=False)
    assert not runtime.fresh().enabled


def test_many_threads_that_find_it_old_all_get_an_answer() -> None:
    put(enabled=False)
    found: list[bool] = []
    in_threads(8, lambda _: found.append(runtime.fresh().enabled))
    assert found == [False] * 8


def test_without_its_database_a_process_goes_on_with_what_it_knows() -> None:
    put(enabled=False)
    assert not runtime.fresh().enabled
    runtime._kept.forget()
    with away("mailflow_runtimesetting"):
        assert not runtime.fresh().enabled


# --- restarts ---


def test_a_request_restarts_who_runs_and_nobody_who_starts_after_it() -> None:
    runtime.request_restart("smtp", actor="test")  # before any of them started
    with watching() as one, watching("worker") as worker:
        looked_again(one)
        assert one.restarts == 0
        assert runtime.request_restart("smtp", actor="test") == 2
        until(lambda: one.restarts == 1)
        with watching() as two:
            looked_again(two)
            looked_again(one)
            looked_again(worker)
            assert (one.restarts, two.restarts, worker.restarts) == (1, 0, 0)
            runtime.request_restart("smtp", actor="test")
            until(lambda: two.restarts == 1)


def test_only_a_later_generation_counts_whatever_the_clock_says() -> None:
    for _ in range(3):
        runtime.request_restart("smtp", actor="test")
    with watching() as heard:
        RestartRequest.objects.update(requested_at="1970-01-01T00:00:00Z")  # a clock that was put back
        looked_again(heard)
        RestartRequest.objects.update(generation=1)  # a backup that was put back
        looked_again(heard)
        assert heard.restarts == 0
        runtime.request_restart("smtp", actor="test")
        until(lambda: heard.restarts == 1)
        RestartRequest.objects.all().delete()
        looked_again(heard)
        runtime.request_restart("smtp", actor="test")
        until(lambda: heard.restarts == 2)


# --- many at once ---


def in_threads(count: int, act: Callable[[int], object]) -> None:
    """Run it in so many threads at once, and hand on what went wrong."""
    errors: list[BaseException] = []
    together = threading.Barrier(count)

    def run(number: int) -> None:
        try:
            together.wait(60)
            act(number)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors


def test_each_of_many_requests_at_once_has_a_generation_of_its_own() -> None:
    generations: list[int] = []
    in_threads(6, lambda _: generations.append(runtime.request_restart("smtp", actor="test")))
    assert sorted(generations) == [1, 2, 3, 4, 5, 6]


def test_of_many_changes_at_once_one_holds_as_a_whole_and_all_are_in_the_trail() -> None:
    names = ["max_workers", "pool_size", "max_connections", "timeout"]

    def act(number: int) -> None:
        given = dict.fromkeys(names if number % 2 else reversed(names), number + 1)
        runtime.change(runtime.checked(["smtp", "imap"], given), actor=f"user {number}")

    in_threads(6, act)
    rows = set(RuntimeSetting.objects.values_list("value", "set_by"))
    assert len(rows) == 1 and RuntimeSetting.objects.count() == 8
    assert TrailEntry.objects.filter(kind="config.changed").count() == 6 * 8


# --- in processes of their own ---


def test_a_look_takes_place_twice_in_the_time_that_is_promised() -> None:
    assert 0 < POLL_SECONDS <= 1


def database_url() -> str:
    """The address of the tests' own database."""
    name = str(connection.settings_dict["NAME"])
    if connection.vendor == "sqlite":
        return f"sqlite:///{name}"
    return re.sub(r"/[^/?]+(\?|\Z)", rf"/{name}\1", os.environ["TEST_DATABASE_URL"], count=1)


@contextmanager
def process() -> Iterator[subprocess.Popen[str]]:
    variables = {**os.environ, "DATABASE_URL": database_url(), "SMTP_MAX_WORKERS": "5", "LOG_LEVEL": "error"}
    arguments = [sys.executable, "-m", "mailflow.tests.watching"]
    running = subprocess.Popen(
        arguments, cwd=ROOT, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def says(running: subprocess.Popen[str]) -> str:
    assert running.stdout is not None
    return str(running.stdout.readline()).strip()


def test_two_processes_see_a_change_and_a_restart_and_one_started_later_finds_the_change() -> None:
    with process() as one, process() as two:
        assert says(one) == says(two) == "watching 5 5"
        put(max_workers=8)
        assert says(one) == says(two) == "max_workers 8"
        runtime.request_restart("smtp", actor="test")
        assert says(one) == says(two) == "restart"
        with process() as three:
            assert (says(three), says(three)) == ("max_workers 8", "watching 8 5")
            put(max_workers=None)
            assert [says(each) for each in (one, two, three)] == ["max_workers 5"] * 3


# --- the fields ---


def test_ranges_and_defaults_are_those_of_the_settings() -> None:
    text = (ROOT / "mailproj" / "settings.py").read_text()
    lines = re.findall(r"^(\w+) = env\.(integer|seconds)\((.+), low=([\d_.]+), high=([\d_.]+)\)$", text, re.MULTILINE)
    found = {name: (kind, arguments, float(low), float(high)) for name, kind, arguments, low, high in lines}
    for field in FIELDS["smtp"]:
        if field.setting:
            kind, arguments, low, high = found[field.setting]
            assert (field.kind is int) == (kind == "integer") and (field.low, field.high) == (low, high)
            assert field.variable in arguments


@pytest.mark.parametrize(
    ("given", "wrong"), [({"timeout": 60, "x": 1}, {"x"}), ({"enabled": 1, "y": 2}, {"enabled", "y"})]
)
def test_wrong_values_are_refused_together(given: dict[str, object], wrong: set[str]) -> None:
    with pytest.raises(InvalidConfig) as refused:
        runtime.checked(["smtp", "imap"], given)
    assert refused.value.errors.keys() == wrong
