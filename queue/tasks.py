"""Celery's doorbell: tasks carry ids only and hand them to this process's engine."""

from __future__ import annotations

import threading
from typing import Any

from celery import shared_task
from celery.signals import worker_init, worker_process_init, worker_shutdown
from django.db import connection

from queue import engine, prune

_pruning = threading.Lock()


@shared_task(name="queue.deliver")
def deliver(entry_ids: list[int]) -> None:
    engine.current().ring(entry_ids)


@shared_task(name="queue.sweep")
def sweep() -> None:
    engine.current().sweep()


@shared_task(name="queue.prune")
def prune_old() -> None:
    """Prune in a thread: this one must hear rings and SIGTERM meanwhile. Beside one that runs no second begins."""
    threading.Thread(target=_prune, name="prune", daemon=True).start()


def _prune() -> None:
    if not _pruning.acquire(blocking=False):
        return
    try:
        prune.run()
    finally:
        connection.close()
        _pruning.release()


@worker_init.connect
def start_engine(sender: Any = None, **_: Any) -> None:
    """Start delivering before the broker answers; a pool that forks starts one engine in each child instead."""
    if getattr(sender, "pool_cls", None) is None or "prefork" not in str(sender.pool_cls):
        engine.current().start()


@worker_process_init.connect
def start_engine_in_child(**_: Any) -> None:
    engine.current().start()


@worker_shutdown.connect
def drain_engine(**_: Any) -> None:
    engine.drain()
