"""Rate limits as values: what is counted, for whom, how many, and the settings they come from (contract §2)."""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings

MINUTE = 60
HOUR = 3600


@dataclass(frozen=True, slots=True)
class Rule:
    """One limit: at most `limit` in a window; 0 switches it off. `name` is stable and for programs."""

    name: str
    limit: int
    window_seconds: int
    counted: str  # "messages an hour from {}", where the subject goes in
    setting: str

    def words(self, subject: str) -> str:
        """Say the limit and whom it met, for events and logs; never for the peer."""
        return f"{self.limit} {self.counted.format(subject)} ({self.setting})"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether something is over a limit; `words` and `retry_after_seconds` are set where it is.

    It is true and false in no useful way: ask `exceeded`.
    """

    exceeded: bool
    rule: str = ""
    words: str = ""
    retry_after_seconds: int = 0


WITHIN = Verdict(exceeded=False)


@dataclass(frozen=True, slots=True)
class Rules:
    """All limits of the SMTP door. Addresses and networks are those of `subjects.of_client`."""

    connections: Rule
    network_connections: Rule
    commands: Rule
    network_commands: Rule
    auth_failures: Rule
    network_auth_failures: Rule
    user_name_auth_failures: Rule
    messages: Rule
    network_messages: Rule
    sender_messages: Rule
    account_messages: Rule
    account_commands: Rule


@dataclass(frozen=True, slots=True)
class ApiRules:
    """The limits of the API's door; failed passwords are those of the SMTP door, counted together."""

    key_requests: Rule
    user_requests: Rule
    address_requests: Rule


def api_from_settings() -> ApiRules:
    """Build the API's rules from the settings as they are now."""
    return ApiRules(
        key_requests=_api_rule("key_requests", "requests a minute by the key {}"),
        user_requests=_api_rule("user_requests", "requests a minute by the user {}"),
        address_requests=_api_rule("address_requests", "requests a minute from {}"),
    )


def _api_rule(name: str, counted: str) -> Rule:
    setting = f"API_RATE_LIMIT_{name.upper()}"
    return Rule(f"limit.api_{name}", getattr(settings, setting), MINUTE, counted, setting)


def from_settings() -> Rules:
    """Build the rules from the settings as they are now."""
    connections, network_connections = _for_address_and_network("connections", MINUTE, "connections a minute")
    commands, network_commands = _for_address_and_network("commands", MINUTE, "commands a minute")
    auth_failures, network_auth_failures = _for_address_and_network("auth_failures", HOUR, "failed AUTH an hour")
    messages, network_messages = _for_address_and_network("messages", HOUR, "messages an hour")
    return Rules(
        connections=connections,
        network_connections=network_connections,
        commands=commands,
        network_commands=network_commands,
        auth_failures=auth_failures,
        network_auth_failures=network_auth_failures,
        user_name_auth_failures=_rule("user_name_auth_failures", HOUR, "failed AUTH an hour for the user name {}"),
        messages=messages,
        network_messages=network_messages,
        sender_messages=_rule("sender_messages", HOUR, "messages an hour with the sender {}"),
        account_messages=_rule("account_messages", HOUR, "messages an hour by the account {}"),
        account_commands=_rule("account_commands", MINUTE, "commands a minute by the account {}"),
    )


def _rule(name: str, window_seconds: int, counted: str) -> Rule:
    setting = f"SMTP_RATE_LIMIT_{name.upper()}"
    return Rule(f"limit.{name}", getattr(settings, setting), window_seconds, counted, setting)


def _for_address_and_network(name: str, window_seconds: int, counted: str) -> tuple[Rule, Rule]:
    factor: int = settings.SMTP_RATE_LIMIT_NETWORK_FACTOR
    one = _rule(name, window_seconds, f"{counted} from {{}}")
    many = Rule(
        f"limit.network_{name}",
        one.limit * factor,
        window_seconds,
        f"{counted} from the network {{}}",
        f"{one.setting} × SMTP_RATE_LIMIT_NETWORK_FACTOR",
    )
    return one, many
