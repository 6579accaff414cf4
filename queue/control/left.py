"""Why an order leaves an entry alone."""

from __future__ import annotations

import enum


class Left(enum.StrEnum):
    """The reasons by their names in the API."""

    IN_HANDS = "in_hands"
    AT_WORKER = "at_worker"
    RECALLED = "in_worker"
    UNANSWERED = "in_silent_worker"
    UNDER_WAY = "held_after_attempt"
    ENDED = "ended"
    HELD = "on_hold"
    UNCHANGED = "unchanged"
    SCHEDULED = "scheduled"
    EXPIRES_FIRST = "expires_first"
    SANDBOX = "sandbox"


LEFT_WORDS = {
    Left.IN_HANDS: "being delivered right now",
    Left.AT_WORKER: "with a worker already: being delivered, or waiting there for their turn",
    Left.RECALLED: "waiting in a worker, which is to give them back",
    Left.UNANSWERED: "with a worker that does not answer",
    Left.UNDER_WAY: "with a worker, and held unless it is delivering them right now and succeeds",
    Left.ENDED: "ended or changed meanwhile",
    Left.HELD: "on hold, to be released first",
    Left.UNCHANGED: "already as asked for",
    Left.SCHEDULED: "scheduled by the sender for later",
    Left.EXPIRES_FIRST: "expiring before that time",
    Left.SANDBOX: "of the sandbox, whose mail goes to the simulated internet whatever the route",
}
