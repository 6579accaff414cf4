"""The admin's pages are loaded where they are shown or checked, and nowhere else."""

from __future__ import annotations

from pathlib import Path

from mailproj.tests.starting import environment, run

PROBE = """
import sys, mailproj, django
django.setup()
def loaded(): return [app for app in ("accounts", "mailflow", "queue") if f"{app}.admin" in sys.modules]
import mailflow.management.commands.runsmtp, mailproj.celery, queue.tasks
print("listener and worker:", loaded())
from django.core import checks
checks.run_checks(tags=["admin"])
print("checks:", loaded())
"""
BROKEN = """
import mailproj, django
django.setup()
from django.contrib import admin
from django.core import checks
from queue.admin.workers import WorkerAdmin
WorkerAdmin.list_display = ("no_such_field",)
print([found.id for found in checks.run_checks(tags=["admin"])])
"""


def test_a_listener_and_a_worker_start_without_the_admin_and_the_checks_load_it(tmp_path: Path) -> None:
    variables = environment(tmp_path, DJANGO_SETTINGS_MODULE="mailproj.settings")
    ended = run(["-c", PROBE], variables)
    assert ended.stdout.splitlines() == ["listener and worker: []", "checks: ['accounts', 'mailflow', 'queue']"], ended


def test_a_page_that_is_wrong_is_found_by_the_checks(tmp_path: Path) -> None:
    variables = environment(tmp_path, DJANGO_SETTINGS_MODULE="mailproj.settings")
    ended = run(["-c", BROKEN], variables)
    assert "admin.E108" in ended.stdout, ended
