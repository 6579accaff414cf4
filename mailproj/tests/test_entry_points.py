"""The folder named `queue` and Python's module of that name live together in every process (docs/adr/0001)."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailproj.tests.starting import ROOT, environment, run

BOTH = "import queue, queue.models; assert queue.Queue().empty(); assert queue.models.Entry; print('both')"


def test_the_folder_has_no_init_file() -> None:
    assert not (ROOT / "queue" / "__init__.py").exists()


def test_both_work_under_manage_py(tmp_path: Path) -> None:
    ended = run(["manage.py", "shell", "--verbosity", "0", "-c", BOTH], environment(tmp_path))
    assert ended.stdout.strip() == "both", ended.stderr


def test_both_work_under_celery(tmp_path: Path) -> None:
    # `celery report` loads the application and its tasks as a worker does, and ends.
    ended = run(["-m", "celery", "-A", "mailproj", "report"], environment(tmp_path))
    assert ended.returncode == 0, ended.stderr
    ended = run(["-c", f"import celery.bin.celery, mailproj, django; django.setup(); {BOTH}"], _with_settings(tmp_path))
    assert ended.stdout.strip() == "both", ended.stderr


def test_both_work_under_gunicorn(tmp_path: Path) -> None:
    ended = run(["-m", "gunicorn", "--check-config", "mailproj.wsgi"], environment(tmp_path))
    assert ended.returncode == 0, ended.stderr
    ended = run(["-c", f"import gunicorn.app.wsgiapp, mailproj.wsgi; {BOTH}"], environment(tmp_path))
    assert ended.stdout.strip() == "both", ended.stderr


def test_both_work_under_pytest() -> None:
    import queue  # noqa: PLC0415  (the point of the test)

    models = pytest.importorskip("queue.models")
    assert queue.Queue().empty()
    assert models.Entry


def _with_settings(data: Path) -> dict[str, str]:
    return environment(data, DJANGO_SETTINGS_MODULE="mailproj.settings")
