"""What is published, and what a check makes of what it finds (RFC 7208, RFC 7489, RFC 6376, RFC 5321)."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from accounts.dns.memory import MemoryResolver
from accounts.dns_checks import Result, State, check
from accounts.dns_records import Purpose, Record, records_of
from accounts.models import Domain, Organization
from accounts.spf_terms import Reach, spf_records

HOST = "mail.host.example"
NAME = "shop.example"
OWNERSHIP = Record(Purpose.OWNERSHIP, "TXT", f"_mailproj.{NAME}", "mailproj-verification=abc")
MX = Record(Purpose.MX, "MX", NAME, HOST, 10)
SPF = Record(Purpose.SPF, "TXT", NAME, f"v=spf1 a:{HOST} ~all")
DKIM = Record(Purpose.DKIM, "TXT", f"s1._domainkey.{NAME}", "v=DKIM1; k=rsa; t=s; p=QUJD")
DMARC = Record(Purpose.DMARC, "TXT", f"_dmarc.{NAME}", "v=DMARC1; p=none")


def texts(name: str, *values: str) -> MemoryResolver:
    return MemoryResolver(texts={name: list(values), NAME: ["here"]} if name != NAME else {name: list(values)})


def checked(record: Record, resolver: MemoryResolver) -> Result:
    return asyncio.run(check([record], resolver))[0]


def state(record: Record, *values: str) -> State:
    return checked(record, texts(record.name, *values)).state


@pytest.mark.django_db
def test_the_records_to_publish_are_exact(settings: object) -> None:
    settings.SMTP_HOSTNAME = HOST  # type: ignore[attr-defined]
    organization = Organization.objects.create(name="Shop")
    domain = Domain.objects.create(name=NAME, organization=organization, verification_token="abc")
    lines = [record.zone_line for record in records_of(domain)]
    assert lines == [
        f'_mailproj.{NAME}. 3600 IN TXT "mailproj-verification=abc"',
        f"{NAME}. 3600 IN MX 10 {HOST}.",
        f'{NAME}. 3600 IN TXT "v=spf1 a:{HOST} ~all"',
        f'_dmarc.{NAME}. 3600 IN TXT "v=DMARC1; p=none; rua=mailto:postmaster@{NAME}"',
    ]
    domain.accepts_mail = False
    assert Purpose.MX not in [record.purpose for record in records_of(domain)]


def test_a_long_text_is_cut_into_strings_of_255_octets() -> None:
    record = replace(DKIM, value="v=DKIM1; p=" + "A" * 400)
    strings = record.zone_line.split(" IN TXT ")[1].split('" "')
    assert [len(string.strip('"')) for string in strings] == [255, 156]


@pytest.mark.parametrize("record", [OWNERSHIP, SPF, DKIM, DMARC])
def test_what_is_expected_is_right_and_nothing_is_missing(record: Record) -> None:
    assert state(record, "other text", record.value) is State.OK
    assert state(record) is State.MISSING


@pytest.mark.parametrize(
    ("record", "values", "expected"),
    [
        (OWNERSHIP, ["mailproj-verification=abd"], State.WRONG),
        (DKIM, ["v=DKIM1; k=rsa; p=QUJ D"], State.OK),
        (DKIM, ["v=DKIM1; k=rsa; p=QUJE"], State.WRONG),
        (DKIM, ["v=DKIM1; k=ed25519; p=QUJD"], State.WRONG),
        (DKIM, ["v=DKIM1; k=rsa; p="], State.WRONG),
        (DMARC, ["v=DMARC1; p=reject; sp=none"], State.OK),
        (DMARC, ["v=DMARC1;p = quarantine"], State.OK),
        (DMARC, ["v=DMARC1; sp=reject"], State.WRONG),
        (DMARC, ["v=DMARC1; p=maybe"], State.WRONG),
        (DMARC, ["v=DMARC1; p=none", "v=DMARC1; p=reject"], State.WRONG),
        (DMARC, ["v=dmarc1; p=none"], State.MISSING),
        (SPF, ["v=spf1 mx -all"], State.WRONG),
        (SPF, [f"v=spf1 a:{HOST} -all", "v=spf1 -all"], State.WRONG),
        (SPF, [f"v=spf1 -a:{HOST} ~all"], State.WRONG),
        (SPF, [f"V=SPF1 +A:{HOST.upper()} -ALL"], State.OK),
        (SPF, [f"v=spf1a:{HOST}"], State.MISSING),
    ],
)
def test_what_was_found_is_judged(record: Record, values: list[str], expected: State) -> None:
    assert state(record, *values) is expected


def test_any_preference_of_our_host_will_do_and_a_null_mx_will_not() -> None:
    found = checked(MX, MemoryResolver(exchangers={NAME: [(20, HOST), (10, "other.example")]}))
    assert found.state is State.OK and found.found == ["10 other.example", f"20 {HOST}"]
    null = checked(MX, MemoryResolver(exchangers={NAME: [(0, "")]}))
    assert null.state is State.WRONG and null.found == ["0 ."] and HOST in null.words


def test_dns_that_does_not_answer_is_no_answer() -> None:
    resolver = MemoryResolver(hosts={NAME: []}, fail={f"txt {NAME}", f"mx {NAME}"})
    results = asyncio.run(check([MX, SPF, OWNERSHIP], resolver))
    assert [result.state for result in results] == [State.UNAVAILABLE, State.UNAVAILABLE, State.MISSING]


def test_a_crowded_name_does_not_fill_the_answer() -> None:
    told = checked(OWNERSHIP, texts(OWNERSHIP.name, *["x" * 5000] * 50)).as_json()
    assert len(told["found"]) == 10 and max(map(len, told["found"])) == 600


# --- SPF: whether a record names our host ---

NET = MemoryResolver(
    exchangers={NAME: [(10, HOST)], "their.example": [(10, "mx.their.example")]},
    hosts={HOST: ["192.0.2.5", "2001:db8::5"], "twin.example": ["192.0.2.5"], "other.example": ["198.51.100.1"]},
    texts={
        "_spf.host.example": [f"v=spf1 a:{HOST} -all"],
        "_deep.example": ["v=spf1 include:_spf.host.example -all"],
        "_two.example": ["v=spf1 -all", "v=spf1 +all"],
        "_loop.example": ["v=spf1 include:_loop.example -all"],
    },
)


@pytest.mark.parametrize(
    ("terms", "names"),
    [
        (f"a:{HOST}", True),
        (f"a:{HOST}/24", True),
        ("a:twin.example", True),
        ("a:other.example", False),
        ("mx", True),
        ("mx:their.example", False),
        ("ip4:192.0.2.0/24", True),
        ("ip4:192.0.2.5", True),
        ("ip6:2001:db8::/32", True),
        ("ip4:198.51.100.0/24", False),
        ("ip4:nonsense", False),
        ("include:_spf.host.example", True),
        ("include:_deep.example", True),
        ("include:_two.example", False),
        ("include:_loop.example", False),
        ("include:nowhere.invalid", False),
        ("include:%{d}._spf.example", False),
        ("-mx", False),
        ("?mx", False),
        ("redirect=_spf.host.example", True),
        ("all", False),
        ("", False),
    ],
)
def test_a_record_names_our_host_or_does_not(terms: str, names: bool) -> None:
    assert asyncio.run(Reach(NET, HOST).names_host(f"v=spf1 {terms} ~all", NAME)) is names


def test_no_more_is_asked_than_receivers_do() -> None:
    resolver = replace(NET, asked=[])
    record = "v=spf1 " + " ".join(f"include:a{number}.example" for number in range(50))
    assert not asyncio.run(Reach(resolver, HOST).names_host(record, NAME))
    assert len(resolver.asked) == 10


def test_only_spf_records_are_taken_for_some() -> None:
    assert spf_records(["v=spf1", "v=spf1 -all", "v=spf10 -all", "spf1", ""]) == ["v=spf1", "v=spf1 -all"]
