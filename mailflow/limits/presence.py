"""How many connections the other listeners hold, from what each of them says about once a second (contract §2).

Pure. A report is a beat and a count, `17:42`. A listener whose beat stands still for a few seconds of our own clock is
gone: no machine's clock is compared with another's.
"""

from __future__ import annotations

from collections.abc import Mapping

SILENCE_SECONDS = 3.0


def report(beat: int, connections: int) -> bytes:
    return f"{beat}:{connections}".encode()


class OtherListeners:
    """What was last heard of each; `gone` names those whose report is to be removed."""

    def __init__(self) -> None:
        self._heard: dict[bytes, tuple[bytes, float]] = {}
        self.gone: list[bytes] = []

    def hear(self, reports: Mapping[bytes, bytes], now: float) -> int:
        """Take all reports but our own; return the sum of the connections of those that live."""
        heard, self.gone, connections = {}, [], 0
        for name, text in reports.items():
            last, changed_at = self._heard.get(name, (b"", now))
            if text != last or changed_at > now:
                changed_at = now
            heard[name] = (text, changed_at)
            if now - changed_at > SILENCE_SECONDS:
                self.gone.append(name)
            else:
                connections += _count(text)
        self._heard = heard
        return connections

    def forget(self) -> None:
        """Know of nobody, as after a time without news."""
        self._heard, self.gone = {}, []


def _count(text: bytes) -> int:
    count = text.rpartition(b":")[2]
    return int(count) if count.isdigit() and len(count) < 10 else 0
