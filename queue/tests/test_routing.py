from __future__ import annotations

import asyncio
import ipaddress
import random
from dataclasses import replace

import pytest

from accounts.dns.memory import MemoryResolver
from queue.outcome import Kind, Outcome
from queue.routing import RoutingPolicy, policy_from_settings, resolve_route
from queue.transports.base import NextHop, Route

POLICY = RoutingPolicy(own_name="mail.ours.test")
A1, A2, A3 = "93.184.216.1", "93.184.216.2", "93.184.216.3"
V6 = "2606:2800:220:1::1"


def route(domain: str, resolver: MemoryResolver, policy: RoutingPolicy = POLICY, seed: int = 1) -> Route:
    found = asyncio.run(resolve_route(domain, resolver, policy, random.Random(seed)))
    assert isinstance(found, Route), found
    return found


def outcome(domain: str, resolver: MemoryResolver, policy: RoutingPolicy = POLICY) -> Outcome:
    found = asyncio.run(resolve_route(domain, resolver, policy))
    assert isinstance(found, Outcome), found
    return found


def hosts(found: Route) -> list[str]:
    return [hop.host for hop in found.hops]


def test_exchangers_are_tried_by_preference_with_all_their_addresses() -> None:
    resolver = MemoryResolver(
        exchangers={"x.test": [(20, "b.x.test"), (10, "a.x.test")]},
        hosts={"a.x.test": [V6, A1], "b.x.test": [A2]},
    )
    assert list(route("x.test", resolver).hops) == [
        NextHop("a.x.test", A1, 25),
        NextHop("a.x.test", V6, 25),
        NextHop("b.x.test", A2, 25),
    ]


def test_equal_exchangers_share_the_load_and_keep_their_rank() -> None:
    resolver = MemoryResolver(
        exchangers={"x.test": [(10, "a.x.test"), (10, "b.x.test"), (5, "first.x.test")]},
        hosts={"a.x.test": [A1], "b.x.test": [A2], "first.x.test": [A3]},
    )
    orders = {tuple(hosts(route("x.test", resolver, seed=seed))) for seed in range(20)}
    assert orders == {("first.x.test", "a.x.test", "b.x.test"), ("first.x.test", "b.x.test", "a.x.test")}


def test_without_mx_the_domain_is_its_own_exchanger() -> None:
    resolver = MemoryResolver(hosts={"x.test": [A1]})
    assert list(route("x.test", resolver).hops) == [NextHop("x.test", A1, 25)]


def test_with_an_mx_the_address_of_the_domain_is_not_used() -> None:
    resolver = MemoryResolver(exchangers={"x.test": [(10, "gone.x.test")]}, hosts={"x.test": [A1]})
    found = outcome("x.test", resolver)
    assert (found.kind, found.enhanced_code) == (Kind.DEFERRED, "4.4.4")
    assert "gone.x.test" in found.reply


def test_a_domain_without_mx_and_address_fails() -> None:
    found = outcome("x.test", MemoryResolver(hosts={"www.x.test": [A1]}))
    assert (found.kind, found.enhanced_code) == (Kind.FAILED, "5.4.4")


def test_a_null_mx_fails_at_once() -> None:
    found = outcome("x.test", MemoryResolver(exchangers={"x.test": [(0, "")]}, hosts={"x.test": [A1]}))
    assert (found.kind, found.enhanced_code) == (Kind.FAILED, "5.1.10")


def test_a_null_mx_beside_another_is_overlooked() -> None:
    resolver = MemoryResolver(exchangers={"x.test": [(0, ""), (10, "a.x.test")]}, hosts={"a.x.test": [A1]})
    assert hosts(route("x.test", resolver)) == ["a.x.test"]


def test_a_domain_that_does_not_exist_fails() -> None:
    found = outcome("x.test", MemoryResolver())
    assert (found.kind, found.enhanced_code) == (Kind.FAILED, "5.1.2")
    assert found.transport == "smtp"


@pytest.mark.parametrize("question", ["mx x.test", "addresses a.x.test"])
def test_dns_trouble_defers(question: str) -> None:
    resolver = MemoryResolver(exchangers={"x.test": [(10, "a.x.test")]}, hosts={"a.x.test": [A1]}, fail={question})
    found = outcome("x.test", resolver)
    assert (found.kind, found.enhanced_code) == (Kind.DEFERRED, "4.4.3")


def test_an_exchanger_that_cannot_be_found_leaves_the_others() -> None:
    resolver = MemoryResolver(
        exchangers={"x.test": [(5, "gone.x.test"), (6, "broken.x.test"), (10, "a.x.test")]},
        hosts={"a.x.test": [A1]},
        fail={"addresses broken.x.test"},
    )
    assert hosts(route("x.test", resolver)) == ["a.x.test"]


def test_ourselves_and_whoever_is_not_better_than_us_are_left_out() -> None:
    resolver = MemoryResolver(
        exchangers={"x.test": [(5, "a.x.test"), (10, "mail.ours.test"), (10, "b.x.test"), (20, "c.x.test")]},
        hosts={"a.x.test": [A1], "b.x.test": [A2], "c.x.test": [A3], "mail.ours.test": [V6]},
    )
    assert hosts(route("x.test", resolver, replace(POLICY, own_name="Mail.Ours.Test"))) == ["a.x.test"]


def test_mail_that_could_only_come_back_to_us_fails() -> None:
    resolver = MemoryResolver(
        exchangers={"x.test": [(10, "mail.ours.test"), (20, "b.x.test")]},
        hosts={"b.x.test": [A2], "mail.ours.test": [A1]},
    )
    for domain in ("x.test", "mail.ours.test"):
        found = outcome(domain, resolver)
        assert (found.kind, found.enhanced_code) == (Kind.FAILED, "5.4.6")


def test_private_addresses_are_left_out_and_fail_where_nothing_else_is() -> None:
    resolver = MemoryResolver(
        exchangers={"x.test": [(5, "in.x.test"), (10, "a.x.test")], "y.test": [(5, "in.x.test")]},
        hosts={"in.x.test": ["10.0.0.1", "::ffff:127.0.0.1"], "a.x.test": [A1], "z.test": ["127.0.0.1"]},
    )
    assert hosts(route("x.test", resolver)) == ["a.x.test"]
    for domain, address in (("y.test", "10.0.0.1"), ("z.test", "127.0.0.1")):
        found = outcome(domain, resolver)
        assert (found.kind, found.enhanced_code) == (Kind.FAILED, "5.4.4")
        assert address in found.reply and "OUTBOUND_ALLOWED_NETWORKS" in found.reply
    allowing = replace(POLICY, allowed_networks=(ipaddress.ip_network("10.0.0.0/8"),))
    assert [hop.address for hop in route("y.test", resolver, allowing).hops] == ["10.0.0.1"]


def test_a_private_address_does_not_hide_that_dns_did_not_answer() -> None:
    resolver = MemoryResolver(
        exchangers={"x.test": [(5, "in.x.test"), (10, "a.x.test")]},
        hosts={"in.x.test": ["10.0.0.1"], "a.x.test": [A1]},
        fail={"addresses a.x.test"},
    )
    assert outcome("x.test", resolver).kind is Kind.DEFERRED


def test_an_address_literal_is_its_own_next_hop() -> None:
    resolver = MemoryResolver()
    assert list(route(f"[{A1}]", resolver).hops) == [NextHop(A1, A1, 25)]
    assert list(route(f"[IPv6:{V6}]", resolver).hops) == [NextHop(V6, V6, 25)]
    assert outcome("[127.0.0.1]", resolver).enhanced_code == "5.4.4"
    assert outcome("[IPv6:::ffff:10.0.0.1]", resolver).enhanced_code == "5.4.4"
    assert outcome("[nonsense]", resolver).enhanced_code == "5.1.3"
    assert resolver.asked == []


def test_a_domain_with_many_exchangers_does_not_keep_us_busy_for_long() -> None:
    names = [f"mx{number}.x.test" for number in range(100)]
    resolver = MemoryResolver(
        exchangers={"x.test": [(number, name) for number, name in enumerate(names)]},
        hosts={name: [f"93.184.{number}.{host}" for host in range(1, 21)] for number, name in enumerate(names)},
    )
    found = route("x.test", resolver)
    assert len(found.hops) == 10
    assert set(hosts(found)) == {"mx0.x.test", "mx1.x.test"}
    assert len(resolver.asked) == 11


def test_with_a_smarthost_everything_goes_there_even_in_a_private_network() -> None:
    policy = replace(POLICY, smarthost="Relay.Ours.test", smarthost_port=587)
    resolver = MemoryResolver(hosts={"relay.ours.test": ["10.0.0.5"]})
    for domain in ("x.test", "[127.0.0.1]"):
        found = route(domain, resolver, policy)
        assert found == Route((NextHop("relay.ours.test", "10.0.0.5", 587),), smarthost=True)
    for name, address in (("127.0.0.1", "127.0.0.1"), ("[::1]", "::1"), ("::1", "::1")):
        literal = route("x.test", resolver, replace(policy, smarthost=name))
        assert literal.hops[0] == NextHop(address, address, 587)


def test_a_smarthost_that_cannot_be_found_makes_the_mail_wait() -> None:
    for resolver in (MemoryResolver(), MemoryResolver(fail={"addresses relay.test"})):
        found = outcome("x.test", resolver, replace(POLICY, smarthost="relay.test"))
        assert found.kind is Kind.DEFERRED
        assert "RELAY_HOST" in found.reply


def test_the_policy_comes_from_the_settings(settings) -> None:  # type: ignore[no-untyped-def]
    settings.SMTP_HOSTNAME, settings.SMTP_OUT_PORT = "mail.example.org", 2526
    settings.RELAY_HOST, settings.RELAY_PORT = "relay.test", 465
    settings.OUTBOUND_ALLOWED_NETWORKS = [ipaddress.ip_network("10.0.0.0/8")]
    assert policy_from_settings() == RoutingPolicy(
        "mail.example.org", 2526, "relay.test", 465, (ipaddress.ip_network("10.0.0.0/8"),)
    )
