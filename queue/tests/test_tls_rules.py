"""Which TLS a host must offer, as DNS and the domain's policy say (RFC 7672 §2, RFC 8461 §4, §5)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from accounts.dns.base import Tlsa
from accounts.dns.memory import MemoryResolver
from queue.hops import Destination
from queue.mta_sts import Mode, Policy
from queue.outcome import Kind, Outcome
from queue.routing import RoutingPolicy, resolve_route
from queue.smarthosts import Smarthost
from queue.tls_rules import PolicyRules
from queue.transports.base import Relay, Route
from queue.transports.noting import SessionResult
from queue.transports.tls import OPPORTUNISTIC, REQUIRED, Check, TlsDemand, TlsPolicy

A1, A2 = "93.184.216.1", "93.184.216.2"
EE = Tlsa(3, 1, 1, b"\x01" * 32)
TA = Tlsa(2, 0, 1, b"\x02" * 32)
UNUSABLE = Tlsa(1, 1, 1, b"\x03" * 32)
ENFORCE = Policy(Mode.ENFORCE, ("a.x.test",), 86400)
TESTING = replace(ENFORCE, mode=Mode.TESTING)
SIGNED = {"x.test", "a.x.test", "b.x.test", "_25._tcp.a.x.test", "_25._tcp.b.x.test"}


def internet(**changes: Any) -> MemoryResolver:
    """x.test with two exchangers, all of it signed, and TLSA records as the test says."""
    found = MemoryResolver(
        exchangers={"x.test": [(10, "a.x.test"), (20, "b.x.test")]},
        hosts={"a.x.test": [A1], "b.x.test": [A2]},
        signed=set(SIGNED),
    )
    return replace(found, **changes)


class Asked:
    """The answer of routing, and what it noted."""

    def __init__(
        self,
        resolver: MemoryResolver,
        policy: Policy | None = None,
        *,
        validates: bool = True,
        to: Destination | None = None,
        smarthost: Smarthost | None = None,
    ) -> None:
        self.notes: list[SessionResult] = []
        self.asked_for: list[str] = []

        async def policy_of(domain: str) -> Policy | None:
            self.asked_for.append(domain)
            return policy

        rules = PolicyRules(resolver, policy_of, validates, self.notes.append)
        operator = RoutingPolicy("mail.ours.test", smarthost=smarthost)
        self.found = asyncio.run(resolve_route(to or Destination("x.test"), resolver, operator, tls_rules=rules))

    @property
    def demands(self) -> dict[str, TlsDemand | None]:
        assert isinstance(self.found, Route), self.found
        return {hop.host: hop.tls for hop in self.found.hops}

    @property
    def outcome(self) -> Outcome:
        assert isinstance(self.found, Outcome), self.found
        return self.found

    @property
    def rules(self) -> dict[str, str]:
        return {host: demand.rule if demand else "" for host, demand in self.demands.items()}


# --- DANE ---


def test_a_host_with_tlsa_records_must_match_them_and_the_other_need_not() -> None:
    asked = Asked(internet(tlsa_records={"_25._tcp.a.x.test": [EE, TA, UNUSABLE]}))
    assert asked.rules == {"a.x.test": "dane", "b.x.test": ""}
    demand = asked.demands["a.x.test"]
    assert demand is not None and demand.weaker is None
    assert (set(demand.tlsa), demand.names) == ({EE, TA}, ("a.x.test", "x.test"))


def test_records_that_nobody_can_use_still_ask_for_tls() -> None:
    """RFC 7672 §2.2."""
    demand = Asked(internet(tlsa_records={"_25._tcp.a.x.test": [UNUSABLE]})).demands["a.x.test"]
    assert demand is not None
    assert (demand.rule, demand.check, demand.weaker) == ("dane-unusable", Check.NOTHING, None)


@pytest.mark.parametrize("insecure", ["x.test", "a.x.test", "_25._tcp.a.x.test"])
def test_every_answer_on_the_way_must_be_secure(insecure: str) -> None:
    resolver = internet(tlsa_records={"_25._tcp.a.x.test": [EE]}, signed=SIGNED - {insecure})
    assert Asked(resolver).rules["a.x.test"] == ""
    if insecure == "a.x.test":  # RFC 7672 §2.2.2: unsigned zones are not even asked
        assert "tlsa _25._tcp.a.x.test" not in resolver.asked


def test_a_resolver_that_does_not_validate_is_not_asked() -> None:
    resolver = internet(tlsa_records={"_25._tcp.a.x.test": [EE]})
    assert set(Asked(resolver, validates=False).rules.values()) == {""}
    assert not any(question.startswith("tlsa") for question in resolver.asked)


def test_a_host_whose_tlsa_question_fails_is_not_used() -> None:
    """RFC 7672 §2.1.2: who can suppress the answer must not win by it."""
    asked = Asked(internet(fail={"tlsa _25._tcp.a.x.test"}))
    assert list(asked.rules) == ["b.x.test"]
    assert [(note.mx_host, note.policy_type, note.result) for note in asked.notes] == [
        ("a.x.test", "tlsa", "dnssec-invalid")
    ]
    nobody = Asked(internet(fail={"tlsa _25._tcp.a.x.test", "tlsa _25._tcp.b.x.test"})).outcome
    assert (nobody.kind, nobody.enhanced_code) == (Kind.DEFERRED, "4.4.3")


def test_an_alias_is_asked_at_its_end_first_then_by_its_own_name() -> None:
    """RFC 7672 §2.2.3."""
    base = internet(
        hosts={"end.test": [A1], "b.x.test": [A2]},
        aliases={"a.x.test": "end.test"},
        signed=SIGNED | {"end.test", "_25._tcp.end.test"},
    )
    both = {"_25._tcp.end.test": [EE], "_25._tcp.a.x.test": [TA]}
    at_end = Asked(replace(base, tlsa_records=both)).demands["a.x.test"]
    assert at_end is not None and (at_end.tlsa, at_end.names) == ((EE,), ("end.test", "x.test"))
    own = Asked(replace(base, tlsa_records={"_25._tcp.a.x.test": [TA]})).demands["a.x.test"]
    assert own is not None and (own.tlsa, own.names) == ((TA,), ("a.x.test", "x.test"))
    # The alias is signed and what it leads to is not: its own name alone.
    half = replace(base, tlsa_records=both, signed=SIGNED)
    assert Asked(half).demands["a.x.test"] == own
    assert Asked(replace(half, signed=SIGNED - {"a.x.test"})).rules["a.x.test"] == ""


def test_without_exchangers_the_domain_is_its_own_host() -> None:
    resolver = MemoryResolver(
        hosts={"x.test": [A1]}, tlsa_records={"_25._tcp.x.test": [TA]}, signed={"x.test", "_25._tcp.x.test"}
    )
    demand = Asked(resolver).demands["x.test"]
    assert demand is not None and demand.names == ("x.test",)


def test_an_address_literal_has_no_policy() -> None:
    asked = Asked(internet(), ENFORCE, to=Destination(f"[{A1}]"))
    assert (asked.rules, asked.asked_for) == ({A1: ""}, [])
    assert isinstance(asked.found, Route) and asked.found.policy_domain == ""


# --- MTA-STS ---


def test_under_enforce_only_the_named_hosts_are_used_and_must_prove_themselves() -> None:
    asked = Asked(internet(), ENFORCE)
    demand = asked.demands["a.x.test"]
    assert demand is not None and (demand.check, demand.weaker) == (Check.PKIX, None)
    assert list(asked.rules) == ["a.x.test"]
    assert [(note.mx_host, note.policy_type, note.result) for note in asked.notes] == [
        ("b.x.test", "sts", "validation-failure")
    ]


def test_where_the_policy_names_none_of_the_hosts_the_mail_waits_and_says_why() -> None:
    outcome = Asked(internet(), replace(ENFORCE, mx=("other.test",))).outcome
    assert (outcome.kind, outcome.enhanced_code, outcome.tls_policy) == (Kind.DEFERRED, "4.7.5", "mta-sts")
    assert "a.x.test is not among the hosts that the MTA-STS policy of x.test names (other.test)" in outcome.reply


def test_a_policy_in_testing_bars_nobody_and_is_tried() -> None:
    asked = Asked(internet(), TESTING)
    assert asked.rules == {"a.x.test": "mta-sts-testing", "b.x.test": "mta-sts-testing"}
    named, other = asked.demands.values()
    assert named is not None and other is not None
    assert (named.check, named.fault) == (Check.PKIX, "")
    assert "does not name the host" in other.fault
    assert named.weaker is not None and named.weaker.weaker is not None and named.weaker.weaker.is_clear


def test_dane_goes_before_mta_sts() -> None:
    """RFC 8461 §2: a host that TLSA records speak for is not judged by the policy, and no policy excuses it."""
    resolver = internet(tlsa_records={"_25._tcp.b.x.test": [EE]})
    assert Asked(resolver, ENFORCE).rules == {"a.x.test": "mta-sts", "b.x.test": "dane"}
    assert Asked(resolver, TESTING).rules == {"a.x.test": "mta-sts-testing", "b.x.test": "dane"}
    unusable = internet(tlsa_records={"_25._tcp.a.x.test": [UNUSABLE]})
    assert Asked(unusable, ENFORCE).rules == {"a.x.test": "mta-sts"}


def test_what_the_sender_declares_optional_is_no_reason_to_wait() -> None:
    """RFC 8689 §4.2.2."""
    resolver = internet(tlsa_records={"_25._tcp.a.x.test": [EE]}, fail={"tlsa _25._tcp.b.x.test"})
    asked = Asked(resolver, ENFORCE, to=Destination("x.test", is_tls_optional=True))
    assert asked.rules == {"a.x.test": "", "b.x.test": ""}
    assert isinstance(asked.found, Route) and asked.found.policy_domain == ""  # no figure of it (RFC 8460 §3)


# --- smarthosts ---


RELAY = Smarthost("a.x.test", 25, TlsPolicy.OPPORTUNISTIC, Relay("the smarthost"))


def test_a_smarthost_is_judged_by_its_own_name_and_not_the_recipients() -> None:
    """RFC 8461 §3.4."""
    asked = Asked(internet(), ENFORCE, to=Destination("far.test"), smarthost=RELAY)
    assert (asked.rules, asked.asked_for) == ({"a.x.test": "mta-sts"}, ["a.x.test"])
    barred = Asked(internet(), replace(ENFORCE, mx=("other.test",)), smarthost=RELAY).outcome
    assert (barred.kind, barred.tls_policy) == (Kind.DEFERRED, "mta-sts")
    with_tlsa = Asked(internet(tlsa_records={"_25._tcp.a.x.test": [EE]}), smarthost=RELAY)
    assert with_tlsa.rules == {"a.x.test": "dane"}


def test_what_the_operator_chose_for_a_smarthost_holds() -> None:
    asked = Asked(internet(), ENFORCE, smarthost=replace(RELAY, tls=TlsPolicy.REQUIRED))
    assert (asked.demands, asked.asked_for) == ({"a.x.test": REQUIRED}, [])
    assert Asked(internet(), smarthost=RELAY).demands == {"a.x.test": OPPORTUNISTIC}
