"""Rate limits: the rules that the settings make, and whom they count."""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any

import pytest

from mailflow.limits import subjects
from mailflow.limits.limits import Limits
from mailflow.limits.rules import Rule, from_settings


def test_the_defaults_are_those_of_the_contract() -> None:
    rules = from_settings()
    assert (rules.connections.limit, rules.connections.window_seconds) == (10, 60)
    assert (rules.commands.limit, rules.commands.window_seconds) == (100, 60)
    assert (rules.auth_failures.limit, rules.auth_failures.window_seconds) == (5, 3600)
    assert (rules.messages.limit, rules.messages.window_seconds) == (20, 3600)


def test_a_network_has_the_limits_of_an_address_times_a_factor(settings: Any) -> None:
    settings.SMTP_RATE_LIMIT_NETWORK_FACTOR = 3
    rules = from_settings()
    assert rules.network_connections.limit == 30 and rules.network_messages.limit == 60
    settings.SMTP_RATE_LIMIT_NETWORK_FACTOR = 0
    assert from_settings().network_commands.limit == 0


def test_every_rule_has_a_name_of_its_own_and_names_its_setting(settings: Any) -> None:
    rules = [getattr(from_settings(), field.name) for field in dataclasses.fields(from_settings())]
    assert len({rule.name for rule in rules}) == len(rules) == 12
    for rule in rules:
        assert rule.name.startswith("limit.")
        assert getattr(settings, rule.setting.partition(" ")[0]) > 0


def test_a_rule_says_in_words_what_was_too_much_and_which_setting_says_so() -> None:
    rules = from_settings()
    assert rules.messages.words("192.0.2.7") == "20 messages an hour from 192.0.2.7 (SMTP_RATE_LIMIT_MESSAGES)"
    assert rules.network_connections.words("192.0.2.0/24") == (
        "100 connections a minute from the network 192.0.2.0/24 "
        "(SMTP_RATE_LIMIT_CONNECTIONS × SMTP_RATE_LIMIT_NETWORK_FACTOR)"
    )


def test_a_subject_with_braces_is_repeated_as_it_is() -> None:
    assert "{0.__class__}" in Rule("limit.x", 1, 60, "messages an hour with the sender {}", "X").words("{0.__class__}")


@pytest.mark.parametrize(
    ("client_address", "address", "network"),
    [
        ("192.0.2.7", "192.0.2.7", "192.0.2.0/24"),
        ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("2001:DB8:1:2:ffff::9", "2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("fe80::1%eth0", "fe80::/64", "fe80::/48"),
        ("", subjects.UNKNOWN, subjects.UNKNOWN),
        ("/run/smtp.sock", subjects.UNKNOWN, subjects.UNKNOWN),
    ],
)
def test_a_client_counts_as_its_address_and_its_network(client_address: str, address: str, network: str) -> None:
    client = subjects.of_client(client_address)
    assert (client.address, client.network) == (address, network)


@pytest.mark.parametrize(
    ("client_address", "exempt"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("192.0.2.1", False),
        ("", False),
        ("nonsense", False),
    ],
)
def test_loopback_is_exempt_by_default(client_address: str, exempt: bool) -> None:
    assert Limits("redis://127.0.0.1:1/0").is_exempt(client_address) is exempt


def test_the_exempt_networks_are_a_setting(settings: Any) -> None:
    settings.SMTP_RATE_LIMIT_EXEMPT = [ipaddress.ip_network("192.0.2.0/24")]
    limits = Limits("redis://127.0.0.1:1/0")
    assert limits.is_exempt("192.0.2.1") and not limits.is_exempt("127.0.0.1")
    settings.SMTP_RATE_LIMIT_EXEMPT = []
    assert not limits.is_exempt("192.0.2.1")


def test_a_user_name_is_counted_in_whatever_case_and_form_it_is_written() -> None:
    assert subjects.of_user_name(" Alice@Example.COM ") == subjects.of_user_name("alice@example.com")
    assert subjects.of_user_name("\uff41lice") == subjects.of_user_name("alice")


def test_the_null_path_is_nobodys() -> None:
    assert subjects.of_sender("") == ""


def test_long_texts_of_a_peer_are_bounded_and_stay_distinct() -> None:
    one, two = subjects.of_user_name("a" * 1000), subjects.of_user_name("a" * 999 + "b")
    assert len(one) == len(two) == subjects.MAX_LENGTH and one != two
    assert len(subjects.of_sender("\udc80" * 1000)) == subjects.MAX_LENGTH
