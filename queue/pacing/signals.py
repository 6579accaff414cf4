"""What the end of a delivery says about its destination, and not about its recipients (pure; RFC 5321 §4.2.1)."""

from __future__ import annotations

import enum
from collections.abc import Iterable

from queue.outcome import Kind, Outcome

_PACED = "smtp"  # what other transports answer says nothing about a foreign host
_BUSY_CODES = (450, 451, 452)
_OF_ONE_ADDRESS = ("4.1.", "4.2.")  # enhanced codes about one address or one mailbox
_UNREACHABLE = ("4.4.1", "4.4.3", "4.4.4")  # no connection, DNS gave no answer, no exchanger found
_LOST = "4.4.2"


class Signal(enum.IntEnum):
    """In the order of weight: of several outcomes of one delivery the heaviest counts, unless one was delivered."""

    NOTHING = 0  # ours, or nothing that tells of the destination
    ANSWERED = 1  # it spoke, and refused this mail alone
    DELIVERED = 2
    BUSY = 3  # 450, 451, 452, 4.7.x: less, please
    CLOSING = 4  # 421
    LOST = 5  # the line broke, or it fell silent
    UNREACHABLE = 6


def of_outcome(outcome: Outcome) -> Signal:
    if outcome.kind is Kind.DELIVERED:
        return Signal.DELIVERED
    if outcome.transport != _PACED:
        return Signal.NOTHING
    if outcome.code == 421:
        return Signal.CLOSING
    if outcome.kind is Kind.FAILED:
        return Signal.ANSWERED if outcome.code is not None else Signal.NOTHING
    if outcome.code is None:
        return _without_reply(outcome.enhanced_code)
    if outcome.enhanced_code.startswith(_OF_ONE_ADDRESS):
        return Signal.ANSWERED
    if outcome.code in _BUSY_CODES or outcome.enhanced_code.startswith("4.7."):
        return Signal.BUSY
    return Signal.ANSWERED


def of_delivery(outcomes: Iterable[Outcome]) -> tuple[Signal, str]:
    """Return the signal of one delivery to several recipients, and the words that it comes from."""
    best, words = Signal.NOTHING, ""
    for outcome in outcomes:
        signal = of_outcome(outcome)
        if signal is Signal.DELIVERED:
            return signal, ""
        if signal > best:
            best, words = signal, " ".join(filter(None, [str(outcome.code or ""), outcome.reply]))
    return best, words


def _without_reply(enhanced_code: str) -> Signal:
    if enhanced_code in _UNREACHABLE:
        return Signal.UNREACHABLE
    if enhanced_code == _LOST:
        return Signal.LOST
    return Signal.BUSY if enhanced_code.startswith("4.7.") else Signal.NOTHING
