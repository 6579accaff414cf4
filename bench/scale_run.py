"""Run in a process of its own with a system's environment: fills the queue, claims from it, prints figures as JSON.

`all`: everything is due, a thousand entries for each of many domains. `full`, `paused`: the first nine tenths, the
longest due, belong to one domain that takes nothing more.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable

import django

CLAIMS = 8  # of 100 entries, after each of which they are given back to where they were
ROUNDS = 3
ENTRIES_A_DOMAIN = 1000
MIN_DOMAINS = 20
LIMIT = 100
MESSAGES = 500


def main(case: str, count: int) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mailproj.settings")
    django.setup()
    from django.db import connection  # noqa: PLC0415  (after the setup, as below)

    _fill(case, count)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    print(json.dumps({"claims": _measure(case, count), "plans": _plans()}))


def _fill(case: str, count: int) -> None:
    """Put so many entries into the queue, a tenth of them retries, with SQL that makes them of one accepted."""
    from django.db import connection, transaction  # noqa: PLC0415
    from django.utils import timezone  # noqa: PLC0415

    from accounts.names import parse_address  # noqa: PLC0415
    from mailflow import receiver  # noqa: PLC0415
    from mailflow.models import Message  # noqa: PLC0415
    from mailflow.smtp.envelope import Envelope, Recipient  # noqa: PLC0415
    from mailflow.spool.accepted import Origin  # noqa: PLC0415
    from queue.models import Destination, Entry  # noqa: PLC0415

    Entry.objects.all().delete()
    Destination.objects.all().delete()
    missing = MESSAGES - Message.objects.count()
    envelope = Envelope(None, [Recipient(parse_address("a@template.test"))])
    content = b"Subject: scale\r\n\r\n" + b"x" * 500 + b"\r\n"
    one = receiver.Submission(
        source=Message.Source.RECEPTION.value,
        envelope=envelope,
        origin=Origin(protocol="ESMTP", trace_id="bench"),
        content=content,
    )
    with transaction.atomic():
        receiver.accept_within([one] * max(1, missing))
    template = Entry.objects.order_by("pk")[0]
    Entry.objects.exclude(pk=template.pk).delete()
    now = timezone.now()
    domains = max(MIN_DOMAINS, count // ENTRIES_A_DOMAIN)
    blocked = 0 if case == "all" else count * 9 // 10
    if case == "paused":
        pause = now + dt.timedelta(minutes=20)
        Destination.objects.create(domain="blocked.test", paused_until=pause, failures=1, used_at=now)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE chosen AS SELECT id, row_number() OVER (ORDER BY id) AS number FROM "
                       "mailflow_message")  # fmt: skip
        base = now - dt.timedelta(hours=6)
        names = [str(field.column) for field in Entry._meta.concrete_fields]
        values = dict.fromkeys(names, "")
        values.update({name: f"t.{connection.ops.quote_name(name)}" for name in names})
        values["id"] = f"{template.pk} + s.n"
        values["domain"] = (
            f"CASE WHEN s.n <= {blocked} THEN 'blocked.test' ELSE 'd' || (s.n % {domains}) || '.test' END"
        )
        values["recipient"] = f"'u' || s.n || '@' || {values['domain']}"
        values["message_id"] = "c.id"
        values["status"] = "CASE WHEN s.n % 10 = 0 THEN 'retry' ELSE 'pending' END"
        values["attempts"] = "CASE WHEN s.n % 10 = 0 THEN 1 ELSE 0 END"
        if connection.vendor == "sqlite":
            series = (
                f"(WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < {count}) SELECT n FROM g)"  # noqa: S608
            )
            at = f"'{base:%Y-%m-%d %H:%M:%S}'"
            values["next_attempt_at"] = f"strftime('%Y-%m-%d %H:%M:%f', {at}, (s.n * 0.01) || ' seconds') || '000'"
        else:
            series = f"(SELECT n FROM generate_series(1, {count}) AS n)"  # noqa: S608
            values["next_attempt_at"] = f"'{base.isoformat()}'::timestamptz + s.n * interval '10 milliseconds'"
        columns = ", ".join(connection.ops.quote_name(name) for name in names)
        cursor.execute(
            f"INSERT INTO queue_entry ({columns}) SELECT {', '.join(values[name] for name in names)}"  # noqa: S608
            f" FROM {series} s JOIN queue_entry t ON t.id = {template.pk}"
            f" JOIN chosen c ON c.number = s.n % {MESSAGES} + 1"
        )
        cursor.execute("DROP TABLE chosen")
    template.delete()


def _measure(case: str, count: int) -> list[dict[str, object]]:
    from queue.finding import KINDS, Closed, Finder  # noqa: PLC0415
    from queue.models import Entry  # noqa: PLC0415

    lease = dt.timedelta(hours=1)
    full = frozenset({"blocked.test"}) if case == "full" else frozenset()
    closed = Closed(full, full)
    suffix = {"all": "", "full": ", behind a full domain", "paused": ", behind a paused domain"}[case]

    def due(kind: str) -> Callable[[Finder], list[int]]:
        def claim(finder: Finder) -> list[int]:
            found = finder.claim_due(kind, limit=LIMIT, lease=lease, closed=closed)
            while not found.parcels and not found.is_all:  # as the engine does; it is all in the time measured
                found = finder.claim_due(kind, limit=LIMIT, lease=lease, closed=closed)
            return [parcel.entry_id for parcel in found.parcels]

        return claim

    newest = itertools.cycle(
        list(Entry.objects.order_by("-pk").values_list("pk", flat=True)[: CLAIMS * ROUNDS * LIMIT])
    )

    def rung(finder: Finder) -> list[int]:
        ids = list(itertools.islice(newest, LIMIT))
        found = finder.claim_rung(ids, limit=LIMIT, lease=lease, closed=closed)
        return [parcel.entry_id for parcel in found.parcels]

    looks = [("first attempts", due(KINDS[0])), ("retries", due(KINDS[1]))]
    if case == "all":
        looks.append(("what was rung for", rung))
    found = []
    for name, claim in looks:
        usable = count if case == "all" else count // 10
        share = {"retries": usable // 10, "what was rung for": usable // ROUNDS}.get(name, usable * 9 // 10)
        claims = min(CLAIMS, max(1, share // LIMIT))
        times: list[float] = []
        firsts: list[float] = []
        for _ in range(ROUNDS if claims > 1 else ROUNDS * CLAIMS):
            finder = Finder("bench")
            claimed: list[int] = []
            for number in range(claims):
                began = time.perf_counter()
                got = claim(finder)
                took = (time.perf_counter() - began) * 1000
                if len(got) < LIMIT * 0.5:
                    raise SystemExit(f"{name}{suffix}: only {len(got)} claimed")
                claimed += got
                (times if number or claims == 1 else firsts).append(took)
            _give_back(claimed)
        found.append({
            "case": name + suffix, "entries": count, "milliseconds": statistics.median(times), "worst": max(times),
            "first": statistics.median(firsts or times),
        })  # fmt: skip
    return found


def _give_back(ids: list[int]) -> None:
    """Put the entries back to their times, which are in their ids."""
    from django.db import connection  # noqa: PLC0415

    from queue.models import Entry  # noqa: PLC0415

    due_at, lowest = Entry.objects.filter(lease="").order_by("next_attempt_at").values_list("next_attempt_at", "pk")[0]
    assert due_at is not None
    for start in range(0, len(ids), 500):
        part = ids[start : start + 500]
        for entry in Entry.objects.filter(pk__in=part).only("pk"):
            at = due_at + dt.timedelta(milliseconds=10 * (entry.pk - lowest))
            Entry.objects.filter(pk=entry.pk).update(lease="", next_attempt_at=at)
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("VACUUM queue_entry")  # as autovacuum does in life, where claims are not back to back


def _plans() -> list[str]:
    """Return the plans of the statements that look for entries, as the database tells them."""
    from django.db import connection  # noqa: PLC0415

    from queue.finding import KINDS, NOTHING_CLOSED, Finder  # noqa: PLC0415

    statements: list[str] = []
    connection.force_debug_cursor = True
    finder = Finder("bench")
    lease = dt.timedelta(0)
    looks: list[Callable[[], object]] = [
        lambda: finder.claim_due(KINDS[0], limit=LIMIT, lease=lease),
        lambda: finder.claim_of(["d1.test"], limit=LIMIT, lease=lease),
        lambda: finder._claim_on_round(KINDS[0], LIMIT, lease, NOTHING_CLOSED, dt.datetime.now(dt.UTC)),
    ]
    for look in looks:
        connection.queries_log.clear()
        look()
        statements += [query["sql"] for query in connection.queries_log if "queue_entry" in query["sql"]]
    connection.force_debug_cursor = False
    lines = []
    explain = "EXPLAIN QUERY PLAN " if connection.vendor == "sqlite" else "EXPLAIN (COSTS OFF) "
    for statement in statements:
        with connection.cursor() as cursor:
            cursor.execute(explain + (statement.replace("%", "%%") if connection.vendor == "sqlite" else statement))
            lines.append(f"-- {' '.join(statement.split())[:150]}")
            lines += [re.sub(r"(\be|\bdue)_\d+", r"\1", str(row[-1]))[:110] for row in cursor.fetchall()]
    return list(dict.fromkeys(lines))  # a part of each domain looks like the others


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
