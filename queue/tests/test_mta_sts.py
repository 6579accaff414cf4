"""MTA-STS: its texts, its policies over real HTTPS, and what is kept of them (RFC 8461)."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from accounts.dns.memory import MemoryResolver
from queue import sts_store
from queue.models import MtaStsPolicy
from queue.mta_sts import InvalidPolicy, Mode, Policy, names_host, parse, record_id
from queue.sts_book import StsBook
from queue.sts_fetch import MAX_OCTETS, FetchFailed, PolicyFetcher
from queue.tests.authority import Issued, root
from queue.tests.outbound import LOOPBACK
from queue.transports.noting import SessionResult

AUTHORITY = root()
TEXT = b"version: STSv1\r\nmode: enforce\r\nmx: mx.example.test\r\nmx: *.backup.test\r\nmax_age: 86400\r\n"
POLICY = Policy(Mode.ENFORCE, ("mx.example.test", "*.backup.test"), 86400)


# --- texts ---


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["v=STSv1; id=20160831085700Z;"], "20160831085700Z"),
        (["v=STSv1;id=a"], "a"),
        (["v=STSv1 ; ext=1 ; id=a ;"], "a"),
        (["v=STSv1; id=a; id=b"], "a"),
        (["v=spf1 -all", "v=STSv1; id=a"], "a"),
        (["v=STSv1; id=a", "v=STSv1; id=b"], ""),
        (["v=STSv1"], ""),
        (["v=STSv1; id="], ""),
        (["v=STSv1; id=" + "x" * 33], ""),
        (["v=STSv1; id=a-b"], ""),
        (["v=STSv1; id=a; what is this"], ""),
        (["v=STSv2; id=a"], ""),
        (["id=a; v=STSv1"], ""),
        ([""], ""),
        ([], ""),
    ],
)
def test_a_record_names_an_id_or_nothing(texts: list[str], found: str) -> None:
    """RFC 8461 §3.1."""
    assert record_id(texts) == found


def test_a_policy_is_read_with_either_line_end_and_fields_that_nobody_knows() -> None:
    assert parse(TEXT) == parse(TEXT.replace(b"\r\n", b"\n")) == POLICY
    more = b"version:STSv1\nmode: testing  \nmode: none\nfuture: \xc3\xa9 thing\nMX: x\nmx: A.example.test.\n"
    more += b"max_age: 9999999999"
    assert parse(more) == Policy(Mode.TESTING, ("a.example.test",), 31_557_600)
    assert parse(b"version: STSv1\nmode: none\nmax_age: 60\n").mx == ()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>not found</html>",
        b"mode: enforce\nmx: a.test\nmax_age: 1",
        b"version: STSv2\nmode: enforce\nmx: a.test\nmax_age: 1",
        b"version: STSv1\nmode: Enforce\nmx: a.test\nmax_age: 1",
        b"version: STSv1\nmx: a.test\nmax_age: 1",
        b"version: STSv1\nmode: enforce\nmax_age: 1",
        b"version: STSv1\nmode: enforce\nmx: a.test",
        b"version: STSv1\nmode: enforce\nmx: a.test\nmax_age: -1",
        b"version: STSv1\nmode: enforce\nmx: a.test\nmax_age: 12345678901",
        b"version: STSv1\nmode: enforce\nmx: a.*.test\nmax_age: 1",
        b"version: STSv1\nmode: enforce\nmx: \xc3\xbc.test\nmax_age: 1",
        b"version: STSv1\nmode: enforce\nmx: \xff\nmax_age: 1",
        b"version: STSv1\nmode: enforce\n" + b"mx: a.test\n" * 101 + b"max_age: 1",
    ],
)
def test_what_is_no_policy_is_refused_with_a_reason(body: bytes) -> None:
    with pytest.raises(InvalidPolicy, match="policy"):
        parse(body)


@pytest.mark.parametrize(
    ("host", "is_named"),
    [
        ("mx.example.test", True),
        ("MX.Example.Test.", True),
        ("a.backup.test", True),
        ("backup.test", False),
        ("a.b.backup.test", False),
        ("mx.example.test.evil.test", False),
        ("other.example.test", False),
    ],
)
def test_a_wildcard_names_one_label(host: str, is_named: bool) -> None:
    """RFC 8461 §4.1."""
    assert names_host(POLICY, host) is is_named


# --- over HTTPS ---


def page(body: bytes = TEXT, status: str = "200 OK", kind: str = "text/plain; charset=utf-8") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class Web:
    """An HTTPS server that says what it is told to; `requests` are what it was asked."""

    def __init__(self, answer: bytes = b"", issued: Issued | None = None) -> None:
        self.answer = answer or page()
        self.context = (issued or AUTHORITY.issue("mta-sts.example.test")).server()
        self.requests: list[bytes] = []
        self.port = 0
        self.pause = 0.0

    @asynccontextmanager
    async def run(self) -> AsyncIterator[Web]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.context)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            if self.pause:
                for octet in self.answer:
                    writer.write(bytes([octet]))
                    await writer.drain()
                    await asyncio.sleep(self.pause)
            writer.write(self.answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.close()

    def fetcher(self, resolver: MemoryResolver, **more: Any) -> PolicyFetcher:
        options = {"allowed_networks": LOOPBACK, "port": self.port, "tls": AUTHORITY.trusting(), **more}
        return PolicyFetcher(resolver, **options)


def names(**more: Any) -> MemoryResolver:
    return MemoryResolver(
        hosts={"mta-sts.example.test": ["127.0.0.1"], "mx.example.test": ["127.0.0.1"]},
        texts={"_mta-sts.example.test": ["v=STSv1; id=one;"]},
        **more,
    )


def fetched(web: Web, **more: Any) -> Policy | tuple[str, str]:
    async def body() -> Policy | tuple[str, str]:
        async with web.run():
            try:
                return await web.fetcher(more.pop("resolver", None) or names(), **more)("example.test")
            except FetchFailed as error:
                return error.result, str(error)

    return asyncio.run(body())


def test_a_policy_is_fetched_from_its_one_place() -> None:
    web = Web()
    assert fetched(web) == POLICY
    request = web.requests[0].lower()
    assert request.startswith(b"get /.well-known/mta-sts.txt http/1.1\r\n")
    assert f"host: mta-sts.example.test:{web.port}".encode() in request


@pytest.mark.parametrize(
    ("answer", "result", "words"),
    [
        (page(status="404 Not Found"), "sts-policy-fetch-error", "404"),
        (page(status="301 Moved\r\nLocation: https://mta-sts.example.test/other"), "sts-policy-fetch-error", "301"),
        (page(status="204 No Content", body=b""), "sts-policy-fetch-error", "204"),
        (page(kind="text/html"), "sts-policy-invalid", "text/plain"),
        (page(b"version: STSv2"), "sts-policy-invalid", "STSv1"),
        (page(b"a: b\n" * MAX_OCTETS), "sts-policy-invalid", "65536"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
          b"10000\r\n" + b"x" * 65536 + b"\r\n" + b"1\r\nx\r\n0\r\n\r\n", "sts-policy-invalid", "65536"),
        (b"\x00\xff no HTTP at all\r\n\r\n", "sts-policy-fetch-error", "cannot be fetched"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n", "sts-policy-fetch-error", "cannot be fetched"),
        (page()[:-20], "sts-policy-fetch-error", "cannot be fetched"),
    ],
)  # fmt: skip
def test_what_is_no_good_answer_is_no_policy(answer: bytes, result: str, words: str) -> None:
    found = fetched(Web(answer))
    assert isinstance(found, tuple)
    assert found[0] == result and words in found[1]


@pytest.mark.parametrize(
    "issued",
    [AUTHORITY.issue("other.test"), root().issue("mta-sts.example.test"),
     AUTHORITY.issue("mta-sts.example.test", days=(-1.5, -1)), AUTHORITY.issue(common_name="mta-sts.example.test")],
    ids=["another name", "another authority", "expired", "common name only"],
)  # fmt: skip
def test_the_policy_host_must_prove_who_it_is(issued: Issued) -> None:
    web = Web(issued=issued)
    found = fetched(web)
    assert isinstance(found, tuple) and found[0] == "sts-webpki-invalid"
    assert web.requests == []


def test_a_host_on_a_private_address_is_not_asked() -> None:
    web = Web()
    found = fetched(web, allowed_networks=())
    assert isinstance(found, tuple) and "no public address" in found[1]
    assert web.requests == []


@pytest.mark.parametrize("question", ["addresses mta-sts.example.test"])
def test_dns_trouble_is_a_failure_to_fetch(question: str) -> None:
    found = fetched(Web(), resolver=names(fail={question}))
    assert isinstance(found, tuple) and found[0] == "sts-policy-fetch-error"
    found = fetched(Web(), resolver=MemoryResolver())
    assert isinstance(found, tuple) and "does not exist" in found[1]


def test_one_octet_at_a_time_does_not_hold_us_up() -> None:
    web = Web()
    web.pause = 0.05
    found = fetched(web, seconds=0.3)
    assert isinstance(found, tuple) and "in time" in found[1]


# --- the book ---


async def directly(function: Callable[..., Any], *arguments: object, **named: object) -> Any:
    """Run a database function as the engine does, in a thread."""

    def run() -> Any:
        try:
            return function(*arguments, **named)
        finally:
            connection.close()

    return await asyncio.to_thread(run)


class Desk:
    """A book with a fetcher that answers from `answers` (the last again and again) and counts."""

    def __init__(self, resolver: MemoryResolver, *answers: Policy | Exception) -> None:
        self.answers = list(answers)
        self.fetches = 0
        self.notes: list[SessionResult] = []
        self.now = timezone.now()
        self.book = StsBook(resolver, self._fetch, directly, self.notes.append, now=lambda: self.now)

    async def _fetch(self, domain: str) -> Policy:
        self.fetches += 1
        await asyncio.sleep(0)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


TESTING = Policy(Mode.TESTING, ("mx.example.test",), 86400)
BLOCKED = FetchFailed("sts-policy-fetch-error", "the policy host did not answer in time")


@pytest.fixture
def _rows(transactional_db: None) -> None:
    """Threads write, so that a transaction of the test's own will not do."""


with_rows = pytest.mark.usefixtures("_rows")


@with_rows
def test_a_policy_is_fetched_once_and_kept() -> None:
    desk = Desk(names(), POLICY)

    async def body() -> None:
        found = await asyncio.gather(*(desk.book.policy_of("example.test") for _ in range(5)))
        assert found == [POLICY] * 5
        assert await desk.book.policy_of("other.test") is None

    asyncio.run(body())
    assert desk.fetches == 1
    row = MtaStsPolicy.objects.get()
    assert (row.domain, row.policy_id, row.mode, row.max_age) == ("example.test", "one", "enforce", 86400)
    assert row.expires_at - row.fetched_at == dt.timedelta(days=1)


@with_rows
def test_a_restart_does_not_lose_it_though_everything_is_blocked() -> None:
    """RFC 8461 §10.2: who blocks DNS or the web server must not win by it."""
    asyncio.run(Desk(names(), POLICY).book.policy_of("example.test"))
    for resolver in (MemoryResolver(), MemoryResolver(fail={"txt _mta-sts.example.test"})):
        desk = Desk(resolver, BLOCKED)
        assert asyncio.run(desk.book.policy_of("example.test")) == POLICY
        desk.now += dt.timedelta(days=1, seconds=1)
        assert asyncio.run(desk.book.policy_of("example.test")) is None


@with_rows
def test_a_new_id_brings_the_new_policy_and_a_failure_leaves_the_old() -> None:
    resolver = names()
    desk = Desk(resolver, POLICY, BLOCKED, TESTING)

    async def body() -> None:
        assert await desk.book.policy_of("example.test") == POLICY
        resolver.texts["_mta-sts.example.test"] = ["v=STSv1; id=two;"]
        for _ in range(3):  # an id whose policy cannot be had is left alone for a while (§3.3)
            assert await desk.book.policy_of("example.test") == POLICY
        assert desk.fetches == 2
        resolver.texts["_mta-sts.example.test"] = ["v=STSv1; id=three;"]
        assert await desk.book.policy_of("example.test") == TESTING

    asyncio.run(body())
    assert desk.notes == [SessionResult("example.test", "sts", result="sts-policy-fetch-error", reason=str(BLOCKED))]
    assert MtaStsPolicy.objects.get().last_error == ""


@with_rows
def test_mode_none_is_kept_and_asks_for_nothing() -> None:
    desk = Desk(names(), Policy(Mode.NONE, (), 60))
    assert asyncio.run(desk.book.policy_of("example.test")) is None
    assert MtaStsPolicy.objects.get().mode == "none"


@with_rows
def test_a_fault_of_ours_is_no_policy_and_no_reason_to_wait() -> None:
    desk = Desk(names(), ValueError("a bug"))
    assert asyncio.run(desk.book.policy_of("example.test")) is None
    assert [note.result for note in desk.notes] == ["sts-policy-fetch-error"]


@with_rows
def test_a_domain_whose_dns_is_silent_is_not_asked_for_every_message() -> None:
    resolver = MemoryResolver(fail={"txt _mta-sts.example.test"})
    desk = Desk(resolver, POLICY)

    async def body() -> None:
        for _ in range(5):
            assert await desk.book.policy_of("example.test") is None

    asyncio.run(body())
    assert len(resolver.asked) == 1


@with_rows
def test_it_is_fetched_again_within_a_day_by_one_worker() -> None:
    asyncio.run(Desk(names(), POLICY).book.policy_of("example.test"))
    MtaStsPolicy.objects.update(expires_at=timezone.now() + dt.timedelta(days=30))
    assert sts_store.take_due(timezone.now() + dt.timedelta(hours=23), 20) == []
    one, other = Desk(names(), TESTING), Desk(names(), TESTING)
    for desk in (one, other):
        desk.now += dt.timedelta(hours=25)
        asyncio.run(desk.book.refresh())
    assert (one.fetches, other.fetches) == (1, 0)
    assert MtaStsPolicy.objects.get().mode == "testing"


@with_rows
def test_what_cannot_be_fetched_again_holds_and_shows_why() -> None:
    asyncio.run(Desk(names(), POLICY).book.policy_of("example.test"))
    desk = Desk(names(), BLOCKED)
    desk.now += dt.timedelta(days=1, seconds=-60)
    MtaStsPolicy.objects.update(refresh_at=desk.now)
    asyncio.run(desk.book.refresh())
    assert desk.fetches == 1
    assert MtaStsPolicy.objects.get().last_error == str(BLOCKED)
    assert asyncio.run(desk.book.policy_of("example.test")) == POLICY
    assert sts_store.take_due(desk.now, 20) == []  # not at once again


@with_rows
def test_another_workers_policy_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queue.sts_book.RELOAD_SECONDS", 0.0)
    blind = Desk(MemoryResolver(fail={"txt _mta-sts.example.test"}), BLOCKED)

    async def body() -> None:
        assert await blind.book.policy_of("example.test") is None
        await Desk(names(), POLICY).book.policy_of("example.test")
        blind.now = timezone.now()
        assert await blind.book.policy_of("example.test") == POLICY

    asyncio.run(body())
