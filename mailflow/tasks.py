"""Celery's doorbell for what is done on a schedule beside the queue."""

from __future__ import annotations

import threading

from celery import shared_task
from django.db import connection

from mailflow import erasure

_erasing = threading.Lock()


@shared_task(name="mailflow.erase")
def erase_deleted() -> None:
    """Go on in a thread: this one must hear rings and SIGTERM meanwhile. Beside one that runs no second begins."""
    threading.Thread(target=_erase, name="erase", daemon=True).start()


def _erase() -> None:
    if not _erasing.acquire(blocking=False):
        return
    try:
        erasure.erase_all()
    finally:
        connection.close()
        _erasing.release()
