"""Send yesterday's TLS reports to the domains that ask for them (RFC 8460 §4.1, §5.3).

A report and the note that it was made are one transaction: no domain gets two, and none is forgotten because a worker
died. Reports go only where `TLS_REPORT_FROM` says who writes them.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import zlib

import structlog
from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from accounts.dns.base import DnsUnavailable, NoSuchDomain, Resolver
from accounts.names import parse_address
from mailflow import events, receiver
from mailflow.errors import Refused
from mailflow.models import Event, Message
from mailflow.smtp.envelope import Envelope, Recipient
from mailflow.spool.accepted import Origin
from queue import tls_report
from queue.models import Entry, MtaStsPolicy, TlsFigure, TlsReport
from queue.mta_sts import Mode, Policy
from queue.tls_report import Figure

logger = structlog.get_logger(__name__)

SPREAD = dt.timedelta(hours=4)  # RFC 8460 §4.1: not everybody's reports at midnight
DOMAINS_A_RUN = 200
QUESTIONS_AT_ONCE = 20


def run(resolver: Resolver, *, now: dt.datetime | None = None) -> int:
    """Make the reports whose time has come; return how many were sent. Each domain's time is its own, and is kept."""
    now = now or timezone.now()
    contact = settings.TLS_REPORT_FROM
    if not contact:
        return 0
    day = (now - dt.timedelta(days=1)).date()
    since_midnight = now - dt.datetime.combine(now.date(), dt.time(), dt.UTC)
    due = [domain for domain in _open_domains(day) if _delay(domain) <= since_midnight][:DOMAINS_A_RUN]
    answers = asyncio.run(_targets(resolver, due)) if due else {}
    return sum(_report(domain, day, to, contact, now) for domain, to in answers.items())


def _open_domains(day: dt.date) -> list[str]:
    done = TlsReport.objects.filter(day=day).values("policy_domain")
    figures = TlsFigure.objects.filter(day=day).exclude(policy_domain__in=done).order_by("policy_domain")
    return list(figures.values_list("policy_domain", flat=True).distinct())


def _delay(domain: str) -> dt.timedelta:
    return SPREAD * (zlib.crc32(domain.encode()) % 1000) / 1000


async def _targets(resolver: Resolver, domains: list[str]) -> dict[str, list[str]]:
    """Ask who wants a report and where. Domains that nobody answers for are left to the next run."""
    at_once = asyncio.Semaphore(QUESTIONS_AT_ONCE)

    async def ask(domain: str) -> list[str] | None:
        async with at_once:
            try:
                return tls_report.targets(await resolver.txt(f"_smtp._tls.{domain}"))
            except NoSuchDomain:
                return []
            except DnsUnavailable:
                return None

    answers = await asyncio.gather(*(ask(domain) for domain in domains))
    return {domain: to for domain, to in zip(domains, answers, strict=True) if to is not None}


def _report(domain: str, day: dt.date, to: list[str], contact: str, now: dt.datetime) -> int:
    try:
        with transaction.atomic():
            row = TlsReport.objects.create(day=day, policy_domain=domain, sent_to=", ".join(to)[:1000], made_at=now)
            if to:
                row.message_id = _send(domain, day, to, contact, now)
                row.save(update_fields=["message_id"])
    except IntegrityError:
        return 0  # another worker was first
    except Refused as refusal:
        logger.error("tls.report_refused", domain=domain, cause=refusal.reason)
        return 0
    return int(bool(to))


def _send(domain: str, day: dt.date, to: list[str], contact: str, now: dt.datetime) -> str:
    """Hand the report in by the front door; return its message's id."""
    report = tls_report.build(domain, day, _figures(domain, day), contact=contact, sts_policy=_sts_policy(domain))
    submission = receiver.Submission(
        source=Message.Source.DSN.value,
        envelope=Envelope(None, [Recipient(parse_address(address), notify="NEVER") for address in to]),
        origin=Origin(protocol="INTERNAL", trace_id=f"tlsrpt{zlib.crc32(f'{day} {domain}'.encode()):08x}"),
        content=tls_report.compose(report, domain, day, to, contact=contact, now=now),
    )
    entry = Entry.objects.filter(pk__in=receiver.accept_within([submission])).first()
    assert entry is not None
    words = f"A TLS report of {day} for {domain} goes to {', '.join(to)}."
    events.record([events.NewEvent(kind=Event.Kind.DSN_SENT.value, summary=words, message_id=entry.message_id)])
    return entry.message_id


def _figures(domain: str, day: dt.date) -> list[Figure]:
    rows = TlsFigure.objects.filter(day=day, policy_domain=domain).order_by("pk")
    fields = [
        "policy_type", "mx_host", "result", "reason", "receiving_address", "sending_address", "policy", "count",
    ]  # fmt: skip
    return [Figure(*row) for row in rows.values_list(*fields)]


def _sts_policy(domain: str) -> tuple[str, ...]:
    row = MtaStsPolicy.objects.filter(domain=domain).first()
    return () if row is None else Policy(Mode(row.mode), tuple(row.mx), row.max_age).lines
