"""Celery's doorbell: tasks carry ids only and hand them to this process's engine."""

from __future__ import annotations

import threading
from typing import Any

from celery import shared_task
from celery.signals import worker_init, worker_process_init, worker_shutdown
from django.conf import settings
from django.db import connection

from accounts.dns.dnspython import DnsPythonResolver
from queue import courier, engine, prune, tls_reports
from queue.action_runner import ActionRunner

_pruning = threading.Lock()
_reporting = threading.Lock()
_runner: ActionRunner | None = None


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


@shared_task(name="queue.tls_reports")
def send_tls_reports() -> None:
    """Send reports in a thread, as above."""
    threading.Thread(target=_send_tls_reports, name="tls-reports", daemon=True).start()


def _send_tls_reports() -> None:
    if not _reporting.acquire(blocking=False):
        return
    try:
        tls_reports.run(DnsPythonResolver(settings.DNS_SERVERS))
    finally:
        connection.close()
        _reporting.release()


@worker_init.connect
def start_engine(sender: Any = None, **_: Any) -> None:
    """Start delivering before the broker answers; a pool that forks starts one engine in each child instead."""
    if getattr(sender, "pool_cls", None) is None or "prefork" not in str(sender.pool_cls):
        _start()


@worker_process_init.connect
def start_engine_in_child(**_: Any) -> None:
    _start()


@worker_shutdown.connect
def drain_engine(**_: Any) -> None:
    if _runner is not None:
        _runner.stop(0)
    courier.stop()
    engine.drain()
    if _runner is not None:
        _runner.stop()


def _start() -> None:
    global _runner
    engine.current().start()
    courier.start()
    _runner = ActionRunner()
    _runner.start()
