"""What this process has in hand of each shared budget, and what it has spent: pure, no Redis, no loop (docs/adr/0009).

A budget is `rule.limit` for one window of one subject. It is shared: a process leases a block of it and spends the
block by itself. While nobody answers, it spends by its own count alone; what it spent so is charged to the shared
budget with the next lease.
"""

from __future__ import annotations

import enum
import math
from collections import OrderedDict, defaultdict
from dataclasses import dataclass

from mailflow.limits.rules import WITHIN, Rule, Verdict

BLOCKS_A_WINDOW = 20
MAX_ACCOUNTS_A_WINDOW = 25_000  # for each length of window; there are two


class Answer(enum.Enum):
    WITHIN = "within"
    EXCEEDED = "exceeded"
    ASK = "ask"  # not to be told without the shared budget


class Account:
    """One subject's window under one rule, as this process knows it; a new window is a new account."""

    __slots__ = ("empty_at_limit", "ends_at", "leased", "started_at_ms", "used")

    def __init__(self, ends_at: float) -> None:
        self.ends_at = ends_at
        self.started_at_ms = -1  # of the shared window; -1 before the first lease
        self.used = 0
        self.leased = 0  # less than `used` after a time without Redis
        self.empty_at_limit = -1  # the limit at which the shared budget was seen to be empty: it stays so


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """What to ask of a shared budget. Without `need` and `block` it is a look that takes nothing."""

    rule: Rule
    subject: str
    need: int  # what is waited for
    block: int  # what would be welcome
    debt: int  # what was spent without a lease
    account: Account
    used_before: int

    @property
    def key(self) -> bytes:
        return f"{self.rule.name}:{self.subject}".encode("utf-8", "backslashreplace")

    @property
    def window_ms(self) -> int:
        return self.rule.window_seconds * 1000


@dataclass(frozen=True, slots=True)
class Lease:
    """The answer: how much was granted out of the window that began then, and how much it still has."""

    started_at_ms: int
    granted: int
    left: int


class Ledger:
    """The accounts of one process, bounded in number. Not for several threads."""

    def __init__(self, max_accounts_a_window: int = MAX_ACCOUNTS_A_WINDOW) -> None:
        self._max_accounts = max_accounts_a_window
        # In the order of their beginning, and so, within one length of window, of their end.
        self._tables: dict[int, OrderedDict[tuple[str, str], Account]] = defaultdict(OrderedDict)

    def __len__(self) -> int:
        return sum(len(table) for table in self._tables.values())

    def spend(self, rule: Rule, subject: str, amount: int, now: float) -> Answer:
        """Spend out of the block in hand; EXCEEDED where the shared budget is known to be empty. The hot path."""
        account = self._tables[rule.window_seconds].get((rule.name, subject))
        if account is None or not 0 < account.ends_at - now <= rule.window_seconds:
            return Answer.ASK
        used = account.used + amount
        if used <= account.leased:
            account.used = used
            return Answer.WITHIN
        return Answer.EXCEEDED if account.empty_at_limit == rule.limit else Answer.ASK

    def look(self, rule: Rule, subject: str, now: float) -> Answer:
        """Whether `spend` of one would do, without doing it."""
        account = self._running(rule, subject, now)
        if account is None:
            return Answer.ASK
        if account.used < account.leased:
            return Answer.WITHIN
        return Answer.EXCEEDED if account.empty_at_limit == rule.limit else Answer.ASK

    def spend_alone(self, rule: Rule, subject: str, amount: int, now: float) -> Verdict:
        """Spend by this process's own count, while nobody can be asked; an amount of 0 is a look for one."""
        account = self._account(rule, subject, now)
        if account.used + max(1, amount) > rule.limit:
            return self.exceeded(rule, subject, now)
        account.used += amount
        return WITHIN

    def state(self, rule: Rule, subject: str, now: float) -> tuple[int, float]:
        """Return what is in hand, and when the window ends; while nobody answers, what the limit leaves."""
        account = self._running(rule, subject, now)
        if account is None:
            return 0, now + rule.window_seconds
        in_hand = account.leased - account.used
        return (in_hand if in_hand >= 0 else rule.limit - account.used), account.ends_at

    def exceeded(self, rule: Rule, subject: str, now: float) -> Verdict:
        account = self._running(rule, subject, now)
        seconds = math.ceil(account.ends_at - now) if account else rule.window_seconds
        return Verdict(True, rule.name, rule.words(subject), seconds)

    def request(self, rule: Rule, subject: str, need: int, now: float) -> LeaseRequest:
        """Say what to ask for, when `need` is waited for; 0 asks for nothing but the state."""
        account = self._account(rule, subject, now)
        missing = max(0, need - max(0, account.leased - account.used))
        block = max(1, rule.limit // BLOCKS_A_WINDOW) if need else 0
        debt = max(0, account.used - account.leased)
        return LeaseRequest(rule, subject, missing, block, debt, account, account.used)

    def granted(self, request: LeaseRequest, lease: Lease, asked_at: float) -> None:
        """Enter the answer; `asked_at` is the time before the question left."""
        account, window = request.account, request.rule.window_seconds
        if account.started_at_ms != lease.started_at_ms:
            # The first lease, or the shared window is another than before: what was left of a block is void with it.
            account.used = request.debt + account.used - request.used_before
            account.leased = 0
            account.started_at_ms = lease.started_at_ms
        account.leased += request.debt + lease.granted
        account.empty_at_limit = -1 if lease.left else request.rule.limit
        # Never later than the shared window's end; and never in a far future that another machine's clock made up.
        account.ends_at = min((lease.started_at_ms + request.window_ms) / 1000, asked_at + window)

    def _running(self, rule: Rule, subject: str, now: float) -> Account | None:
        account = self._tables[rule.window_seconds].get((rule.name, subject))
        # More than a window ahead: the clock was set back.
        return account if account and 0 < account.ends_at - now <= rule.window_seconds else None

    def _account(self, rule: Rule, subject: str, now: float) -> Account:
        account = self._running(rule, subject, now)
        if account is None:
            table, key = self._tables[rule.window_seconds], (rule.name, subject)
            table.pop(key, None)
            self._make_room(table, now)
            account = table[key] = Account(now + rule.window_seconds)
        return account

    def _make_room(self, table: OrderedDict[tuple[str, str], Account], now: float) -> None:
        """Drop the two oldest if they have ended, and the oldest in any case where the table is full.

        Two for each that is added is enough to drop all of them in time, without ever a walk through the table.
        """
        for _ in range(2):
            oldest = next(iter(table.values()), None)
            if oldest is None or (oldest.ends_at > now and len(table) < self._max_accounts):
                return
            table.popitem(last=False)
