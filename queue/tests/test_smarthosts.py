"""Smarthosts in the database: their admin page, their sealed passwords, and mail that goes by them."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import pytest
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts import sealed, verp
from accounts.dns.memory import MemoryResolver
from accounts.models import Organization, TrailEntry, User
from accounts.names import parse_address
from mailflow.models import Message
from queue import router, smarthosts
from queue.hops import Destination
from queue.models import Attempt, Entry, SmartHost
from queue.outcome import Outcome, from_reply
from queue.tests.conftest import drain, open_entries, running_engine, wait_until
from queue.tests.outbound import options
from queue.tests.peers import Peer
from queue.transports.base import Job, Route
from queue.transports.memory import MemoryTransport
from queue.transports.smtp import SmtpTransport

pytestmark = pytest.mark.django_db
Accept = Callable[..., list[int]]
FIELDS = {"domain": "x.example", "host": "Relay.Example.", "port": 587, "tls": "required", "username": "us",
          "password": " swordfish ", "is_active": "on"}  # fmt: skip
ADD = reverse("admin:queue_smarthost_add")


@pytest.fixture
def browser(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("root", "root@example.com", "x"))
    return client


def errors(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 200, "it was saved"
    return dict(answer.context["adminform"].form.errors)


def test_a_smarthost_is_made_and_its_password_is_never_shown(browser: Client) -> None:
    assert browser.post(ADD, FIELDS).status_code == 302
    row = SmartHost.objects.get()
    assert (row.host, row.relay.username, row.relay.password) == ("relay.example", "us", " swordfish ")
    assert "swordfish" not in row.sealed_password
    page = browser.get(reverse("admin:queue_smarthost_change", args=[row.pk])).content.decode()
    assert "swordfish" not in page and row.sealed_password not in page
    assert "relay.example" in browser.get(reverse("admin:queue_smarthost_changelist")).content.decode()


def test_a_password_stays_until_another_is_given_but_not_for_another_host(browser: Client) -> None:
    browser.post(ADD, FIELDS)
    row = SmartHost.objects.get()
    page = reverse("admin:queue_smarthost_change", args=[row.pk])
    assert browser.post(page, {**FIELDS, "password": "", "port": 2525}).status_code == 302
    row.refresh_from_db()
    assert (row.port, row.relay.password) == (2525, " swordfish ")
    for change in ({"host": "elsewhere.example"}, {"username": "them"}):
        assert "password" in errors(browser.post(page, {**FIELDS, "password": "", **change}))
    assert browser.post(page, {**FIELDS, "password": "", "username": ""}).status_code == 302
    row.refresh_from_db()
    assert row.sealed_password == ""


def test_what_is_done_with_smarthosts_is_in_the_trail_without_passwords(browser: Client) -> None:
    browser.post(ADD, FIELDS)
    page = {"host": "relay.example", "password": "new swordfish"}
    browser.post(reverse("admin:queue_smarthost_change", args=[SmartHost.objects.get().pk]), FIELDS | page)
    browser.post(reverse("admin:queue_smarthost_delete", args=[SmartHost.objects.get().pk]), {"post": "yes"})
    lines = TrailEntry.objects.order_by("pk").values_list("kind", "actor", "subject", "client_address", "detail")
    who = ("root", "relay.example:587", "127.0.0.1")
    assert list(lines) == [
        ("smarthost.created", *who, "Mail to x.example, TLS required."),
        ("smarthost.changed", *who, "Changed: password."),
        ("smarthost.deleted", *who, "Mail to x.example, TLS required."),
    ]


def test_whoever_changes_the_host_in_the_database_gets_no_password() -> None:
    row = SmartHost(host="relay.example", username="us", domain="x.example")
    row.set_password("secret")
    row.host = "thief.example"
    row.save()
    with pytest.raises(sealed.CannotOpen):
        _ = row.relay
    found = smarthosts.load().find(Destination("x.example"))
    assert found is not None and "cannot be read" in found.trouble and found.relay.password == ""


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"host": "no host"}, "host"),
        ({"host": "relay.example:25"}, "host"),
        ({"host": "LOCALHOST"}, "host"),
        ({"port": 0}, "port"),
        ({"port": 65536}, "port"),
        ({"username": ""}, "username"),
        ({"password": ""}, "password"),
        ({"tls": "never"}, "tls"),
        ({"tls": "sometimes"}, "tls"),
        ({"domain": "no domain"}, "domain"),
    ],
)
def test_a_wrong_field_is_named(browser: Client, change: dict[str, Any], field: str) -> None:
    assert field in errors(browser.post(ADD, {**FIELDS, **change}))
    assert not SmartHost.objects.exists()


def test_there_is_one_override_for_each_scope(browser: Client) -> None:
    organization = Organization.objects.create(name="Example")
    for scope in ({}, {"domain": "", "organization": organization.pk}):
        assert browser.post(ADD, {**FIELDS, **scope}).status_code == 302
        assert "already" in str(errors(browser.post(ADD, {**FIELDS, "is_active": "", **scope})))
    both = {"domain": "y.example", "organization": organization.pk}
    assert "not both" in str(errors(browser.post(ADD, {**FIELDS, **both})))
    for _ in range(2):  # any number may lend their accounts
        assert browser.post(ADD, {**FIELDS, "domain": ""}).status_code == 302
    with pytest.raises(IntegrityError), transaction.atomic():
        SmartHost.objects.create(domain="x.example", host="other.example")


def test_all_are_read_with_one_query_and_those_switched_off_are_left_out(django_assert_num_queries: Any) -> None:
    organization = Organization.objects.create(name="Example")
    SmartHost.objects.create(domain="x.example", host="a.example")
    SmartHost.objects.create(organization=organization, host="b.example", port=465, tls="implicit")
    SmartHost.objects.create(domain="off.example", host="c.example", is_active=False)
    with django_assert_num_queries(1):
        found = smarthosts.load()
    assert sorted(found.by_domain) == ["x.example"]
    assert found.by_organization[organization.pk].relay.label == "the smarthost b.example:465"
    assert sorted(found.by_address) == [("a.example", 587), ("b.example", 465)]


# --- mail ---


@pytest.fixture
def peers() -> Iterator[dict[str, Peer]]:
    """Hosts that take mail, by what they are for."""
    first, second, third = Peer(extensions=["AUTH PLAIN"]), Peer(), Peer()
    with first.in_thread(), second.in_thread(), third.in_thread():
        yield {"domain": first, "organization": second, "route": third}


@pytest.mark.django_db(transaction=True)
def test_each_recipient_goes_the_way_that_is_nearest(
    alice: User, accept: Accept, peers: dict[str, Peer], settings: Any
) -> None:
    row = SmartHost(domain="x.example", host="127.0.0.1", port=peers["domain"].port, username="us", tls="opportunistic")
    row.set_password("secret")
    row.save()
    SmartHost.objects.create(
        organization=alice.organization, host="127.0.0.1", port=peers["organization"].port, tls="never"
    )
    accept("one@x.example", "two@y.example", "three@x.example", "four@x.example")
    Message.objects.update(organization_id=alice.organization_id)
    Entry.objects.filter(recipient="three@x.example").update(route=f"127.0.0.1:{peers['route'].port}")
    settings.OUTBOUND_ALLOWED_NETWORKS = [ipaddress.ip_network("127.0.0.0/8")]  # the chosen route is checked
    with running_engine(SmtpTransport(options()), MemoryResolver()):
        wait_until(lambda: open_entries() == 0)
    taken = {
        name: sorted(one for message in peer.messages for one in message.recipients) for name, peer in peers.items()
    }
    assert taken == {
        "domain": ["four@x.example", "one@x.example"],
        "organization": ["two@y.example"],
        "route": ["three@x.example"],
    }
    assert "AUTH PLAIN AHVzAHNlY3JldA==" in peers["domain"].commands
    rules = dict(Attempt.objects.values_list("entry__recipient", "tls_policy"))
    assert (rules["one@x.example"], rules["two@y.example"]) == ("opportunistic", "never")


@pytest.mark.django_db(transaction=True)
def test_a_new_override_is_taken_over_while_the_engine_runs(alice: User, accept: Accept) -> None:
    resolver = MemoryResolver(hosts={"y.example": ["93.184.216.1"], "new.example": ["93.184.216.2"]})
    with running_engine(transport := MemoryTransport(), resolver) as engine:
        engine.ring(accept("one@y.example"))
        wait_until(lambda: len(transport.jobs) == 1)
        SmartHost.objects.create(domain="y.example", host="new.example")

        def goes_the_new_way() -> bool:
            count = len(transport.jobs)
            engine.ring(accept("two@y.example"))
            wait_until(lambda: len(transport.jobs) > count)
            return transport.jobs[-1][1].relay is not None

        wait_until(goes_the_new_way)
    hosts = [[hop.host for hop in route.hops] for _, route in transport.jobs]
    assert hosts[0] == ["y.example"] and hosts[-1] == ["new.example"]


def jobs_of(transport: MemoryTransport) -> list[list[str]]:
    return sorted(sorted(job.recipients) for job, _ in transport.jobs)


@pytest.mark.django_db(transaction=True)
def test_a_message_goes_to_a_smarthost_once_for_all_domains(accept: Accept, settings: Any) -> None:
    settings.RELAY_HOST = "192.0.2.25"
    SmartHost.objects.create(domain="own.example", host="192.0.2.26")
    settings.OUTBOUND_ALLOWED_NETWORKS = [ipaddress.ip_network("192.0.2.0/24")]  # the chosen route is checked
    accept(*(f"r{number}@d{number}.example" for number in range(20)), "a@own.example", "b@own.example")
    chosen = accept("one@p.example", "two@q.example")
    Entry.objects.filter(pk__in=chosen).update(route="192.0.2.27:25")
    with running_engine(transport := MemoryTransport(), MemoryResolver()):
        wait_until(lambda: open_entries() == 0)
    by_host = {route.hops[0].address: sorted(job.recipients) for job, route in transport.jobs}
    assert len(transport.jobs) == 3
    assert by_host["192.0.2.25"] == sorted(f"r{number}@d{number}.example" for number in range(20))
    assert by_host["192.0.2.26"] == ["a@own.example", "b@own.example"]
    assert by_host["192.0.2.27"] == ["one@p.example", "two@q.example"]


@pytest.mark.django_db(transaction=True)
def test_one_of_them_that_is_refused_for_now_comes_again_alone(accept: Accept, settings: Any) -> None:
    settings.RELAY_HOST = "192.0.2.25"
    accept("a@x.example", "b@y.example")
    transport = MemoryTransport()
    transport.script["b@y.example"].append(from_reply(451, "4.7.1 not now", transport="memory", next_hop="memory"))
    with running_engine(transport, MemoryResolver()):
        wait_until(lambda: Attempt.objects.count() == 2)
    assert jobs_of(transport) == [["a@x.example", "b@y.example"]]
    assert dict(Entry.objects.values_list("recipient", "status")) == {
        "a@x.example": "delivered",
        "b@y.example": "retry",
    }


@pytest.mark.django_db(transaction=True)
def test_without_a_smarthost_each_domain_gets_it_from_us(accept: Accept) -> None:
    accept("a@x.example", "b@y.example")
    hosts = {"x.example": ["93.184.216.1"], "y.example": ["93.184.216.1"]}
    with running_engine(transport := MemoryTransport(), MemoryResolver(hosts=hosts)):
        wait_until(lambda: open_entries() == 0)
    assert jobs_of(transport) == [["a@x.example"], ["b@y.example"]]


@pytest.mark.django_db(transaction=True)
def test_who_was_put_together_by_what_has_changed_meanwhile_goes_its_own_way(
    accept: Accept, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.RELAY_HOST = "192.0.2.25"
    monkeypatch.setattr(router, "OVERRIDES_HOLD_SECONDS", 0.0)  # they are read anew for each delivery, not to join some
    with running_engine(transport := MemoryTransport(), MemoryResolver()) as engine:
        wait_until(
            lambda: cast(router.Router, engine._router)._overrides is not None
        )  # what its next message is put together by
        SmartHost.objects.create(domain="y.example", host="192.0.2.26")
        engine.ring(accept("a@x.example", "b@y.example", "c@z.example"))
        wait_until(lambda: open_entries() == 0)
    by_host = {route.hops[0].address: sorted(job.recipients) for job, route in transport.jobs}
    assert by_host == {"192.0.2.25": ["a@x.example", "c@z.example"], "192.0.2.26": ["b@y.example"]}


class OneHangs(MemoryTransport):
    """While the gate is cleared, who goes to the given host waits."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address

    async def deliver(self, job: Job, route: Route) -> Mapping[str, Outcome]:
        if route.hops[0].address == self.address:
            return await super().deliver(job, route)
        self.jobs.append((job, route))
        return {recipient: self._answer(recipient) for recipient in job.recipients}


@pytest.mark.django_db(transaction=True)
def test_who_goes_another_way_waits_for_no_host_but_its_own(
    accept: Accept, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.RELAY_HOST = "192.0.2.25"
    monkeypatch.setattr(router, "OVERRIDES_HOLD_SECONDS", 0.0)
    transport = OneHangs("192.0.2.26")
    transport.gate.clear()
    with running_engine(transport, MemoryResolver()) as engine:
        wait_until(
            lambda: cast(router.Router, engine._router)._overrides is not None
        )  # what its next message is put together by
        for domain, host in (("x.example", "192.0.2.26"), ("y.example", "192.0.2.27")):
            SmartHost.objects.create(domain=domain, host=host)
        engine.ring(accept("a@x.example", "b@y.example"))
        try:
            wait_until(lambda: Entry.objects.filter(recipient="b@y.example", status="delivered").exists())
            assert Entry.objects.get(recipient="a@x.example").status == "pending"
        finally:
            transport.gate.set()
        wait_until(lambda: open_entries() == 0 and not engine._held.loaded_octets and not engine._pacer.begun)
    assert jobs_of(transport) == [["a@x.example"], ["b@y.example"]]


@pytest.mark.django_db(transaction=True)
def test_who_is_set_apart_and_was_put_on_hold_meanwhile_is_held(
    accept: Accept, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.RELAY_HOST = "192.0.2.25"
    monkeypatch.setattr(router, "OVERRIDES_HOLD_SECONDS", 0.0)
    load = smarthosts.load

    def hold_and_load() -> smarthosts.Smarthosts:
        Entry.objects.filter(held_at=None).update(held_at=timezone.now(), hold_reason="root")
        return load()

    with running_engine(transport := MemoryTransport(), MemoryResolver()) as engine:
        wait_until(lambda: cast(router.Router, engine._router)._overrides is not None)
        SmartHost.objects.create(domain="y.example", host="192.0.2.26")
        monkeypatch.setattr(smarthosts, "load", hold_and_load)
        engine.ring(accept("a@x.example", "b@y.example"))
        wait_until(lambda: transport.jobs and not Entry.objects.exclude(lease="").exists())
    assert len(transport.jobs) == 1  # whose turn it was
    assert sorted(Entry.objects.values_list("status", "next_attempt_at")) == [("delivered", None), ("pending", None)]


@pytest.mark.django_db(transaction=True)
def test_a_shutdown_amid_a_relays_transaction_gives_all_of_it_back(accept: Accept, settings: Any) -> None:
    settings.RELAY_HOST = "192.0.2.25"
    transport = MemoryTransport()
    transport.gate.clear()
    with running_engine(transport, MemoryResolver()) as engine:
        engine.ring(accept("a@x.example", "b@y.example", "c@z.example"))
        wait_until(lambda: transport.jobs)
        drain(engine, 0.1)
    transport.gate.set()
    assert jobs_of(transport) == [["a@x.example", "b@y.example", "c@z.example"]]
    assert set(Entry.objects.values_list("status", "lease", "attempts")) == {("pending", "", 0)}
    assert open_entries() == 3


@pytest.mark.django_db(transaction=True)
def test_the_relay_gets_them_in_one_transaction_and_what_it_says_of_one_counts_for_that_one(
    alice: User, accept: Accept, settings: Any
) -> None:
    settings.VERP = "all"
    peer = Peer(rcpt=["250 ok", "550 5.1.1 nobody", "250 ok"])
    with peer.in_thread():
        settings.RELAY_HOST, settings.RELAY_PORT, settings.RELAY_TLS = "127.0.0.1", peer.port, "never"
        accept("a@x.example", "b@y.example", "c@z.example")
        with running_engine(SmtpTransport(options()), MemoryResolver()):
            wait_until(lambda: Attempt.objects.count() >= 3)
    [message] = peer.messages
    assert len(message.recipients) == 2 and peer.connections == 1
    assert verp.looks_like_one(parse_address(message.mail_from))  # it names the message, as for those of one domain
    statuses = Entry.objects.filter(domain__in=["x.example", "y.example", "z.example"]).values_list("status", flat=True)
    assert sorted(statuses) == ["bounced", "delivered", "delivered"]
