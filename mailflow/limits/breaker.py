"""A circuit breaker: after a failure, nobody waits for the other side until a pause has passed and a try went well.

Pure: `now` is an argument. While it is open, one caller at a time is told to try; the others go on without.
"""

from __future__ import annotations

PAUSE_SECONDS = 5.0


class Breaker:
    def __init__(self, pause_seconds: float = PAUSE_SECONDS) -> None:
        self._pause = pause_seconds
        self._tried_at = 0.0
        self.is_open = False

    def failed(self, now: float) -> bool:
        """Open, or stay open for another pause; return whether this is news."""
        news, self.is_open, self._tried_at = not self.is_open, True, now
        return news

    def may_try(self, now: float) -> bool:
        """Whether the pause has passed; a clock that was set back counts as passed."""
        return self.is_open and not self._tried_at <= now < self._tried_at + self._pause

    def trying(self, now: float) -> None:
        self._tried_at = now

    def succeeded(self) -> None:
        self.is_open = False
