"""Reports of TLS sessions to the domains that ask for them (RFC 8460)."""

from __future__ import annotations

import datetime as dt
import email
import gzip
import json
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.dns.memory import MemoryResolver
from accounts.models import User
from mailflow import content
from mailflow.models import Event, Message
from queue import prune, tls_reports
from queue.models import Entry, MtaStsPolicy, TlsFigure, TlsReport
from queue.tls_figures import TlsFigures
from queue.tls_report import build, report_id, targets
from queue.transports.content import is_tls_optional
from queue.transports.noting import SessionResult

NOON = dt.datetime(2026, 5, 2, 12, tzinfo=dt.UTC)
DAY = dt.date(2026, 5, 1)
CONTACT = "tls@ours.test"
WANTS = MemoryResolver(texts={"_smtp._tls.x.test": ["v=TLSRPTv1; rua=mailto:reports@x.test,https://x.test/r"]})


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["v=TLSRPTv1;rua=mailto:reports@example.com"], ["reports@example.com"]),
        (["v=TLSRPTv1; rua=mailto:a@x.test , mailto:b%2Bc@x.test?subject=x;"], ["a@x.test", "b+c@x.test"]),
        (["v=TLSRPTv1; ext=1; rua=https://x.test/v1/tlsrpt"], []),
        (["v=TLSRPTv1; rua=mailto:no address"], []),
        (["v=TLSRPTv1; rua=mailto:a@x.test%0d%0aBcc:b@x.test"], []),
        (["v=TLSRPTv1; rua=mailto:a@x.test", "v=TLSRPTv1; rua=mailto:b@x.test"], []),
        (["v=spf1 -all", "v=TLSRPTv1; rua=mailto:a@x.test"], ["a@x.test"]),
        (["v=TLSRPTv2; rua=mailto:a@x.test"], []),
        (["v=TLSRPTv1; rua=" + ",".join(f"mailto:{n}@x.test" for n in range(9))], [f"{n}@x.test" for n in range(5)]),
        ([], []),
    ],
)
def test_a_record_says_where_reports_go(texts: list[str], found: list[str]) -> None:
    """RFC 8460 §3."""
    assert targets(texts) == found


@pytest.fixture
def figures(db: None) -> None:
    counted = TlsFigures()
    sts = SessionResult("x.test", "sts", "mx.x.test", "192.0.2.1", "192.0.2.9")
    failed = SessionResult("x.test", "sts", "mx.x.test", "192.0.2.1", "192.0.2.9", "certificate-expired", "it expired")
    tlsa = SessionResult("x.test", "tlsa", "b.x.test", policy=("3 1 1 ab",))
    for result, count in ((sts, 5), (failed, 2), (tlsa, 1), (SessionResult("y.test", "no-policy-found"), 1)):
        for _ in range(count):
            counted.note(result)
    counted.flush()
    TlsFigure.objects.update(day=DAY)
    now = timezone.now()
    MtaStsPolicy.objects.create(
        domain="x.test", policy_id="1", mode="enforce", mx=["mx.x.test", "*.b.test"], max_age=86400, fetched_at=now,
        expires_at=now, refresh_at=now,
    )  # fmt: skip


def report_of(message: Message) -> tuple[email.message.Message, dict[str, Any]]:
    parsed = email.message_from_bytes(content.read(message.pk))
    data = parsed.get_payload()[1]  # type: ignore[index]
    assert data.get_content_type() == "application/tlsrpt+gzip"  # type: ignore[union-attr]
    return parsed, json.loads(gzip.decompress(data.get_payload(decode=True)))  # type: ignore[union-attr, arg-type]


def test_a_domain_that_asks_for_it_gets_yesterdays_figures(figures: None, settings: Any) -> None:
    settings.TLS_REPORT_FROM = CONTACT
    assert tls_reports.run(WANTS, now=NOON) == 1
    message = Message.objects.get()
    assert (message.reverse_path, Entry.objects.get().recipient) == ("", "reports@x.test")
    parsed, report = report_of(message)
    assert parsed.get_content_type() == "multipart/report" and parsed.get_param("report-type") == "tlsrpt"
    assert (parsed["TLS-Report-Domain"], parsed["TLS-Report-Submitter"]) == ("x.test", "ours.test")
    subject = " ".join(parsed["Subject"].split())
    assert subject == f"Report Domain: x.test Submitter: ours.test Report-ID: <{report_id('x.test', DAY, CONTACT)}>"
    name = parsed.get_payload()[1].get_filename()  # type: ignore[index, union-attr]
    assert name == "ours.test!x.test!1777593600!1777679999.json.gz"
    assert report["date-range"] == {"start-datetime": "2026-05-01T00:00:00Z", "end-datetime": "2026-05-01T23:59:59Z"}
    assert (report["contact-info"], report["organization-name"]) == (CONTACT, "ours.test")
    sts, tlsa = report["policies"]
    assert sts["policy"] == {
        "policy-type": "sts",
        "policy-domain": "x.test",
        "policy-string": ["version: STSv1", "mode: enforce", "mx: mx.x.test", "mx: *.b.test", "max_age: 86400"],
        "mx-host": ["mx.x.test", "*.b.test"],
    }
    assert sts["summary"] == {"total-successful-session-count": 5, "total-failure-session-count": 2}
    assert sts["failure-details"] == [
        {
            "result-type": "certificate-expired",
            "sending-mta-ip": "192.0.2.9",
            "receiving-mx-hostname": "mx.x.test",
            "receiving-ip": "192.0.2.1",
            "failed-session-count": 2,
            "failure-reason-code": "it expired",
        }
    ]
    assert tlsa["policy"]["policy-string"] == ["3 1 1 ab"] and "failure-details" not in tlsa
    assert f"A TLS report of {DAY} for x.test goes to reports@x.test." in Event.objects.values_list(
        "summary", flat=True
    )


def test_a_report_arrives_whatever_the_policy_that_it_tells_of_says(figures: None, settings: Any) -> None:
    settings.TLS_REPORT_FROM = CONTACT
    tls_reports.run(WANTS, now=NOON)
    assert is_tls_optional(content.read(Message.objects.get().pk))


def test_no_domain_gets_two_and_who_asks_for_none_gets_none(figures: None, settings: Any) -> None:
    settings.TLS_REPORT_FROM = CONTACT
    assert [tls_reports.run(WANTS, now=NOON) for _ in range(3)] == [1, 0, 0]
    assert Message.objects.count() == 1
    assert list(TlsReport.objects.values_list("policy_domain", "sent_to")) == [
        ("x.test", "reports@x.test"),
        ("y.test", ""),
    ]


def test_a_domain_that_nobody_answers_for_is_asked_again(figures: None, settings: Any) -> None:
    settings.TLS_REPORT_FROM = CONTACT
    silent = MemoryResolver(fail={"txt _smtp._tls.x.test"})
    assert tls_reports.run(silent, now=NOON) == 0
    assert tls_reports.run(WANTS, now=NOON) == 1


def test_reports_are_spread_over_the_first_hours(figures: None, settings: Any) -> None:
    settings.TLS_REPORT_FROM = CONTACT
    assert tls_reports.run(WANTS, now=NOON.replace(hour=0)) == 0
    assert tls_reports.run(WANTS, now=NOON.replace(hour=4)) == 1


def test_without_an_address_of_ours_nobody_is_asked(figures: None) -> None:
    resolver = MemoryResolver(texts=WANTS.texts)
    assert tls_reports.run(resolver, now=NOON) == 0
    assert resolver.asked == []


def test_a_report_without_figures_is_empty_and_sound() -> None:
    assert build("x.test", DAY, [], contact=CONTACT, sts_policy=())["policies"] == []


@pytest.mark.parametrize("model", ["tlsfigure", "tlsreport", "mtastspolicy"])
def test_the_admin_shows_them(
    figures: None, settings: Any, client: Client, model: str, django_assert_max_num_queries: Any
) -> None:
    settings.TLS_REPORT_FROM = CONTACT
    tls_reports.run(WANTS, now=NOON)
    client.force_login(User.objects.create_superuser("root", "root@example.com", "x"))
    with django_assert_max_num_queries(8):
        page = client.get(reverse(f"admin:queue_{model}_changelist"))
    assert "x.test" in page.content.decode()
    for query in ("?q=x.test", "?since=7d", "?outcome=failed", "?outcome=good"):
        assert client.get(reverse(f"admin:queue_{model}_changelist") + query).status_code in (200, 302)


def test_what_is_old_is_pruned(figures: None) -> None:
    TlsReport.objects.create(day=DAY, policy_domain="x.test", made_at=NOON)
    TlsFigure.objects.filter(policy_domain="y.test").update(day=timezone.now().date())
    MtaStsPolicy.objects.update(expires_at=NOON)
    assert prune.run()["tls"] == 5
    assert list(TlsFigure.objects.values_list("policy_domain", flat=True)) == ["y.test"]
    assert not TlsReport.objects.exists() and not MtaStsPolicy.objects.exists()
