"""Domains: made, verified by a real DNS server, verified again on a schedule, given up."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.conf import LazySettings
from django.db import connection
from django.utils import timezone

from accounts import dkim, domains, tasks
from accounts.addresses import Found, may_send_as, resolve
from accounts.dns.memory import MemoryResolver
from accounts.dns_records import Record, records_of
from accounts.models import Alias, Domain, Organization, TrailEntry, User
from accounts.names import parse_address
from accounts.tests.zone import Zone, serving


@pytest.fixture
def shop(db: None, settings: LazySettings) -> Organization:
    settings.SMTP_HOSTNAME = "mail.host.example"
    return Organization.objects.create(name="Shop")


@pytest.fixture
def domain(shop: Organization) -> Domain:
    return domains.create("shop.example", shop, actor="jane")


@pytest.fixture
def zone(settings: LazySettings) -> Iterator[Zone]:
    with serving(Zone()) as running:
        settings.DNS_SERVERS = [running.address]
        yield running


def publish(zone: Zone, records: list[Record]) -> None:
    zone.records.clear()
    for record in records:
        text = record.zone_line.split(f" IN {record.type} ")[1]
        zone.records.setdefault((record.name, record.type), []).append(text)


def due(domain: Domain) -> None:
    Domain.objects.filter(pk=domain.pk).update(next_check_at=timezone.now() - dt.timedelta(minutes=1))


def kinds() -> list[str]:
    return list(TrailEntry.objects.order_by("pk").values_list("kind", flat=True))


def test_a_new_domain_is_pending_and_not_usable(domain: Domain) -> None:
    assert (domain.status, domain.is_usable, len(domain.verification_token)) == ("pending", False, 32)
    assert resolve(parse_address("a@shop.example")).found is Found.FOREIGN
    assert kinds() == ["domain.created", "dkim_key.created"]


def test_each_domain_has_a_token_of_its_own(shop: Organization) -> None:
    made = [Domain.objects.create(name=f"d{number}.example", organization=shop) for number in range(5)]
    tokens = {domain.verification_token for domain in made}
    assert len(tokens) == 5


def test_a_name_is_taken_once(domain: Domain, shop: Organization) -> None:
    with pytest.raises(domains.NameTaken, match="exists"):
        domains.create("shop.example", shop, actor="")
    assert Domain.objects.count() == 1


def test_nobody_takes_a_domain_in_which_others_have_addresses(shop: Organization) -> None:
    User.objects.create_user("stranger", "s@taken.example")
    with pytest.raises(domains.NameTaken, match="outside"):
        domains.create("taken.example", shop, actor="")


def test_published_as_told_it_is_verified_and_takes_mail(domain: Domain, zone: Zone) -> None:
    publish(zone, records_of(domain))
    results = domains.verify(domain, actor="jane", client="192.0.2.1")
    assert {result.state for result in results} == {"ok"}
    assert domain.status == "verified" and domain.verified_at is not None and domain.last_checked_at is not None
    assert resolve(parse_address("a@shop.example")).found is Found.UNKNOWN_USER
    entry = TrailEntry.objects.get(kind="domain.verified")
    assert (entry.actor, entry.subject, entry.client_address) == ("jane", "shop.example", "192.0.2.1")


def test_a_record_that_is_not_there_fails_the_domain_and_says_which(domain: Domain, zone: Zone) -> None:
    records = records_of(domain)
    publish(zone, [record for record in records if record.purpose != "ownership"])
    domains.verify(domain, actor="jane")
    assert domain.status == "failed" and domain.verified_at is None and not domain.is_usable
    states = {result["purpose"]: result["status"] for result in domain.check_results}
    assert states == {"ownership": "missing", "mx": "ok", "spf": "ok", "dkim": "ok", "dmarc": "ok"}
    assert "OWNERSHIP" in TrailEntry.objects.get(kind="domain.failed").detail


def test_what_was_just_published_is_seen_at_once(domain: Domain, zone: Zone) -> None:
    domains.verify(domain, actor="jane")
    assert domain.status == "failed"
    publish(zone, records_of(domain))
    domains.verify(domain, actor="jane")
    assert domain.status == "verified"


def test_a_later_failure_warns_and_stops_no_mail(domain: Domain, zone: Zone, shop: Organization) -> None:
    jane = User.objects.create_user("jane", "jane@shop.example", organization=shop)
    publish(zone, records_of(domain))
    domains.verify(domain, actor="jane")
    zone.records.clear()
    domains.verify(domain, actor="jane")
    assert (domain.status, domain.is_usable) == ("failed", True)
    assert resolve(parse_address("jane@shop.example")).found is Found.MAILBOX
    assert may_send_as(jane, parse_address("info@shop.example"))
    assert "stays usable" in TrailEntry.objects.get(kind="domain.failed").detail
    assert Domain.objects.filter(Domain.USABLE).exists()


def test_dns_that_is_away_changes_no_status(domain: Domain, zone: Zone) -> None:
    publish(zone, records_of(domain))
    domains.verify(domain, actor="jane")
    zone.broken = {(record.name, record.type) for record in records_of(domain)}
    domains.verify(domain, actor="jane")
    assert domain.status == "verified"
    assert {result["status"] for result in domain.check_results} == {"unavailable"}
    assert kinds().count("domain.verified") == 1 and "domain.failed" not in kinds()


def test_a_domain_that_only_sends_needs_no_mx(shop: Organization, zone: Zone) -> None:
    domain = domains.create("send.example", shop, accepts_mail=False, actor="")
    publish(zone, records_of(domain))
    domains.verify(domain, actor="")
    assert domain.status == "verified" and ("send.example", "MX") not in zone.asked


def test_both_keys_that_sign_must_be_published_and_prepared_ones_may(domain: Domain, zone: Zone) -> None:
    signing = [record for record in records_of(domain) if record.purpose == "dkim"]
    assert len(signing) == 2 and all(record.required for record in signing)
    others = [record for record in records_of(domain) if record.purpose != "dkim"]
    publish(zone, [*others, signing[0]])
    domains.verify(domain, actor="")
    assert domain.status == "failed" and "DKIM" in TrailEntry.objects.get(kind="domain.failed").detail
    publish(zone, [*others, *signing])
    domains.verify(domain, actor="")
    assert domain.status == "verified"
    dkim.prepare(domain)
    assert [record.required for record in records_of(domain) if record.purpose == "dkim"].count(False) == 2
    domains.verify(domain, actor="")
    assert domain.status == "verified"


def test_domains_are_checked_again_when_their_time_has_come(domain: Domain, zone: Zone, shop: Organization) -> None:
    publish(zone, records_of(domain))
    Domain.objects.create(name="later.example", organization=shop, next_check_at=domain.next_check_at)
    due(domain)
    assert domains.verify_due() == 1
    domain.refresh_from_db()
    assert domain.status == "verified" and domain.next_check_at > timezone.now()
    assert TrailEntry.objects.get(kind="domain.verified").actor == "schedule"
    assert domains.verify_due() == 0


def test_a_domain_that_is_off_is_left_alone(domain: Domain) -> None:
    due(domain)
    Domain.objects.update(is_active=False)
    assert domains.verify_due(MemoryResolver()) == 0


def test_a_check_of_a_domain_that_went_meanwhile_is_forgotten(domain: Domain) -> None:
    gone = Domain.objects.get(pk=domain.pk)
    domain.delete()
    domains.verify(gone, actor="", resolver=MemoryResolver())
    assert not Domain.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_of_two_processes_each_takes_other_domains(settings: LazySettings) -> None:
    shop = Organization.objects.create(name="Shop")
    for number in range(30):
        due(Domain.objects.create(name=f"d{number}.example", organization=shop))

    def run(_: int) -> int:
        try:
            return domains.verify_due(MemoryResolver())
        finally:
            connection.close()

    with ThreadPoolExecutor(3) as threads:
        assert sum(threads.map(run, range(3))) == 30


def test_the_next_check_is_spread_and_soon_only_while_a_domain_is_young(settings: LazySettings) -> None:
    settings.DOMAIN_CHECK_INTERVAL = 86400.0
    now = timezone.now()
    hour, day = dt.timedelta(hours=1), dt.timedelta(days=1)
    young = Domain(created_at=now - day)
    assert domains.next_check_at(young, now, lambda: 0.5) == now + hour
    assert domains.next_check_at(young, now, lambda: 0.0) == now + 0.8 * hour
    old, verified = Domain(created_at=now - 30 * day), Domain(created_at=now - day, verified_at=now)
    for domain in (old, verified):
        assert domains.next_check_at(domain, now, lambda: 0.5) == now + day
    assert domains.next_check_at(verified, now, lambda: 1.0) == now + 1.2 * day


@pytest.mark.django_db(transaction=True)
def test_the_task_returns_at_once_and_checks_in_a_thread(settings: LazySettings) -> None:
    shop = Organization.objects.create(name="Shop")
    domain = domains.create("shop.example", shop, actor="")
    due(domain)
    with serving(Zone()) as zone:
        settings.DNS_SERVERS = [zone.address]
        tasks.verify_domains()
        with tasks._verifying:  # it is let go at the end of the run
            pass
        ends_at = timezone.now() + dt.timedelta(seconds=20)
        while domain.last_checked_at is None and timezone.now() < ends_at:
            domain.refresh_from_db()
    assert domain.status == "failed"


def test_a_domain_is_given_up_with_its_aliases_but_not_while_mailboxes_are_in_it(
    domain: Domain, shop: Organization
) -> None:
    Alias.objects.create(domain=domain, local_part="sales", targets=["a@b.example"])
    jane = User.objects.create_user("jane", "jane@shop.example", organization=shop)
    with pytest.raises(domains.InUse, match="1 mailbox has"):
        domains.delete(domain, actor="root")
    jane.delete()
    domains.delete(domain, actor="root")
    assert not Domain.objects.exists() and not Alias.objects.exists()
    assert TrailEntry.objects.get(kind="domain.deleted").detail == "With 1 alias."
