"""Typed readers of environment variables: a wrong value stops the start with one line.

The line names the variable, the value and what is allowed. It leaves as `SystemExit`, so that every entry point
(manage.py, Celery, gunicorn) prints it without a traceback and ends with status 1.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TypeVar
from urllib.parse import urlsplit

from accounts.names import parse_address, parse_domain
from accounts.webhooks import signature, target

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
T = TypeVar("T")

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off", ""}
_DEFAULT_PORTS = {"http": 80, "https": 443}
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

    def given(self) -> frozenset[str]:
        """Return the names of all variables that have a value, ours and others'."""
        return frozenset(name for name, value in self._values.items() if value.strip())

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

    def choices(self, name: str, allowed: Sequence[str]) -> list[str]:
        """Several of the words, all of them by default; in the order of `allowed`."""

        def convert(value: str) -> list[str]:
            found = {word.strip().lower() for word in value.split(",") if word.strip()}
            if not found or not found <= set(allowed):
                raise ValueError(value)
            return [word for word in allowed if word in found]

        return self._convert(name, list(allowed), convert, f"some of {', '.join(allowed)}, separated by commas")

    def webhook_url(self, name: str, allowed_networks: Sequence[IPNetwork]) -> str:
        """A URL that events may be sent to; empty for none."""

        def convert(value: str) -> str:
            return target.parse(value, allowed_networks).url

        allowed = "an http:// or https:// URL without a password, whose host is public or in WEBHOOK_ALLOWED_NETWORKS"
        return self._convert(name, "", convert, allowed)

    def origins(self, name: str) -> list[str]:
        """Origins as browsers write them (RFC 6454 §6.2), or `*` alone for all."""

        def convert(value: str) -> list[str]:
            parts = [part.strip() for part in value.split(",")]
            return parts if parts == ["*"] else [_origin(part) for part in parts]

        allowed = "origins such as https://app.example.com separated by commas, without paths, or * alone"
        return self._convert(name, [], convert, allowed)

    def webhook_secret(self, name: str) -> bytes:
        """`whsec_` and base64; empty for none. The value is never shown."""
        text = self.text(name)
        try:
            return signature.parse_secret(text) if text else b""
        except ValueError:
            raise SettingError(name, text, "whsec_ and 24 to 64 octets in base64", secret=True) from None

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

    def encryption_keys(self, name: str) -> list[bytes]:
        """Keys of 32 octets each in base64; the value is never shown."""
        try:
            keys = [base64.b64decode(word, validate=True) for word in self.words(name, [])]
        except ValueError:
            keys = [b""]
        if any(len(key) != 32 for key in keys):
            allowed = "32 octets in base64 (openssl rand -base64 32), several separated by commas, the newest first"
            raise SettingError(name, "", allowed, secret=True)
        return keys

    def host_name(self, name: str, default: str) -> str:
        """A host name in lower-case A-label form (RFC 5890)."""
        return self._convert(name, default, parse_domain, "a host name such as mail.example.com")

    def address(self, name: str, default: str) -> str:
        """A mailbox address in ASCII."""

        def convert(value: str) -> str:
            if not value.isascii():
                raise ValueError(value)
            return str(parse_address(value))

        return self._convert(name, default, convert, "an address such as postmaster@example.com")

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


def _origin(text: str) -> str:
    """Write an origin as browsers send it: lower case, a name in its ASCII form, no port that goes without saying."""
    found = urlsplit(text)
    if found.scheme not in _DEFAULT_PORTS or not found.hostname or "@" in found.netloc:
        raise ValueError(text)
    if found.path.strip("/") or found.query or found.fragment or "*" in text:
        raise ValueError(text)
    host = f"[{ipaddress.IPv6Address(found.hostname)}]" if ":" in found.hostname else _host(found.hostname)
    port = "" if found.port in (None, _DEFAULT_PORTS[found.scheme]) else f":{found.port}"
    return f"{found.scheme}://{host}{port}"


def _host(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        return parse_domain(text)


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
