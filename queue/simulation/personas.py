"""How the addresses at sim.test behave, by their local parts (RFC 2606 §2 keeps `test` for this); pure.

`name@sim.test` or `name+argument@sim.test`. What an attempt hears depends on the address and on the attempt's number
alone, so that it is the same in every process and after every restart.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass

DOMAIN = "sim.test"

_STATUS = re.compile(r"[45]\.\d{1,3}\.\d{1,3}\Z")
_BASIC = {"2.2": "52", "3.1": "52", "3.4": "52"}  # the rest of the code by the enhanced one; else 50


class Act(enum.StrEnum):
    """What a host does in the place of an answer."""

    HANG_UP = "hang up"
    SAY_NOTHING = "say nothing"


class Host(enum.StrEnum):
    """The hosts of the simulated internet. Whoever spoils a session has one of its own and spoils nobody else's."""

    MX = "mx"
    STRICT = "strict"  # what it says of the content is said of all recipients
    SLOW = "slow"
    BROKEN_TLS = "tls-broken"
    NO_TLS = "no-tls"
    UNSTEADY = "unsteady"
    SILENT = "silent"

    @property
    def full_name(self) -> str:
        return f"{self.value}.{DOMAIN}"


Said = str | Act


@dataclass(frozen=True, slots=True)
class Answers:
    """What one recipient hears at RCPT and at the end of the content."""

    rcpt: Said = "250 2.1.5 Recipient ok"
    content: Said = "250 2.0.0 Taken by the simulated internet"


TAKEN = Answers()


@dataclass(frozen=True, slots=True)
class Persona:
    """One behaviour. `answers` is given the argument (empty where there is none) and the attempt's number, from 1."""

    name: str
    words: str
    answers: Callable[[str, int], Answers]
    host: Host = Host.MX
    complains: bool = False


def find(address: str) -> Persona | None:
    """Return how an address behaves; None for all that are simply captured."""
    local, _, domain = address.lower().rpartition("@")
    return PERSONAS.get(local.partition("+")[0]) if domain == DOMAIN else None


def answers(address: str, attempt: int) -> Answers:
    """Return what this attempt hears; an address without a behaviour is taken."""
    persona = find(address)
    argument = address.lower().rpartition("@")[0].partition("+")[2]
    return persona.answers(argument, attempt) if persona else TAKEN


def _taken(_argument: str, _attempt: int) -> Answers:
    return TAKEN


def _bounced(argument: str, _attempt: int) -> Answers:
    return Answers(rcpt=_refusal(argument or "5.1.1", "the mailbox"))


def _rejected(argument: str, _attempt: int) -> Answers:
    return Answers(content=_refusal(argument or "5.7.1", "the content"))


def _refusal(status: str, what: str) -> str:
    if not _STATUS.match(status):
        return f"550 5.1.3 +{status[:20]} is no status such as 5.1.1, so this is refused as it stands"
    rest = _BASIC.get(status[2:], "50")
    words = "refuses for now" if status.startswith("4") else "refuses"
    return f"{status[0]}{rest} {status} The simulated internet {words} {what}, as the address asks"


def _at_first(answer: Callable[[str], Answers], otherwise: int) -> Callable[[str, int], Answers]:
    """Answer so for as many attempts as the argument says; without a number for `otherwise` many."""

    def answers(argument: str, attempt: int) -> Answers:
        is_number = argument.isascii() and argument.isdigit() and len(argument) <= 9
        count = int(argument) if is_number else otherwise
        return answer(f"attempt {attempt} of {count}") if attempt <= count else TAKEN

    return answers


ALWAYS = 10**9

PERSONAS = {
    persona.name: persona
    for persona in (
        Persona("ok", "takes everything", _taken),
        Persona("bounced", "refused at RCPT for good: 5.1.1, or the status that is named, such as +5.2.2", _bounced),
        Persona("rejected", "refused after the content: 5.7.1, or the status that is named", _rejected, Host.STRICT),
        Persona(
            "defer",
            "deferred once, or as many times as the number says, then taken",
            _at_first(lambda which: Answers(f"451 4.3.0 Come back later ({which} that is deferred)"), 1),
        ),
        Persona(
            "greylist",
            "deferred as an unknown sender at the first attempt, then taken",
            _at_first(lambda _which: Answers("450 4.7.1 Greylisted, come back in a while"), 1),
        ),
        Persona(
            "full",
            "a mailbox without room, always or as many times as the number says",
            _at_first(lambda _which: Answers("452 4.2.2 The mailbox is full"), ALWAYS),
        ),
        Persona("complained", "taken, and then its reader reports it as spam", _taken, complains=True),
        Persona("slow", "taken, but every answer takes a second", _taken, Host.SLOW),
        Persona("tls-broken", "STARTTLS is offered and fails, and in clear nothing is taken", _taken, Host.BROKEN_TLS),
        Persona("no-tls", "taken in clear: STARTTLS is not offered", _taken, Host.NO_TLS),
        Persona(
            "disconnect",
            "hangs up at RCPT, always or as many times as the number says",
            _at_first(lambda _which: Answers(rcpt=Act.HANG_UP), ALWAYS),
            Host.UNSTEADY,
        ),
        Persona(
            "timeout",
            "says nothing at RCPT, always or as many times as the number says",
            _at_first(lambda _which: Answers(rcpt=Act.SAY_NOTHING), ALWAYS),
            Host.SILENT,
        ),
    )
}
