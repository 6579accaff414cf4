"""`GET /metrics`: R4's and R5's figures in Prometheus' text form, for whom the contract's §1.1 allows.

Figures of the whole system come from the database, so that any web process may be asked; those of the web processes
come from prometheus_client, across processes where PROMETHEUS_MULTIPROC_DIR is set.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Iterator

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from accounts.api import problems
from accounts.models import WebhookDelivery
from mailflow import figures as live
from mailflow.figures import Figures
from mailproj import machine
from queue import figures

_FORWARDED = ("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_X_REAL_IP")


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    if not _is_allowed(request):
        return problems.plain_response(403, "Metrics are for loopback, METRICS_ALLOWED_NETWORKS or a bearer token.")
    own = CollectorRegistry()
    own.register(SystemCollector())
    return HttpResponse(generate_latest(own) + generate_latest(_process_registry()), content_type=CONTENT_TYPE_LATEST)


class SystemCollector(Collector):
    """Reads everything anew at each scrape, with a handful of queries; the listener answers with it too."""

    def describe(self) -> Iterator[Metric]:
        return iter(())  # else whoever registers it would have to read everything first

    def collect(self) -> Iterator[Metric]:
        system = live.read()
        yield from _mail()
        yield from _smtp(system)
        yield from _http(system)
        yield from _webhooks(system)
        yield _histogram("smtp_processing_duration_seconds", "Time to accept a message.", system, "processing_ms", 1000)
        yield _histogram("smtp_message_size_bytes", "Size of accepted messages.", system, "message_octets", 1)


def _mail() -> Iterator[Metric]:
    mail = figures.mail()
    received = {"accepted": mail.received, "rejected": mail.refused}
    sent = {"delivered": mail.sent, "failed": mail.failed}
    yield _counter("smtp_messages_received", "Messages that came in.", "status", received)
    yield _counter("smtp_messages_sent", "Messages that ended.", "status", sent)
    yield GaugeMetricFamily("smtp_messages_queued", "Messages that some recipient waits for.", value=mail.queued)
    yield CounterMetricFamily("smtp_spam_detected", "Messages found to be spam.", value=mail.spam)
    yield CounterMetricFamily("smtp_virus_detected", "Messages with a virus.", value=mail.viruses)


def _smtp(system: Figures) -> Iterator[Metric]:
    attempts = {"success": system.sum("smtp.auth.successful"), "failure": system.sum("smtp.auth.failed")}
    active, total = system.gauge("smtp.connections.active"), system.sum("smtp.connections.total")
    memory_octets = machine.process_memory()[0] * machine.MIB
    yield GaugeMetricFamily("smtp_connections_active", "Open SMTP connections.", value=active)
    yield CounterMetricFamily("smtp_connections", "SMTP connections so far.", value=total)
    yield _counter("smtp_auth_attempts", "SMTP logins.", "result", attempts)
    yield GaugeMetricFamily("smtp_memory_bytes", "Resident memory of the process that answers.", value=memory_octets)


def _webhooks(system: Figures) -> Iterator[Metric]:
    names = ("delivered", "failed")
    attempts = {name: system.sum(f"webhooks.attempts.{name}") for name in names}
    waiting = WebhookDelivery.objects.filter(next_attempt_at__isnull=False, endpoint__is_active=True).count()
    disabled = system.sum("webhooks.disabled")
    yield _counter("webhook_attempts", "Requests to webhook endpoints.", "result", attempts)
    yield GaugeMetricFamily("webhook_deliveries_waiting", "Deliveries that an endpoint waits for.", value=waiting)
    yield CounterMetricFamily("webhook_endpoints_disabled", "Endpoints switched off for failures.", value=disabled)


def _http(system: Figures) -> Iterator[Metric]:
    sends = {"queued": system.sum("http.sends.accepted"), "failed": system.sum("http.sends.refused")}
    checks = {"allowed": system.sum("http.rate_limit.allowed"), "refused": system.sum("http.rate_limit.refused")}
    yield _counter("email_sends", "Messages sent by HTTP.", "status", sends)
    yield _counter("rate_limit_checks", "Daily limits of API keys looked at.", "result", checks)


def _counter(name: str, words: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(name, words, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family


def _histogram(name: str, words: str, system: Figures, of_counter: str, divisor: int) -> Metric:
    found = system.histogram(of_counter)
    buckets, seen = [], 0
    for bound, count in zip(found.bounds, found.counts, strict=True):
        seen += count
        buckets.append((str(bound / divisor), float(seen)))
    buckets.append(("+Inf", float(found.count)))
    return HistogramMetricFamily(name, words, buckets=buckets, sum_value=found.total / divisor)


def _process_registry() -> CollectorRegistry:
    if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def _is_allowed(request: HttpRequest) -> bool:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    expected = settings.METRICS_BEARER_TOKEN
    if expected and scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), expected.encode()):
        return True
    try:
        client = ipaddress.ip_address(request.META.get("REMOTE_ADDR", ""))
    except ValueError:  # a Unix socket: whoever connects is a proxy
        return False
    # A proxy on this machine makes everyone look like loopback; it says so in a header.
    is_direct = not any(name in request.META for name in _FORWARDED)
    return is_direct and (client.is_loopback or any(client in network for network in settings.METRICS_ALLOWED_NETWORKS))
