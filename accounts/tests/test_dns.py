from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from accounts.dns.base import Answer, DnsUnavailable, MailExchanger, NoSuchDomain, Resolver, Tlsa
from accounts.dns.cache import AnswerCache
from accounts.dns.dnspython import DnsPythonResolver
from accounts.dns.memory import MemoryResolver
from accounts.tests.zone import Zone, serving


@pytest.fixture
def zone(served_zone: Zone) -> Zone:
    zone = served_zone
    zone.asked, zone.asked_by_tcp = [], 0
    zone.signed, zone.garbled = set(), {}
    zone.records = {
        ("example.test", "MX"): ["20 b.example.test.", "10 A.Example.test."],
        ("a.example.test", "A"): ["192.0.2.1", "192.0.2.2"],
        ("a.example.test", "AAAA"): ["2001:db8::1"],
        ("b.example.test", "AAAA"): ["2001:db8::2"],
        ("null.test", "MX"): ["0 ."],
        ("text.test", "TXT"): ['"nothing else"'],
        ("broken.test", "TXT"): ['"nothing else"'],
        ("www.alias.test", "CNAME"): ["a.example.test."],
    }
    zone.broken = {("broken.test", "MX"), ("broken.test", "A"), ("broken.test", "AAAA")}
    return zone


@pytest.fixture(scope="module")
def served_zone() -> Iterator[Zone]:
    with serving(Zone()) as zone:
        yield zone


@pytest.fixture
def server(zone: Zone) -> tuple[str, int]:
    return zone.address


@pytest.fixture(params=["memory", "dnspython"])
def resolver(request: pytest.FixtureRequest) -> Resolver:
    if request.param == "dnspython":
        return DnsPythonResolver([request.getfixturevalue("server")])
    return MemoryResolver(
        exchangers={"example.test": [(20, "b.example.test"), (10, "a.example.test")], "null.test": [(0, "")]},
        hosts={
            "a.example.test": ["2001:db8::1", "192.0.2.1", "192.0.2.2"],
            "b.example.test": ["2001:db8::2"],
            "text.test": [],
            "www.alias.test": ["192.0.2.1", "192.0.2.2", "2001:db8::1"],
        },
        fail={"mx broken.test", "addresses broken.test"},
    )


# --- the contract of every resolver ---


def test_exchangers_are_lower_case_without_trailing_dot(resolver: Resolver) -> None:
    found = asyncio.run(resolver.mx("Example.TEST."))
    assert sorted(found, key=lambda mx: mx.preference) == [
        MailExchanger(10, "a.example.test"),
        MailExchanger(20, "b.example.test"),
    ]


def test_the_null_mx_is_an_empty_host(resolver: Resolver) -> None:
    assert list(asyncio.run(resolver.mx("null.test"))) == [MailExchanger(0, "")]


def test_addresses_are_those_of_both_families_and_ipv6_comes_last(resolver: Resolver) -> None:
    found = asyncio.run(resolver.addresses("a.example.test"))
    assert sorted(found[:2]) == ["192.0.2.1", "192.0.2.2"]
    assert list(found[2:]) == ["2001:db8::1"]
    assert list(asyncio.run(resolver.addresses("b.example.test"))) == ["2001:db8::2"]


def test_an_alias_is_followed(resolver: Resolver) -> None:
    assert len(asyncio.run(resolver.addresses("www.alias.test"))) == 3


def test_a_name_without_such_a_record_answers_empty(resolver: Resolver) -> None:
    assert list(asyncio.run(resolver.mx("text.test"))) == []
    assert list(asyncio.run(resolver.addresses("text.test"))) == []
    assert list(asyncio.run(resolver.addresses("alias.test"))) == []


@pytest.mark.parametrize("name", ["nowhere.test", "example", "a..test", "x" * 64 + ".test", "y." * 130 + "test"])
def test_a_name_that_does_not_exist_is_said_to(resolver: Resolver, name: str) -> None:
    with pytest.raises(NoSuchDomain):
        asyncio.run(resolver.mx(name))
    with pytest.raises(NoSuchDomain):
        asyncio.run(resolver.addresses(name))


def test_a_failing_server_is_not_a_missing_name(resolver: Resolver) -> None:
    with pytest.raises(DnsUnavailable):
        asyncio.run(resolver.mx("broken.test"))
    with pytest.raises(DnsUnavailable):
        asyncio.run(resolver.addresses("broken.test"))


# --- the network's resolver ---


def test_one_family_is_enough_where_the_other_fails(zone: Zone, server: tuple[str, int]) -> None:
    zone.broken |= {("a.example.test", "AAAA"), ("text.test", "AAAA")}
    resolver = DnsPythonResolver([server])
    assert sorted(asyncio.run(resolver.addresses("a.example.test"))) == ["192.0.2.1", "192.0.2.2"]
    with pytest.raises(DnsUnavailable):
        asyncio.run(resolver.addresses("text.test"))


def test_a_silent_server_is_passed_over_for_the_next_on_another_port(server: tuple[str, int]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        both = DnsPythonResolver([silent.getsockname(), server], timeout_seconds=0.1)
        assert len(asyncio.run(both.mx("example.test"))) == 2
        alone = DnsPythonResolver([silent.getsockname()], timeout_seconds=0.1, lifetime_seconds=0.2)
        with pytest.raises(DnsUnavailable):
            asyncio.run(alone.mx("example.test"))


def test_a_truncated_answer_is_fetched_over_tcp(zone: Zone, server: tuple[str, int]) -> None:
    zone.records["many.test", "MX"] = [f"10 a-rather-long-name-for-a-host-{number}.many.test." for number in range(100)]
    assert len(asyncio.run(DnsPythonResolver([server]).mx("many.test"))) == 100
    assert zone.asked_by_tcp


@pytest.mark.parametrize(
    "answer",
    [b"", b"\x81\x80", b"\x81\x80" + b"\xff" * 200, b"\x81\x80\0\1\0\1\0\0\0\0" + b"\xc0\x0c" * 30],
    ids=["empty", "cut off", "garbage", "names that point at themselves"],
)
def test_an_answer_that_is_none_says_nothing_about_the_name(zone: Zone, server: tuple[str, int], answer: bytes) -> None:
    zone.garbled = {("example.test", "MX"): answer}
    with pytest.raises(DnsUnavailable):
        asyncio.run(DnsPythonResolver([server], timeout_seconds=0.3, lifetime_seconds=0.5).mx("example.test"))


def test_an_alias_that_leads_to_itself_says_nothing_about_the_name(zone: Zone, server: tuple[str, int]) -> None:
    zone.records["loop.test", "CNAME"] = ["loop.test."]
    with pytest.raises(DnsUnavailable):
        asyncio.run(DnsPythonResolver([server]).mx("loop.test"))


def test_texts_come_whole_and_tlsa_records_by_their_numbers(zone: Zone, server: tuple[str, int]) -> None:
    zone.records["long.test", "TXT"] = [f'"v=STSv1; " "id={"x" * 20};"', '"other"']
    zone.records["_25._tcp.mx.test", "TLSA"] = ["3 1 1 " + "ab" * 32, "250 251 252 00"]
    resolver = DnsPythonResolver([server])
    assert sorted(asyncio.run(resolver.txt("long.test"))) == ["other", "v=STSv1; id=" + "x" * 20 + ";"]
    found = asyncio.run(resolver.tlsa("_25._tcp.mx.test"))
    assert sorted(found, key=str) == [Tlsa(250, 251, 252, b"\0"), Tlsa(3, 1, 1, b"\xab" * 32)]


@pytest.mark.parametrize("validates", [True, False])
def test_only_a_resolver_that_validates_is_believed(zone: Zone, server: tuple[str, int], validates: bool) -> None:
    zone.records["half.test", "A"] = ["192.0.2.9"]
    zone.records["half.test", "CNAME"] = ["a.example.test."]
    zone.signed = {"example.test", "a.example.test", "text.test", "half.test"}
    resolver = DnsPythonResolver([server], validates=validates)
    assert asyncio.run(resolver.mx("example.test")).is_secure is validates
    assert asyncio.run(resolver.mx("text.test")).is_secure is validates  # that there is none is vouched for too
    assert asyncio.run(resolver.addresses("a.example.test")).is_secure is validates
    assert asyncio.run(resolver.addresses("b.example.test")).is_secure is False
    zone.signed.remove("a.example.test")
    again = DnsPythonResolver([server], validates=validates)
    assert asyncio.run(again.addresses("half.test")).is_secure is False
    assert asyncio.run(again.addresses("half.test")).name == "a.example.test"
    assert asyncio.run(again.is_signed_alias("half.test")) is False


def test_answers_are_kept_and_failures_are_not(zone: Zone, server: tuple[str, int]) -> None:
    resolver = DnsPythonResolver([server])

    async def ask() -> None:
        for _ in range(2):
            await resolver.mx("example.test")
            await resolver.mx("text.test")
            for name, error in (("nowhere.test", NoSuchDomain), ("broken.test", DnsUnavailable)):
                with pytest.raises(error):
                    await resolver.mx(name)

    asyncio.run(ask())
    counts = {name: zone.asked.count((name, "MX")) for name in ("example.test", "text.test", "nowhere.test")}
    assert counts == {"example.test": 1, "text.test": 1, "nowhere.test": 1}
    assert zone.asked.count(("broken.test", "MX")) == 2


# --- the cache ---


def test_the_cache_forgets_after_the_ttl_and_sooner_what_does_not_exist() -> None:
    now = [0.0]
    cache = AnswerCache(clock=lambda: now[0])
    cache.put(("a.test", "A"), Answer(["192.0.2.1"]), 10**9)
    cache.put(("b.test", "A"), None, 10**9)
    cache.put(("c.test", "A"), Answer(["192.0.2.1"]), 0)
    assert cache.get(("b.test", "A")) is None
    now[0] = 301.0
    assert cache.get(("a.test", "A")) == ("192.0.2.1",)
    for name in ("b.test", "c.test"):
        with pytest.raises(KeyError):
            cache.get((name, "A"))
    now[0] = 3601.0
    with pytest.raises(KeyError):
        cache.get(("a.test", "A"))


def test_the_cache_is_bounded_and_keeps_what_is_used() -> None:
    cache = AnswerCache(max_entries=3)
    for number in range(10):
        cache.put((f"{number}.test", "A"), Answer(), 60)
        cache.put(("used.test", "A"), Answer(), 60)
    assert len(cache) == 3
    assert cache.get(("used.test", "A")) == ()


@pytest.mark.parametrize("name", ["localhost", "LocalHost.", "app.localhost"])
def test_nobody_is_asked_for_this_machine(zone: Zone, server: tuple[str, int], name: str) -> None:
    found = asyncio.run(DnsPythonResolver([server]).addresses(name))
    assert list(found) == ["127.0.0.1", "::1"] and not found.is_secure and not zone.asked
