"""`/metrics`: R4's and R5's names, for whom they are meant."""

from __future__ import annotations

import ipaddress

import pytest
from django.conf import LazySettings
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families

from mailflow import counters

pytestmark = pytest.mark.django_db

NAMES = {
    "webhook_attempts_total", "webhook_deliveries_waiting", "webhook_endpoints_disabled_total",
    "smtp_messages_received_total", "smtp_messages_sent_total", "smtp_messages_queued", "smtp_connections_active",
    "smtp_connections_total", "smtp_auth_attempts_total", "smtp_spam_detected_total", "smtp_virus_detected_total",
    "smtp_memory_bytes", "smtp_processing_duration_seconds_bucket", "smtp_message_size_bytes_sum",
    "http_requests_total", "http_request_duration_seconds_count", "email_sends_total", "rate_limit_checks_total",
}  # fmt: skip


@pytest.mark.parametrize("path", ["/metrics", "/metrics/"])
def test_the_names_of_the_references_are_there(path: str) -> None:
    Client().get("/nowhere")
    answer = Client().get(path)
    families = list(text_string_to_metric_families(answer.content.decode()))
    assert {sample.name for family in families for sample in family.samples} >= NAMES
    assert len({family.name for family in families}) == len(families)


def test_a_method_that_a_client_makes_up_is_no_series_of_its_own() -> None:
    for method in ("BREW", "WHEN"):
        assert Client().generic(method, "/api/v1/health").status_code == 405
    text = Client().get("/metrics").content.decode()
    assert "BREW" not in text and "WHEN" not in text
    assert 'django_http_requests_latency_seconds_by_view_method_count{method="<invalid method>"' in text


def test_figures_are_those_of_the_whole_system() -> None:
    counters.add("smtp.auth.failed", 3)
    counters.observe("processing_ms", 7)
    counters.flush()
    text = Client().get("/metrics").content.decode()
    assert 'smtp_auth_attempts_total{result="failure"} 3.0' in text
    assert 'smtp_processing_duration_seconds_bucket{le="0.005"} 0.0' in text
    assert 'smtp_processing_duration_seconds_bucket{le="0.01"} 1.0' in text
    assert "smtp_processing_duration_seconds_sum 0.007" in text


@pytest.mark.parametrize(
    ("address", "headers", "status"),
    [
        ("127.0.0.1", {}, 200), ("::1", {}, 200), ("192.0.2.1", {}, 403), ("10.1.2.3", {}, 200), ("", {}, 403),
        ("127.0.0.1", {"X-Forwarded-For": "192.0.2.1"}, 403), ("10.1.2.3", {"Forwarded": "for=192.0.2.1"}, 403),
        ("192.0.2.1", {"Authorization": "Bearer s3cret"}, 200), ("192.0.2.1", {"Authorization": "Bearer wrong"}, 403),
        ("127.0.0.1", {"X-Forwarded-For": "192.0.2.1", "Authorization": "bearer s3cret"}, 200),
    ],
)  # fmt: skip
def test_only_whom_it_is_meant_for_reads_it(
    settings: LazySettings, address: str, headers: dict[str, str], status: int
) -> None:
    settings.METRICS_ALLOWED_NETWORKS = [ipaddress.ip_network("10.0.0.0/8")]
    settings.METRICS_BEARER_TOKEN = "s3cret"
    assert Client(REMOTE_ADDR=address, headers=headers).get("/metrics").status_code == status


def test_without_a_token_an_empty_one_opens_nothing(settings: LazySettings) -> None:
    settings.METRICS_BEARER_TOKEN = ""
    for value in ("Bearer ", "Bearer"):
        assert Client(REMOTE_ADDR="192.0.2.1", headers={"Authorization": value}).get("/metrics").status_code == 403
