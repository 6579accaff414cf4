from __future__ import annotations

import asyncio
import ipaddress
import random
from dataclasses import replace
from typing import Any

import pytest

from accounts.dns.memory import MemoryResolver
from queue.hops import Destination
from queue.outcome import Kind, Outcome
from queue.routing import RoutingPolicy, policy_from_settings, resolve_route
from queue.smarthosts import NONE, Smarthost, Smarthosts
from queue.transports.base import NextHop, Relay, Route
from queue.transports.tls import OPPORTUNISTIC, REQUIRED, TlsPolicy

POLICY = RoutingPolicy(own_name="mail.ours.test")
A1, A2, A3 = "93.184.216.1", "93.184.216.2", "93.184.216.3"
V6 = "2606:2800:220:1::1"


def ask(to: str | Destination, resolver: MemoryResolver, policy: RoutingPolicy, **more: Any) -> Route | Outcome:
    to = Destination(to) if isinstance(to, str) else to
    return asyncio.run(resolve_route(to, resolver, policy, **more))


def route(
    to: str | Destination, resolver: MemoryResolver, policy: RoutingPolicy = POLICY, seed: int = 1, **more: Any
) -> Route:
    found = ask(to, resolver, policy, chance=random.Random(seed), **more)
    assert isinstance(found, Route), found
    return found


def outcome(to: str | Destination, resolver: MemoryResolver, policy: RoutingPolicy = POLICY, **more: Any) -> Outcome:
    found = ask(to, resolver, policy, **more)
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


@pytest.mark.parametrize("exchangers", [[(0, "")], [(0, ""), (10, "")]])
def test_a_null_mx_fails_at_once(exchangers: list[tuple[int, str]]) -> None:
    """However often it is said: mail never goes to the domain's own address then."""
    resolver = MemoryResolver(exchangers={"x.test": exchangers}, hosts={"x.test": [A1]})
    found = outcome("x.test", resolver)
    assert (found.kind, found.enhanced_code) == (Kind.FAILED, "5.1.10")
    assert resolver.asked == ["mx x.test"]


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


@pytest.mark.parametrize("address", [A2, f"::ffff:{A2}", V6])
def test_an_exchanger_with_an_address_of_ours_is_ourselves(address: str) -> None:
    """RFC 5321 §5.1: whatever its name is, and whatever else it has."""
    policy = replace(POLICY, own_networks=(ipaddress.ip_network(A2), ipaddress.ip_network(V6)))
    resolver = MemoryResolver(
        exchangers={
            "x.test": [(5, "a.x.test"), (10, "alias.test"), (10, "b.x.test"), (20, "c.x.test")],
            "y.test": [(10, "alias.test"), (20, "c.x.test")],
        },
        hosts={"a.x.test": [A1], "b.x.test": [A3], "c.x.test": [A3], "alias.test": [A3, address], "z.test": [address]},
    )
    assert hosts(route("x.test", resolver, policy)) == ["a.x.test"]
    assert set(hosts(route("x.test", resolver))) == {"a.x.test", "b.x.test", "c.x.test", "alias.test"}
    for domain in ("y.test", "z.test"):
        found = outcome(domain, resolver, policy)
        assert (found.kind, found.enhanced_code) == (Kind.FAILED, "5.4.6")


def test_a_better_exchanger_that_cannot_be_found_makes_mail_wait_rather_than_come_back_to_us() -> None:
    policy = replace(POLICY, own_networks=(ipaddress.ip_network(A2),))
    resolver = MemoryResolver(
        exchangers={"x.test": [(5, "a.x.test"), (10, "alias.test"), (20, "c.x.test")]},
        hosts={"alias.test": [A2], "c.x.test": [A3]},
        fail={"addresses a.x.test"},
    )
    assert (outcome("x.test", resolver, policy).kind) is Kind.DEFERRED


def test_at_the_port_that_mail_is_sent_to_the_listeners_own_address_is_ours() -> None:
    resolver = MemoryResolver(hosts={"x.test": ["127.0.0.1"], "y.test": ["127.0.0.2"]})
    elsewhere = replace(POLICY, allowed_networks=(ipaddress.ip_network("127.0.0.0/8"),))
    listening = replace(elsewhere, listens_on="127.0.0.1")
    assert outcome("x.test", resolver, listening).enhanced_code == "5.4.6"
    assert hosts(route("y.test", resolver, listening)) == ["y.test"]
    assert hosts(route("x.test", resolver, elsewhere)) == ["x.test"]  # somebody else is at that port


def test_a_host_that_a_person_named_may_be_at_an_address_of_ours() -> None:
    policy = replace(POLICY, own_networks=(ipaddress.ip_network(A2),))
    assert hosts(route(Destination("x.test", route="picked.test:2525"), RESOLVER, policy)) == ["picked.test"]


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


def smarthost(host: str, port: int = 587, *, label: str = "the smarthost RELAY_HOST", **more: Any) -> Smarthost:
    return Smarthost(host, port, more.pop("tls", TlsPolicy.REQUIRED), Relay(label, "us", "secret"), **more)


def test_with_a_smarthost_everything_goes_there_even_in_a_private_network() -> None:
    policy = replace(POLICY, smarthost=smarthost("Relay.Ours.test"))
    resolver = MemoryResolver(hosts={"relay.ours.test": ["10.0.0.5"]})
    for domain in ("x.test", "[127.0.0.1]"):
        found = route(domain, resolver, policy)
        assert found.hops == (NextHop("relay.ours.test", "10.0.0.5", 587, REQUIRED),)
        assert found.relay == Relay("the smarthost RELAY_HOST", "us", "secret")
    for name, address in (("127.0.0.1", "127.0.0.1"), ("[::1]", "::1"), ("::1", "::1")):
        found = route("x.test", resolver, replace(POLICY, smarthost=smarthost(name)))
        assert found.hops[0] == NextHop(address, address, 587, REQUIRED)


def test_a_smarthost_that_cannot_be_found_makes_the_mail_wait() -> None:
    for resolver in (MemoryResolver(), MemoryResolver(fail={"addresses relay.test"})):
        found = outcome("x.test", resolver, replace(POLICY, smarthost=smarthost("relay.test")))
        assert found.kind is Kind.DEFERRED
        assert "RELAY_HOST" in found.reply


def test_a_smarthost_that_is_this_host_makes_the_mail_wait() -> None:
    resolver = MemoryResolver(hosts={"mail.ours.test": [A1]})
    found = outcome("x.test", resolver, replace(POLICY, smarthost=smarthost("Mail.Ours.test.")))
    assert (found.kind, found.enhanced_code) == (Kind.DEFERRED, "4.4.6")


# --- overrides ---


RESOLVER = MemoryResolver(
    exchangers={"x.test": [(10, "mx.x.test")]},
    hosts={
        "mx.x.test": [A1], "relay.test": ["10.0.0.1"], "of-domain.test": ["10.0.0.2"], "of-seven.test": ["10.0.0.3"],
        "picked.test": [A2], "inside.test": ["10.0.0.4"],
    },
)  # fmt: skip
OF_DOMAIN = smarthost("of-domain.test", label="domain's")
OF_SEVEN = smarthost("of-seven.test", label="organization's", organization_id=7)
OVERRIDES = Smarthosts(
    by_domain={"x.test": OF_DOMAIN},
    by_organization={7: OF_SEVEN},
    by_address={("of-domain.test", 587): (OF_DOMAIN,), ("of-seven.test", 587): (OF_SEVEN,)},
)
WITH_RELAY = replace(POLICY, smarthost=smarthost("relay.test"))


@pytest.mark.parametrize(
    ("to", "host"),
    [
        (Destination("x.test", 7, "picked.test"), "picked.test"),
        (Destination("x.test", 7), "of-domain.test"),
        (Destination("y.test", 7), "of-seven.test"),
        (Destination("y.test", 8), "relay.test"),
        (Destination("www.x.test"), "relay.test"),
    ],
)
def test_the_nearest_override_counts(to: Destination, host: str) -> None:
    assert hosts(route(to, RESOLVER, WITH_RELAY, overrides=OVERRIDES)) == [host]


def test_without_any_override_it_is_the_exchanger() -> None:
    assert hosts(route(Destination("x.test", 8), RESOLVER, overrides=NONE)) == ["mx.x.test"]


@pytest.mark.parametrize(
    ("text", "hop"),
    [
        ("picked.test", NextHop("picked.test", A2, 25)),
        ("Picked.test.:2525", NextHop("picked.test", A2, 2525)),
        (f"{A1}:26", NextHop(A1, A1, 26)),
        (f"[{V6}]:26", NextHop(V6, V6, 26)),
        (V6, NextHop(V6, V6, 25)),
    ],
)
def test_a_chosen_route_is_a_host_and_perhaps_a_port(text: str, hop: NextHop) -> None:
    found = route(Destination("x.test", route=text), RESOLVER)
    assert found.hops == (replace(hop, tls=OPPORTUNISTIC),)
    assert found.relay is not None and not found.relay.username  # a relay's 530 bounces nobody's mail


@pytest.mark.parametrize("text", ["no host", "picked.test:0", "picked.test:99999", "gone.test", "inside.test", "[::1]"])
def test_a_chosen_route_that_leads_nowhere_makes_the_mail_wait(text: str) -> None:
    """A person's slip is not the sender's fault, and can be put right."""
    assert outcome(Destination("x.test", route=text), RESOLVER).kind is Kind.DEFERRED


def test_a_chosen_host_gets_the_account_that_we_have_there_and_nobody_elses() -> None:
    def account(host: str, organization_id: int) -> Relay:
        to = Destination("y.test", organization_id, f"{host}:587")
        allowing = replace(POLICY, allowed_networks=(ipaddress.ip_network("10.0.0.0/8"),))
        found = route(to, RESOLVER, allowing, overrides=OVERRIDES).relay
        assert found is not None
        return found

    assert account("of-domain.test", 8) == OF_DOMAIN.relay
    assert account("of-seven.test", 7) == OF_SEVEN.relay
    assert account("of-seven.test", 8).username == ""


def test_a_smarthost_whose_password_cannot_be_read_makes_the_mail_wait() -> None:
    found = outcome("x.test", RESOLVER, replace(POLICY, smarthost=replace(OF_DOMAIN, trouble="it is sealed")))
    assert (found.kind, found.reply) == (Kind.DEFERRED, "it is sealed")


def test_the_policy_comes_from_the_settings(settings) -> None:  # type: ignore[no-untyped-def]
    settings.SMTP_HOSTNAME, settings.SMTP_OUT_PORT = "mail.example.org", 2526
    settings.RELAY_HOST, settings.RELAY_PORT, settings.RELAY_TLS = "relay.test", 465, "implicit"
    settings.RELAY_USERNAME, settings.RELAY_PASSWORD = "us", "secret"
    settings.OUTBOUND_ALLOWED_NETWORKS = [ipaddress.ip_network("10.0.0.0/8")]
    assert policy_from_settings() == RoutingPolicy(
        "mail.example.org",
        2526,
        smarthost("relay.test", 465, tls=TlsPolicy.IMPLICIT),
        (ipaddress.ip_network("10.0.0.0/8"),),
    )
    settings.RELAY_HOST = ""
    assert policy_from_settings().smarthost is None


def test_what_is_ours_comes_from_the_settings(settings) -> None:  # type: ignore[no-untyped-def]
    settings.SMTP_HOST, settings.SMTP_PORT, settings.SMTP_OUT_PORT = "0.0.0.0", 2525, 25
    settings.SMTP_OWN_ADDRESSES = [ipaddress.ip_network(A1)]
    assert (policy_from_settings().own_networks, policy_from_settings().listens_on) == ((ipaddress.ip_network(A1),), "")
    settings.SMTP_PORT = 25
    assert policy_from_settings().listens_on == "0.0.0.0"
