"""The Celery application: a doorbell for the queue, never its memory (docs/adr/0002)."""

from __future__ import annotations

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mailproj.settings")
os.environ.setdefault("CELERY_SKIP_CHECKS", "1")  # they would load the pages of the admin; `migrate` has made them

app = Celery("mailproj")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
