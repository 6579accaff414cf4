"""How much chatter a session may cost before it is cut off (RFC 5321 §4.3.2, §7.8); pure."""

from __future__ import annotations

MAX_BAD_COMMANDS = 10  # not understood, a session
MAX_REFUSED_COMMANDS = 100  # understood and answered 4xx or 5xx, a session: what harvests addresses lives on these
MAX_IDLE_COMMANDS = 100  # answered 2xx and no step towards a message, since the last accepted one
TIRESOME_COMMANDS = 5  # not understood or refused: from then on an answer may be held back for a while
FUTILE_RCPT_FACTOR = 2  # times SMTP_MAX_RECIPIENTS: RCPTs repeated or over that limit, since the last accepted message


class Conduct:
    """What one session did so far. Each method counts one command and says why that was one too many, or nothing."""

    __slots__ = ("_bad", "_futile", "_idle", "_refused")

    def __init__(self) -> None:
        self._bad = self._refused = self._idle = self._futile = 0

    @property
    def is_tiresome(self) -> bool:
        return self._bad + self._refused > TIRESOME_COMMANDS

    def bad(self) -> str:
        self._bad += 1
        return f"{MAX_BAD_COMMANDS} commands were not understood" if self._bad >= MAX_BAD_COMMANDS else ""

    def refused(self) -> str:
        self._refused += 1
        return f"{MAX_REFUSED_COMMANDS} commands were refused" if self._refused >= MAX_REFUSED_COMMANDS else ""

    def idle(self) -> str:
        self._idle += 1
        return f"More than {MAX_IDLE_COMMANDS} commands sent no mail" if self._idle > MAX_IDLE_COMMANDS else ""

    def futile_recipient(self, max_recipients: int) -> str:
        self._futile += 1
        limit = FUTILE_RCPT_FACTOR * max_recipients
        return f"More than {limit} recipients were repeated or too many" if self._futile > limit else ""

    def message_accepted(self) -> None:
        """A client that sends mail may go on for as long as it likes."""
        self._idle = self._futile = 0
