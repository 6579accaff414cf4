"""The Celery application: a doorbell for the queue, never its memory (docs/adr/0002)."""

from __future__ import annotations

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mailproj.settings")

app = Celery("mailproj")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
