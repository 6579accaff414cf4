"""What may be changed while the system runs: the fields, what each allows, and the settings they begin with."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from mailflow.events import clean_text

Value = int | float | bool
Key = tuple[str, str]  # service, name

SMTP, IMAP = "smtp", "imap"
SERVICES = (SMTP, IMAP)


class InvalidConfig(ValueError):
    """Values that cannot be taken; `errors` has a sentence for each field."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__(" ".join(f"{name}: {sentence}" for name, sentence in errors.items()))
        self.errors = dict(errors)


@dataclass(frozen=True, slots=True)
class Field:
    """One value of a service. `setting` is where it begins, `variable` the environment's name for that.

    A field that was set neither here nor in the environment, so that its setting is 0, is what `follows` is; the
    environment's value of that is the setting `fallback`.
    """

    name: str
    kind: type[int | float | bool]
    words: str
    low: float = 0
    high: float = 1
    setting: str = ""
    variable: str = ""
    follows: str = ""
    fallback: str = ""
    other_variable: str = ""  # an older name of the same

    @property
    def allowed(self) -> str:
        if self.kind is bool:
            return "true or false"
        return f"{'a whole number' if self.kind is int else 'a number'} from {self.low:g} to {self.high:.0f}"

    def check(self, value: object) -> Value:
        """Return the value if it may be set, as it is; else raise ValueError with a sentence for people."""
        of_kind = type(value) in ((int, float) if self.kind is float else (self.kind,))
        if of_kind and isinstance(value, (int, float)) and self.low <= value <= self.high:
            return value
        raise ValueError(f"It must be {self.allowed}.")

    def from_environment(self) -> Value:
        if not self.setting:
            return True
        found: Value = getattr(settings, self.setting)
        return found if found or not self.fallback else getattr(settings, self.fallback)

    @property
    def is_own(self) -> bool:
        """Whether the environment has a value for this very field."""
        return not self.fallback or bool(getattr(settings, self.setting))

    @property
    def given_variable(self) -> str:
        """The variable that somebody set for it; empty where the value is the default."""
        names = (self.variable, self.other_variable)
        return next((name for name in names if name in settings.GIVEN_VARIABLES), "")


_MAX_WORKERS = "Deliveries at once in one worker."
_POOL_SIZE = "Connections kept to one next hop, and the most deliveries at once to one domain."
_TIMEOUT = "Seconds that a command may take: the longest silence of a client, and of a next hop."
_MAX_CONNECTIONS = "Connections at once, over all listeners together."
_IDLE = "Seconds that a client may be silent between commands; as long as timeout unless it is set."
_ENABLED = "Whether new mail is taken; without it SMTP answers 421 and HTTP 503, and the queue is kept and worked on."

# Ranges and defaults as in the settings of the same names.
FIELDS: Mapping[str, tuple[Field, ...]] = {
    SMTP: (
        Field("max_workers", int, _MAX_WORKERS, 1, 1000, "SMTP_MAX_WORKERS", "SMTP_MAX_WORKERS"),
        Field("pool_size", int, _POOL_SIZE, 1, 100, "SMTP_POOL_SIZE", "SMTP_POOL_SIZE"),
        Field(
            *("timeout", float, _TIMEOUT, 0.1, 86400, "SMTP_TIMEOUT", "SMTP_TIMEOUT_SECONDS"),
            other_variable="SMTP_TIMEOUT",
        ),
        Field("max_connections", int, _MAX_CONNECTIONS, 1, 100_000, "SMTP_MAX_CONNECTIONS", "SMTP_MAX_CONNECTIONS"),
        Field(
            *("idle_timeout", float, _IDLE, 0.1, 86400, "SMTP_IDLE_TIMEOUT", "SMTP_IDLE_TIMEOUT"),
            *("timeout", "SMTP_TIMEOUT"),
        ),
        Field("enabled", bool, _ENABLED),
    ),
    IMAP: (
        Field("max_workers", int, "Commands at once.", 1, 1000, "IMAP_MAX_WORKERS", "IMAP_MAX_WORKERS"),
        Field("pool_size", int, "Connections kept to the store.", 1, 100, "IMAP_POOL_SIZE", "IMAP_POOL_SIZE"),
        Field("timeout", float, "Seconds a command may take.", 0.1, 86400, "IMAP_TIMEOUT", "IMAP_TIMEOUT"),
        Field(
            *("max_connections", int, "Connections at once.", 1, 100_000),
            *("IMAP_MAX_CONNECTIONS", "IMAP_MAX_CONNECTIONS"),
        ),
        Field(
            *("idle_timeout", float, "Seconds a client may be silent before login.", 0.1, 86400),
            *("IMAP_IDLE_TIMEOUT", "IMAP_IDLE_TIMEOUT"),
        ),
        Field("enabled", bool, "Whether IMAP takes new sessions."),
    ),
}
NAMES = tuple(field.name for field in FIELDS[SMTP])
_BY_KEY: Mapping[Key, Field] = {(service, field.name): field for service in SERVICES for field in FIELDS[service]}


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """The values that a service works with now; durations are seconds, as event loops take them."""

    max_workers: int
    pool_size: int
    timeout: float
    max_connections: int
    idle_timeout: float
    enabled: bool


@dataclass(frozen=True, slots=True)
class SmtpConfig(ServiceConfig):
    """`timeout` and `idle_timeout` are the listener's, `outbound_timeout` the one towards next hops.

    The last two are different settings in the environment; `timeout`, once set, governs all three.
    """

    outbound_timeout: float


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    smtp: SmtpConfig
    imap: ServiceConfig


@dataclass(frozen=True, slots=True)
class SetValue:
    """A value that somebody set."""

    value: Value
    set_by: str
    set_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Effective:
    """A value that holds, and where it comes from: `set` is None where that is the environment."""

    field: Field
    value: Value
    set: SetValue | None


def effective(service: str, values: Mapping[Key, SetValue]) -> dict[str, Effective]:
    """Return what holds for each field of a service."""
    found: dict[str, Effective] = {}
    for field in FIELDS[service]:
        given = values.get((service, field.name))
        leader = found.get(field.follows)
        if given is None and leader is not None and not field.is_own:
            given = leader.set
        found[field.name] = Effective(field, field.from_environment() if given is None else given.value, given)
    return found


def build(values: Mapping[Key, SetValue]) -> RuntimeConfig:
    """Return what all services work with: the values that were set over the environment's."""
    smtp, imap = (_plain(effective(service, values)) for service in SERVICES)
    timeout = values.get((SMTP, "timeout"))
    outbound = settings.OUTBOUND_TIMEOUT if timeout is None else timeout.value
    return RuntimeConfig(SmtpConfig(**smtp, outbound_timeout=outbound), ServiceConfig(**imap))


def _plain(found: Mapping[str, Effective]) -> dict[str, Any]:
    return {name: one.value for name, one in found.items()}


def fits(key: Key, value: object) -> bool:
    """Whether a kept value is one that this version knows and allows."""
    field = _BY_KEY.get(key)
    try:
        return field is not None and field.check(value) is not None
    except ValueError:
        return False


def checked(services: Iterable[str], given: Mapping[str, object]) -> dict[Key, Value | None]:
    """Return what to set for these services, None for what is the environment's again; raises `InvalidConfig`."""
    found: dict[Key, Value | None] = {}
    errors: dict[str, str] = {}
    for name, value in given.items():
        if name not in NAMES:
            errors[clean_text(str(name), 60)] = f"It is not known; the fields are {', '.join(NAMES)}."
            continue
        for service in services:
            try:
                found[service, name] = None if value is None else _BY_KEY[service, name].check(value)
            except ValueError as error:
                errors[name] = str(error)
    if errors:
        raise InvalidConfig(errors)
    return found
