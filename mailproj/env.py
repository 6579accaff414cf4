"""Typed readers of environment variables: a wrong value stops the start with one line.

The line names the variable, the value and what is allowed. It leaves as `SystemExit`, so that every entry point
(manage.py, Celery, gunicorn) prints it without a traceback and ends with status 1.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import TypeVar

from accounts.names import parse_domain

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
T = TypeVar("T")

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off", ""}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST_SECONDS = 10 * 365 * 86400


class SettingError(SystemExit):
    """One wrong setting; `str()` is the line that the operator reads."""

    def __init__(self, name: str, value: str | None, allowed: str, *, secret: bool = False) -> None:
        shown = "is not set" if value is None else f"has the value {'(hidden)' if secret else repr(value)}"
        super().__init__(f"Setting {name} {shown}; allowed: {allowed}.")


class Environment:
    """Reads settings from a mapping (normally `os.environ` over `.env`)."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def _read(self, names: str | tuple[str, ...]) -> tuple[str, str | None]:
        """Return the first of the names that is set, with its value; an alias never hides the main name."""
        candidates = (names,) if isinstance(names, str) else names
        for name in candidates:
            value = self._values.get(name)
            if value is not None and value.strip() != "":
                return name, value.strip()
        return candidates[0], None

    def _convert(self, names: str | tuple[str, ...], default: T, convert: Callable[[str], T], allowed: str) -> T:
        name, value = self._read(names)
        if value is None:
            return default
        try:
            return convert(value)
        except ValueError:
            raise SettingError(name, value, allowed) from None

    def text(self, names: str | tuple[str, ...], default: str = "") -> str:
        return self._read(names)[1] or default

    def required(self, name: str, allowed: str) -> str:
        value = self._read(name)[1]
        if value is None:
            raise SettingError(name, None, allowed)
        return value

    def boolean(self, names: str | tuple[str, ...], default: bool) -> bool:
        def convert(value: str) -> bool:
            lowered = value.lower()
            if lowered in _TRUE:
                return True
            if lowered in _FALSE:
                return False
            raise ValueError(value)

        return self._convert(names, default, convert, "true or false")

    def integer(self, names: str | tuple[str, ...], default: int, *, low: int, high: int) -> int:
        def convert(value: str) -> int:
            number = int(value)
            if not low <= number <= high:
                raise ValueError(value)
            return number

        return self._convert(names, default, convert, f"a whole number from {low} to {high}")

    def port(self, name: str, default: int) -> int:
        """A TCP port; 0 turns the listener off."""
        return self.integer(name, default, low=0, high=65535)

    def ports(self, name: str, default: list[int]) -> list[int]:
        def convert(value: str) -> list[int]:
            if value.lower() == "none":
                return []
            found = [int(part) for part in value.split(",")]
            if not all(1 <= port <= 65535 for port in found):
                raise ValueError(value)
            return found

        return self._convert(name, default, convert, "ports (1 to 65535) separated by commas, or none")

    def choice(self, names: str | tuple[str, ...], default: str, allowed: Iterable[str]) -> str:
        options = list(allowed)

        def convert(value: str) -> str:
            lowered = value.lower()
            if lowered not in options:
                raise ValueError(value)
            return lowered

        return self._convert(names, default, convert, " or ".join([", ".join(options[:-1]), options[-1]]))

    def words(self, name: str, default: list[str]) -> list[str]:
        return self._convert(name, default, lambda v: [w.strip() for w in v.split(",") if w.strip()], "a list")

    def networks(self, name: str, default: list[str]) -> list[IPNetwork]:
        def convert(value: str) -> list[IPNetwork]:
            parts = [] if value.lower() == "none" else value.split(",")
            return [ipaddress.ip_network(part.strip(), strict=False) for part in parts]

        networks = [ipaddress.ip_network(part) for part in default]
        return self._convert(name, networks, convert, "networks such as 10.0.0.0/8 separated by commas, or none")

    def seconds(
        self, names: str | tuple[str, ...], default: float, *, low: float = 0, high: float = LONGEST_SECONDS
    ) -> float:
        """A duration in seconds; `90`, `1.5`, `15m`, `4h` and `5d` are understood."""
        allowed = f"a duration such as 30, 15m, 4h or 5d, {_range(low, high)}"
        return self._convert(names, default, lambda value: _bounded(value, low, high), allowed)

    def durations(self, name: str, default: str, *, low: float = 0, high: float = LONGEST_SECONDS) -> list[timedelta]:
        def convert(value: str) -> list[timedelta]:
            return [timedelta(seconds=_bounded(part.strip(), low, high)) for part in value.split(",")]

        allowed = f"durations separated by commas, such as 1m,5m,30m,2h, each {_range(low, high)}"
        return self._convert(name, convert(default), convert, allowed)

    def host_name(self, name: str, default: str) -> str:
        """A host name in lower-case A-label form (RFC 5890)."""
        return self._convert(name, default, parse_domain, "a host name such as mail.example.com")

    def nameservers(self, name: str) -> list[tuple[str, int]]:
        """`address` or `address:port`, several separated by commas; empty means the system's resolver."""

        def convert(value: str) -> list[tuple[str, int]]:
            found = []
            for part in value.split(","):
                host, port = split_host_port(part.strip(), 53)
                found.append((str(ipaddress.ip_address(host)), port))
            return found

        return self._convert(name, [], convert, "address or address:port, separated by commas")


def parse_seconds(text: str) -> float:
    """Read `30`, `1.5s`, `15m`, `4h`, `5d` as seconds; anything else, or less than zero, is a ValueError."""
    unit = _UNITS.get(text[-1:].lower())
    number = float(text if unit is None else text[:-1]) * (unit or 1)
    if not 0 <= number <= LONGEST_SECONDS:
        raise ValueError(text)
    return number


def _bounded(text: str, low: float, high: float) -> float:
    number = parse_seconds(text)
    if not low <= number <= high:
        raise ValueError(text)
    return number


def _range(low: float, high: float) -> str:
    return f"from {_spoken(low)} to {_spoken(high)}"


def _spoken(seconds: float) -> str:
    """Write a duration in the largest unit that keeps it whole, as it may be given."""
    for unit, length in reversed(_UNITS.items()):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"


def split_host_port(text: str, default_port: int) -> tuple[str, int]:
    """Split `host:port`, `[v6]:port` or a bare host."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, int(rest.removeprefix(":") or default_port)
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, int(port)
    return text, default_port
