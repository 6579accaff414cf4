"""What a failure says about a recipient: gone, in trouble for now, or nothing (RFC 3463 §3); pure, mostly data.

Only what is about the address itself may put it on the suppression list. A block, a message that is too large or of the
wrong form is about us or about the message: the same recipient takes the next one.
"""

from __future__ import annotations

import enum
import re

from queue.bounce_texts import BLOCKED, FULL, UNKNOWN

_CODE = re.compile(r"(?<![\d.])([45])\.(\d{1,3})\.(\d{1,3})(?![.\d])")
_BASIC = re.compile(r"(?<![\d.])([45]\d\d)(?![.\d])")
_GONE_BASIC = frozenset(["550", "551", "553", "556"])  # RFC 5321 §4.2.3: about the mailbox, not the transaction

# By subject and detail. What is in none of these is judged by the words, and counted where they say nothing.
_GONE = frozenset(["1.0", "1.1", "1.2", "1.3", "1.6", "1.10", "2.1"])
_NOT_THE_RECIPIENT = frozenset(["1.7", "1.8", "1.9", "2.3", "3.3", "3.4", "4.6", "5.3"])
_NOT_THE_RECIPIENT_SUBJECTS = frozenset(["6", "7"])
_VAGUE = frozenset(["0.0", "2.0", "3.0", "4.0", "4.1", "5.0"])  # written by hosts that mean many things by it


class Weight(enum.StrEnum):
    """HARD: nobody is there. SOFT: it may be better next time, and is counted. NONE: not about the recipient."""

    HARD = "hard"
    SOFT = "soft"
    NONE = "none"


def status_in(text: str) -> str:
    """Return the enhanced code that a text holds, of class 4 or 5; empty where there is none."""
    found = _CODE.search(text)
    return f"{found[1]}.{int(found[2])}.{int(found[3])}" if found else ""


def basic_code_in(text: str) -> str:
    found = _BASIC.search(text)
    return found[1] if found else ""


def weigh(status: str, words: str, *, code: str = "") -> Weight:
    """Judge a final failure by its enhanced code, else by the words and the basic code of the reply."""
    kind, _, rest = status.partition(".")
    subject = rest.partition(".")[0]
    if subject in _NOT_THE_RECIPIENT_SUBJECTS or rest in _NOT_THE_RECIPIENT:
        return Weight.NONE
    if kind == "4":
        return Weight.SOFT
    if rest in _GONE:
        return Weight.HARD
    if not rest or rest in _VAGUE:
        return _by_words(words, code or basic_code_in(words))
    return Weight.SOFT


def _by_words(words: str, code: str) -> Weight:
    if code.startswith("4"):
        return Weight.SOFT
    if UNKNOWN.search(words):
        return Weight.HARD
    if BLOCKED.search(words):
        return Weight.NONE
    if FULL.search(words):
        return Weight.SOFT
    return Weight.HARD if code in _GONE_BASIC else Weight.SOFT
