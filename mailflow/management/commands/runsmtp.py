"""`manage.py runsmtp`: the SMTP listener in the foreground."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress

import structlog
import uvloop
from django.conf import settings
from django.core.management.base import CommandError
from django.db import DatabaseError, connection
from django.utils.module_loading import import_string
from prometheus_client import REGISTRY, start_http_server
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from accounts.command import PlainCommand
from mailflow import counters, runtime
from mailflow.listener.certificate import CertificateError, CertificateSource
from mailflow.listener.server import Listener, ListenError
from mailflow.spool import group
from mailflow.spool.client import WriterClient

log = structlog.get_logger(__name__)

CERTIFICATE_SECONDS = 1.0


class Command(PlainCommand):
    help = "Listen for mail by SMTP on SMTP_PORT, and with a certificate on SMTPS_PORT, until SIGTERM or Ctrl-C."
    examples = "Example:\n  SMTP_PORT=2525 SMTP_HOSTNAME=mail.example.com manage.py runsmtp"

    requires_system_checks = ()  # they would load the pages of the admin; `migrate` has made them

    def handle(self, *_args: object, **_options: object) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        except (ListenError, CertificateError) as error:
            raise CommandError(str(error)) from None

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        certificate = (
            CertificateSource(settings.SMTP_TLS_CERT, settings.SMTP_TLS_KEY) if settings.SMTP_ENABLE_TLS else None
        )
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        spool = WriterClient(loop) if settings.SPOOL_PROCESS else None
        if spool is not None:
            spool.start()
            group.use(spool)
        listener = Listener(loop, certificate=certificate)
        watcher = runtime.Watcher("smtp")
        await asyncio.to_thread(
            watcher.start,
            lambda config: _from_thread(loop, listener.configure, config.smtp),
            lambda: _from_thread(loop, stopped.set),
        )
        ports = await listener.start()
        counters.start()
        _serve_metrics()
        renewal = loop.create_task(_renew(loop, certificate)) if certificate is not None else None
        self.stdout.write(f"SMTP is listening on {settings.SMTP_HOST}, ports {', '.join(map(str, ports))}.")
        await stopped.wait()
        if renewal is not None:
            renewal.cancel()
        await listener.stop()
        if spool is not None:
            await spool.stop()
        await asyncio.to_thread(watcher.stop)


def _from_thread(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(function, *arguments)


async def _renew(loop: asyncio.AbstractEventLoop, certificate: CertificateSource) -> None:
    """Look for a new certificate once a second, and at SIGHUP."""
    wanted = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, wanted.set)
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(CERTIFICATE_SECONDS):
                await wanted.wait()
        wanted.clear()
        await asyncio.to_thread(certificate.refresh)


class _Closing(Collector):
    """Each scrape has a thread of its own, and so a connection to the database that must not outlive it."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        try:
            yield from self._collector.collect()
        except DatabaseError as error:  # what this process counts by itself can be told all the same
            log.warning("metrics.not_read", cause=type(error).__name__)
        finally:
            connection.close()


def _serve_metrics() -> None:
    """Answer Prometheus on loopback, with the figures of the whole system and of this process."""
    if not settings.SMTP_METRICS_PORT:
        return
    REGISTRY.register(_Closing(import_string(settings.METRICS_COLLECTOR)()))
    try:
        start_http_server(settings.SMTP_METRICS_PORT, addr="127.0.0.1")
    except OSError as error:
        raise ListenError(f"Port {settings.SMTP_METRICS_PORT} (SMTP_METRICS_PORT): {error.strerror}.") from None
