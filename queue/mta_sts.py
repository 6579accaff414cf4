"""MTA-STS as text: the record that announces a policy, the policy, and the hosts it names (RFC 8461 §3, §4.1); pure."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass

from accounts.names import InvalidName, parse_domain

MAX_AGE_SECONDS = 31_557_600
MAX_PATTERNS = 100

_ID = re.compile(r"[A-Za-z0-9]{1,32}")
_FIELD = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31})=([\x21-\x3a\x3c\x3e-\x7e]+)")
_LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31}):[ \t]*(.*?)[ \t]*")


class Mode(enum.StrEnum):
    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"


class InvalidPolicy(ValueError):
    """The text is no policy; it says why, without quoting what anybody wrote."""


@dataclass(frozen=True, slots=True)
class Policy:
    """`mx`: patterns of host names, lower case. `max_age`: seconds that it holds from when it was fetched."""

    mode: Mode
    mx: tuple[str, ...]
    max_age: int

    @property
    def lines(self) -> tuple[str, ...]:
        """The policy as reports show it (RFC 8460 §4.5)."""
        patterns = (f"mx: {pattern}" for pattern in self.mx)
        return ("version: STSv1", f"mode: {self.mode}", *patterns, f"max_age: {self.max_age}")


def record_id(texts: Iterable[str]) -> str:
    """Return the id in the TXT records at `_mta-sts`; empty where there is not exactly one that is valid."""
    records = [text for text in texts if re.match(r"v=STSv1[ \t]*;", text)]
    if len(records) != 1:
        return ""
    fields = [part.strip(" \t") for part in records[0].split(";")]
    if fields[-1] == "":
        fields.pop()
    found = ""
    for text in fields[1:]:
        parts = _FIELD.fullmatch(text)
        if parts is None:
            return ""
        if parts[1] == "id" and not found:
            found = parts[2]
    return found if _ID.fullmatch(found) else ""


def parse(body: bytes) -> Policy:
    """Read a policy, or raise `InvalidPolicy`. Of a field that comes twice the first counts; unknown ones do not."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidPolicy("the policy is not UTF-8") from None
    fields: dict[str, str] = {}
    patterns: list[str] = []
    for line in re.split(r"\r?\n", text):
        if not line.strip():
            continue
        parts = _LINE.fullmatch(line)
        if parts is None:
            raise InvalidPolicy("the policy has a line that is no field")
        if parts[1] == "mx":
            patterns.append(_pattern(parts[2]))
        else:
            fields.setdefault(parts[1], parts[2])
    return _policy(fields, patterns)


def _policy(fields: dict[str, str], patterns: list[str]) -> Policy:
    if fields.get("version") != "STSv1":
        raise InvalidPolicy("the policy's version is not STSv1")
    try:
        mode = Mode(fields.get("mode", ""))
    except ValueError:
        raise InvalidPolicy("the policy's mode is none of enforce, testing and none") from None
    max_age = fields.get("max_age", "")
    if not re.fullmatch(r"[0-9]{1,10}", max_age):
        raise InvalidPolicy("the policy has no max_age that is a number")
    if not patterns and mode is not Mode.NONE:
        raise InvalidPolicy("the policy names no mx")
    if len(patterns) > MAX_PATTERNS:
        raise InvalidPolicy(f"the policy names more than {MAX_PATTERNS} mx")
    return Policy(mode, tuple(patterns), min(int(max_age), MAX_AGE_SECONDS))


def _pattern(text: str) -> str:
    name = text.removeprefix("*.")
    if not name.isascii():
        raise InvalidPolicy("an mx of the policy is not in A-labels")
    try:
        return ("*." if name != text else "") + parse_domain(name)
    except InvalidName:
        raise InvalidPolicy("an mx of the policy is no host name") from None


def names_host(policy: Policy, host: str) -> bool:
    """Whether the policy allows this exchanger; a wildcard stands for the first label alone (RFC 8461 §4.1)."""
    host = host.lower().rstrip(".")
    above = "*." + host.partition(".")[2]
    return host in policy.mx or above in policy.mx
