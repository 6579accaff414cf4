"""Celery's doorbell for what accounts do on a schedule."""

from __future__ import annotations

import threading

from celery import shared_task
from django.db import connection

from accounts import domains

_verifying = threading.Lock()


@shared_task(name="accounts.verify_domains")
def verify_domains() -> None:
    """Check in a thread: this one must hear rings and SIGTERM meanwhile. Beside one that runs no second begins."""
    threading.Thread(target=_verify, name="verify-domains", daemon=True).start()


def _verify() -> None:
    if not _verifying.acquire(blocking=False):
        return
    try:
        domains.verify_due()
    finally:
        connection.close()
        _verifying.release()
