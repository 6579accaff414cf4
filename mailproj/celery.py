"""The Celery application: a doorbell for the queue, never its memory (docs/adr/0002)."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.signals import setup_logging

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mailproj.settings")
os.environ.setdefault("CELERY_SKIP_CHECKS", "1")  # they would load the pages of the admin; `migrate` has made them

app = Celery("mailproj")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@setup_logging.connect  # type: ignore[untyped-decorator]
def _leave_logging_alone(**_: Any) -> None:
    """Django has set it up as LOG_LEVEL says; Celery would set a level of its own where nobody takes this signal."""
