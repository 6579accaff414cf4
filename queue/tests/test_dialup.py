"""Mail for a dial-up domain waits for its host, however long; ETRN sends it there (RFC 1985, RFC 2645)."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from django.db.models import F
from django.utils import timezone

from accounts.dns.memory import MemoryResolver
from accounts.models import Domain, Organization, TrailEntry, User, WebhookDelivery
from accounts.webhooks import endpoints
from mailflow.models import Event, FiledMessage, Message
from queue import claim, control, dialup, settle
from queue.control import Action, Order
from queue.handoff import QueueHandoff
from queue.hops import Destination
from queue.models import Attempt, Entry
from queue.outcome import Kind, from_reply
from queue.results import left_to_host
from queue.routing import RoutingPolicy, resolve_route
from queue.smarthosts import Smarthost
from queue.tests.conftest import running_engine, wait_until
from queue.tests.outbound import LOOPBACK, options
from queue.tests.peers import Peer
from queue.tests.turned import DOMAIN
from queue.transports.base import Relay, Route
from queue.transports.memory import MemoryTransport
from queue.transports.smtp import SmtpTransport
from queue.transports.tls import TlsPolicy
from queue.waiting import waiting_for

pytestmark = pytest.mark.django_db(transaction=True)
Accept = Callable[..., list[int]]

TO = f"somebody@{DOMAIN}"
LATER = from_reply(451, "4.7.1 not now", transport="smtp", next_hop="host.example[192.0.2.1]:25")


@pytest.fixture
def domain(alice: User) -> Domain:
    assert alice.organization is not None
    return Domain.objects.create(
        name=DOMAIN,
        organization=alice.organization,
        is_trusted=True,
        delivery=Domain.Delivery.DIAL_UP,
        next_hop="127.0.0.1:2525",
    )


@pytest.fixture(autouse=True)
def _to_loopback(settings: Any) -> None:
    settings.OUTBOUND_ALLOWED_NETWORKS = [ipaddress.ip_network("127.0.0.0/8")]


def is_set_aside(count: int = 1) -> bool:
    return Entry.objects.filter(waits_for_host=True, lease="", retry_at__gt=timezone.now()).count() == count


def set_aside(accept: Accept, *recipients: str, **fields: Any) -> list[int]:
    """Accept mail and let an engine set it aside; return the entries' ids."""
    ids = accept(*(recipients or (TO,)), **fields)
    known = Entry.objects.filter(waits_for_host=True).count()
    with running_engine():
        wait_until(lambda: is_set_aside(known + len(ids)))
    return ids


def test_webhooks_hear_nothing_of_mail_that_merely_waits_for_its_host(domain: Domain, accept: Accept) -> None:
    endpoints.create(domain.organization, "https://example.com/", ["message.sent", "message.failed"])
    set_aside(accept)
    assert not WebhookDelivery.objects.exists()


def test_mail_for_a_dial_up_domain_waits_pending_without_an_attempt(domain: Domain, accept: Accept) -> None:
    transport = MemoryTransport()
    accept(TO, f"other@{DOMAIN}", f"postmaster@{DOMAIN}")
    with running_engine(transport):
        wait_until(lambda: is_set_aside(3))
    entry = Entry.objects.get(recipient=TO)
    assert (entry.status, entry.attempts, entry.last_reply) == ("pending", 0, "")
    assert waiting_for(entry, timezone.now()) == "the domain's own host to fetch it (ATRN or ETRN)"
    assert not transport.jobs and not Attempt.objects.exists()
    event = Event.objects.get(recipient=TO, kind="deferred")
    assert "it waits for its host to come or to ask for it (ATRN, ETRN)" in event.summary
    assert Message.objects.get().status == Message.Status.PROCESSING


def test_it_is_claimed_no_more_until_something_is_due(domain: Domain, accept: Accept, settings: Any) -> None:
    (entry_id,) = set_aside(accept)
    entry = Entry.objects.get(pk=entry_id)
    delay = entry.created_at + dt.timedelta(seconds=settings.QUEUE_DELAY_DSN_AFTER_SECONDS)
    assert (entry.next_attempt_at, entry.retry_at) == (delay, entry.expires_at)
    early = claim.claim("w", limit=9, now=delay - dt.timedelta(seconds=1), lease=dt.timedelta(minutes=1))
    assert early == []


def test_its_sender_hears_of_the_delay_once_and_of_the_end(domain: Domain, accept: Accept) -> None:
    (entry_id,) = set_aside(accept, sender="alice@example.com")
    past = timezone.now() - dt.timedelta(hours=5)
    Entry.objects.filter(pk=entry_id).update(created_at=past, next_attempt_at=timezone.now())
    with running_engine():
        wait_until(lambda: FiledMessage.objects.count() == 1)
        wait_until(is_set_aside)
        entry = Entry.objects.get(pk=entry_id)
        assert (entry.next_attempt_at, entry.status, entry.attempts) == (entry.expires_at, "pending", 0)
    last = timezone.now() - dt.timedelta(seconds=1)
    Entry.objects.filter(pk=entry_id).update(expires_at=last, retry_at=last, next_attempt_at=last)
    with running_engine():
        wait_until(lambda: FiledMessage.objects.count() == 2)
    entry.refresh_from_db()
    assert (entry.status, entry.attempts) == ("bounced", 0)
    assert entry.last_reply.startswith("The time within which its host could fetch it is over.")
    assert (
        "given up without another attempt; its host did not take it before" in Event.objects.get(kind="bounced").summary
    )


def test_a_senders_deadline_ends_it_too(domain: Domain, accept: Accept) -> None:
    (entry_id,) = accept(TO)
    soon = timezone.now() + dt.timedelta(hours=1)
    Entry.objects.update(deliver_by_at=soon, deliver_by_mode="R")
    with running_engine():
        wait_until(is_set_aside)
    assert Entry.objects.get().next_attempt_at == soon
    past = timezone.now() - dt.timedelta(seconds=1)
    Entry.objects.filter(pk=entry_id).update(deliver_by_at=past, next_attempt_at=past)
    with running_engine():
        wait_until(lambda: Entry.objects.get(pk=entry_id).status == "bounced")
    assert "(BY)" in Entry.objects.get(pk=entry_id).last_reply


def test_an_engine_that_dies_with_it_in_hand_makes_no_attempt_of_it(domain: Domain, accept: Accept) -> None:
    set_aside(accept)
    Entry.objects.update(lease="dead", next_attempt_at=timezone.now() - dt.timedelta(seconds=1))
    transport = MemoryTransport()
    with running_engine(transport):
        wait_until(is_set_aside)
    assert not transport.jobs and Event.objects.filter(kind="deferred").count() == 1


def test_etrn_sends_it_to_the_host_that_the_domain_gave(domain: Domain, accept: Accept) -> None:
    ids = set_aside(accept, TO, f"b@{DOMAIN}")
    with Peer().in_thread() as peer:
        Domain.objects.update(next_hop=f"127.0.0.1:{peer.port}")
        with running_engine(SmtpTransport(options())) as engine:
            assert QueueHandoff().start_domain(DOMAIN, actor="alice (ETRN)") == 2
            engine.ring(ids)
            wait_until(lambda: Entry.objects.filter(status="delivered").count() == 2)
    assert [message.recipients for message in peer.messages] == [(TO, f"b@{DOMAIN}")]
    assert set(Attempt.objects.values_list("transport", flat=True)) == {"smtp"}
    assert not Entry.objects.filter(waits_for_host=True).exists()


def test_etrn_takes_along_what_nobody_has_looked_at_yet(domain: Domain, accept: Accept) -> None:
    accept(TO)
    transport = MemoryTransport()
    QueueHandoff().start_domain(DOMAIN, actor="alice (ETRN)")
    line = TrailEntry.objects.get(kind="queue.etrn")
    assert (line.actor, line.subject, line.detail) == ("alice (ETRN)", DOMAIN, "1 recipient attempted at once.")
    with running_engine(transport):
        wait_until(lambda: Entry.objects.get().status == "delivered")
    ((_, route),) = transport.jobs
    assert [(hop.address, hop.port) for hop in route.hops] == [("127.0.0.1", 2525)]


def test_a_host_that_cannot_be_reached_is_waited_for_again_and_uses_no_attempts_up(
    domain: Domain, accept: Accept
) -> None:
    ids = set_aside(accept)
    Entry.objects.update(max_attempts=1)
    transport = MemoryTransport()
    transport.script[TO] = deque([LATER, LATER, LATER])
    with running_engine(transport) as engine:
        for count in (1, 2, 3):
            control.retry_now(Entry.objects.all(), actor="root")
            engine.ring(ids)
            wait_until(lambda count=count: Attempt.objects.count() == count and is_set_aside())  # type: ignore[misc]
    entry = Entry.objects.get()
    assert (entry.status, entry.attempts, entry.last_reply) == ("retry", 3, "4.7.1 not now")
    assert waiting_for(entry, timezone.now()) == "the domain's own host to fetch it (ATRN or ETRN)"


def test_a_permanent_refusal_by_the_host_ends_it(domain: Domain, accept: Accept) -> None:
    ids = set_aside(accept)
    transport = MemoryTransport()
    transport.script[TO] = deque([from_reply(550, "5.1.1 nobody", transport="smtp")])
    with running_engine(transport) as engine:
        control.retry_now(Entry.objects.all(), actor="root")
        engine.ring(ids)
        wait_until(lambda: Entry.objects.get(recipient=TO).status == "bounced")


@pytest.mark.parametrize("wake", ["delay", "deadline"])
def test_an_attempt_that_is_asked_for_at_a_time_outlasts_a_wake_before_it(
    domain: Domain, accept: Accept, wake: str
) -> None:
    (entry_id,) = set_aside(accept)
    now, minute = timezone.now(), dt.timedelta(minutes=1)
    if wake == "delay":
        Entry.objects.update(created_at=now - dt.timedelta(hours=4) + 9 * minute)
    else:
        Entry.objects.update(deliver_by_at=now + 9 * minute, deliver_by_mode="N")
    at = now + dt.timedelta(hours=1)
    control.carry_out(Order(Action.RETRY, "root", at=at), Entry.objects.all())
    assert Entry.objects.get(pk=entry_id).retry_at == at  # it is looked at before that
    Entry.objects.update(  # the time of the wake comes
        next_attempt_at=now, created_at=F("created_at") - 10 * minute, deliver_by_at=F("deliver_by_at") - 10 * minute
    )
    transport = MemoryTransport()
    with running_engine(transport) as engine:

        def rung() -> Entry:
            engine.ring([entry_id])
            return Entry.objects.get(pk=entry_id)

        wait_until(lambda: rung().delay_told_at)
        entry = Entry.objects.get(pk=entry_id)
        assert (entry.next_attempt_at, entry.retry_at, entry.waits_for_host) == (at, None, True)
        assert not transport.jobs
        Entry.objects.filter(pk=entry_id).update(next_attempt_at=timezone.now())  # that of the attempt comes
        wait_until(lambda: rung().status == "delivered")
    assert len(transport.jobs) == 1


def test_an_engine_that_comes_late_makes_the_attempt_at_once(domain: Domain, accept: Accept) -> None:
    (entry_id,) = set_aside(accept)
    past = timezone.now() - dt.timedelta(minutes=1)
    Entry.objects.update(created_at=past - dt.timedelta(hours=5), next_attempt_at=past, retry_at=past)
    transport = MemoryTransport()
    with running_engine(transport):
        wait_until(lambda: Entry.objects.get(pk=entry_id).status == "delivered")


def test_in_sandbox_mode_its_host_may_fetch_it_all_the_same(domain: Domain, accept: Accept, settings: Any) -> None:
    settings.DELIVERY_MODE = "sandbox"
    set_aside(accept)
    assert [parcel.recipient for parcel in dialup.Supply("w", [DOMAIN], dt.timedelta(minutes=1)).take(9)] == [TO]


def test_a_test_keys_mail_goes_to_the_simulated_internet_at_once(domain: Domain, accept: Accept, settings: Any) -> None:
    settings.DELIVERY_MODE = "live"
    accept(TO)
    Entry.objects.update(is_sandbox=True)
    transport = MemoryTransport()
    resolver = MemoryResolver()
    resolver.hosts[DOMAIN] = ["198.41.0.4"]
    with running_engine(transport, resolver):
        wait_until(lambda: Entry.objects.get().status == "delivered")
    assert dialup.Supply("w", [DOMAIN], dt.timedelta(minutes=1)).take(9) == []


def test_what_waits_is_released_when_its_domain_is_delivered_here_again(domain: Domain, accept: Accept) -> None:
    other = Domain.objects.create(
        name="other.example", organization=domain.organization, is_trusted=True, delivery="dial_up"
    )
    User.objects.create_user("bob", f"bob@{DOMAIN}", "x", organization=domain.organization)
    set_aside(accept, f"bob@{DOMAIN}", f"gone@{DOMAIN}", f"x@{other.name}")
    now = timezone.now()
    assert dialup.release_moved(now) == 0
    Domain.objects.filter(pk=domain.pk).update(delivery="local")
    assert dialup.release_moved(now) == 2
    with running_engine():
        wait_until(lambda: Entry.objects.filter(domain=DOMAIN, next_attempt_at=None).count() == 2)
    found = dict(Entry.objects.filter(domain=DOMAIN).values_list("recipient", "status"))
    assert found == {f"bob@{DOMAIN}": "delivered", f"gone@{DOMAIN}": "bounced"}
    assert Entry.objects.get(domain=other.name).waits_for_host


def test_the_sweep_releases_by_itself(domain: Domain, accept: Accept, settings: Any) -> None:
    settings.SWEEP_INTERVAL_SECONDS = 0.05
    User.objects.create_user("bob", f"bob@{DOMAIN}", "x", organization=domain.organization)
    set_aside(accept, f"bob@{DOMAIN}")
    Domain.objects.filter(pk=domain.pk).update(delivery="local")
    with running_engine():
        wait_until(lambda: FiledMessage.objects.count() == 1)


def test_release_needs_two_queries_for_each_domain_with_waiting_mail_and_two_more(
    domain: Domain, accept: Accept, django_assert_max_num_queries: Any
) -> None:
    set_aside(accept, *(f"n{number}@{DOMAIN}" for number in range(30)))
    with django_assert_max_num_queries(4):
        dialup.release_moved(timezone.now())


def test_a_supply_takes_each_entry_once_in_order_and_looks_again_for_new_ones(domain: Domain, accept: Accept) -> None:
    second = Domain.objects.create(name="second.example", organization=domain.organization, delivery="dial_up")
    ids = [accept(f"n{number}@{DOMAIN}")[0] for number in range(5)]
    of_second = accept(f"x@{second.name}")
    Entry.objects.filter(pk__in=ids[:3]).update(waits_for_host=True, retry_at=timezone.now() + dt.timedelta(days=1))
    supply = dialup.Supply("w", [DOMAIN, second.name], dt.timedelta(minutes=1))
    taken = [[parcel.entry_id for parcel in supply.take(2)] for _ in range(4)]
    assert taken == [ids[:2], ids[2:4], ids[4:], of_second]
    assert supply.take(2) == []
    parcels = claim.load(ids)
    settle.settle([left_to_host(parcel, timezone.now()) for parcel in parcels], worker="w")
    assert supply.take(2) == []  # deferred: not again in this session
    (late,) = accept(f"late@{DOMAIN}")
    assert [parcel.entry_id for parcel in supply.take(2)] == [late]


def test_what_a_person_put_on_hold_or_gave_another_way_is_not_fetched(
    domain: Domain, accept: Accept, settings: Any
) -> None:
    settings.DELIVERY_MODE = "live"
    held, rerouted, other = set_aside(accept, f"held@{DOMAIN}", f"rerouted@{DOMAIN}", TO)
    control.carry_out(Order(Action.HOLD, "root"), Entry.objects.filter(pk=held))
    control.carry_out(Order(Action.REROUTE, "root", route="127.0.0.1:26"), Entry.objects.filter(pk=rerouted))
    supply = dialup.Supply("w", [DOMAIN], dt.timedelta(minutes=1))
    assert [parcel.entry_id for parcel in supply.take(9)] == [other]
    control.carry_out(Order(Action.RELEASE, "root"), Entry.objects.filter(pk=held))
    entry = Entry.objects.get(pk=held)
    assert waiting_for(entry, timezone.now()) == "the domain's own host to fetch it (ATRN or ETRN)"
    transport = MemoryTransport()
    with running_engine(transport) as engine:
        control.retry_now(Entry.objects.filter(pk=rerouted), actor="root")
        engine.ring([rerouted])
        wait_until(lambda: Entry.objects.get(pk=rerouted).status == "delivered")
    ((_, route),) = transport.jobs
    assert [hop.port for hop in route.hops] == [26]


def test_what_is_put_on_hold_in_a_workers_hands_is_held_when_its_host_did_not_take_it(
    domain: Domain, accept: Accept
) -> None:
    (entry_id,) = accept(TO)
    (parcel,) = dialup.Supply("w", [DOMAIN], dt.timedelta(minutes=1)).take(9)
    control.carry_out(Order(Action.HOLD, "root"), Entry.objects.all())
    settle.settle([left_to_host(parcel, timezone.now())], worker="w")
    entry = Entry.objects.get(pk=entry_id)
    assert (entry.next_attempt_at, entry.retry_at, entry.status) == (None, entry.expires_at, "pending")


@pytest.mark.parametrize("notify", ["", "NEVER"])
@pytest.mark.parametrize("by", [dt.timedelta(days=3), dt.timedelta(hours=-1)], ids=["later", "earlier"])
def test_mail_that_waits_for_its_host_is_woken_at_its_new_end_alone(
    domain: Domain, accept: Accept, by: dt.timedelta, notify: str
) -> None:
    """However often that is changed, and held meanwhile or not."""
    (entry_id,) = set_aside(accept, notify=notify)
    before = Entry.objects.get(pk=entry_id).expires_at

    def order(action: Action, **more: Any) -> None:
        assert control.carry_out(Order(action, "root", **more), Entry.objects.all()).done == 1

    def last_waking() -> dt.datetime | None:
        entry = Entry.objects.get(pk=entry_id)
        assert entry.waits_for_host and (entry.next_attempt_at is None or entry.next_attempt_at <= entry.expires_at)
        return entry.retry_at or entry.next_attempt_at

    for until in (before + by, before + 2 * by):
        order(Action.EXPIRE, expires_at=until)
        assert last_waking() == until
    order(Action.HOLD)
    order(Action.EXPIRE, expires_at=before + 3 * by)
    assert last_waking() == before + 3 * by
    order(Action.RELEASE)
    assert last_waking() == before + 3 * by
    order(Action.EXPIRE, expires_at=before)
    assert last_waking() == before


def test_a_supply_takes_no_more_than_it_was_asked_for_whatever_the_plan(
    plans_for_a_tiny_table: None, domain: Domain, accept: Accept
) -> None:
    accept(*(f"n{number}@{DOMAIN}" for number in range(6)))
    supply = dialup.Supply("w", [DOMAIN], dt.timedelta(minutes=1))
    assert [len(supply.take(2)) for _ in range(4)] == [2, 2, 2, 0]


def test_of_two_supplies_at_once_each_has_others(domain: Domain, accept: Accept) -> None:
    ids = [accept(f"n{number}@{DOMAIN}")[0] for number in range(6)]
    first, second = (dialup.Supply(name, [DOMAIN], dt.timedelta(minutes=1)) for name in ("one", "two"))
    taken = [parcel.entry_id for supply in (first, second, first, second) for parcel in supply.take(2)]
    assert sorted(taken) == ids


@pytest.mark.parametrize(
    ("next_hop", "expected"),
    [
        ("mail.dialup.example:2525", [("mail.dialup.example", "127.0.0.9", 2525)]),
        ("mail.dialup.example", [("mail.dialup.example", "127.0.0.9", 25)]),
        ("[127.0.0.1]:26", [("127.0.0.1", "127.0.0.1", 26)]),
        ("", [("mail.dialup.example", "127.0.0.9", 25)]),
        ("10.0.0.1:25", "is not a public address"),
        ("nowhere.example", "nowhere.example does not exist"),
        ("not a host", "holds a character that names may not have"),
    ],
)
def test_the_way_to_a_domains_own_host(next_hop: str, expected: Any) -> None:
    resolver = MemoryResolver()
    resolver.hosts["mail.dialup.example"] = ["127.0.0.9"]
    resolver.exchangers[DOMAIN] = [(10, "mail.dialup.example"), (20, "us.example")]
    smarthost = Smarthost("relay.example", 25, TlsPolicy.OPPORTUNISTIC, Relay("RELAY_HOST"))
    policy = RoutingPolicy("us.example", smarthost=smarthost, allowed_networks=LOOPBACK)
    found = asyncio.run(resolve_route(Destination(DOMAIN, own_host=next_hop), resolver, policy))
    if isinstance(found, Route):
        assert [(hop.host, hop.address, hop.port) for hop in found.hops] == expected
    else:
        assert expected in found.reply and found.kind is Kind.DEFERRED


def test_a_domain_whose_only_exchanger_we_are_keeps_its_mail_here() -> None:
    resolver = MemoryResolver()
    resolver.exchangers[DOMAIN] = [(10, "us.example")]
    found = asyncio.run(resolve_route(Destination(DOMAIN, own_host=""), resolver, RoutingPolicy("us.example")))
    assert not isinstance(found, Route)
    assert found.kind is Kind.DEFERRED and "loops back" in found.reply and "waits for its host" in found.reply


def test_a_tenant_that_is_off_is_no_reason_to_lose_its_mail(domain: Domain, accept: Accept) -> None:
    Organization.objects.update(is_active=False)
    set_aside(accept)
    assert Entry.objects.get().status == "pending"
