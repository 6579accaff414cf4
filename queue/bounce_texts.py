"""What hosts write in bounces that follow no standard, and in replies without an enhanced code; data, and pure.

Each expression is tried on a few kilobytes at most, and none of them can go back over what it has read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable


def _any(phrases: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{phrase})" for phrase in phrases), re.IGNORECASE)


_WHOM = "(?:user|recipient|mailbox|account|address|addressee|alias)"
_GONE = "(?:unknown|not found|not exist|doesn.t exist|not known|not recognized|no longer (?:exists|valid|available))"

# The recipient does not exist, or not any more.
UNKNOWN = _any(
    [
        rf"{_WHOM}\b.{{0,40}}\b{_GONE}",
        rf"(?:unknown|invalid|nonexistent|non-existent|no such) (?:local )?{_WHOM}",
        r"no (?:mailbox|account|user|recipient)\b.{0,20}\b(?:here|by that name|with that name|found)",
        r"does not exist",
        r"not a (?:known|valid) (?:user|mailbox|recipient)",
        r"recipient address rejected: access denied",
        r"address(?:ee)? (?:could not be|wasn.t|was not) found",
        r"not listed in (?:the )?(?:domino|public) directory",
        r"(?:account|mailbox)\b.{0,30}\b(?:disabled|deactivated|suspended|closed|terminated)",
    ]
)

# The message or its sender is not wanted; another message may be.
BLOCKED = _any(
    [
        r"spam",
        r"\bblock(?:ed|list)",
        r"black ?list",
        r"\b(?:dns|r)bl\b",
        r"spamhaus|spamcop|barracuda",
        r"reputation",
        r"policy",
        r"\bspf\b|\bdkim\b|\bdmarc\b",
        r"unsolicited",
        r"not (?:allowed|permitted|authori[sz]ed)",
        r"relay(?:ing)? (?:access )?denied",
        r"too many|rate.?limit|throttl",
        r"virus|malware|phish",
        r"content (?:rejected|refused)|message (?:rejected|refused)",
        r"reverse dns|\bptr\b",
    ]
)

# There is no room for it.
FULL = _any(
    [
        r"(?:mailbox|inbox|quota|storage|account)\b.{0,30}\b(?:full|exceed\w*|over)",
        r"over (?:its |the )?quota",
        r"insufficient (?:system )?storage",
        r"out of (?:storage )?space",
    ]
)

# A text that tells of a failure which is final. One of them must be there, or the mail is no bounce.
FAILED = _any(
    [
        r"could ?n[o']t be delivered",
        r"could not deliver",
        r"was not able to deliver|unable to deliver|wasn.t able to deliver",
        r"delivery to the following recipients? (?:has )?failed",
        r"delivery has failed to these recipients",
        r"did not reach (?:some or all of )?(?:the|its) intended recipient",
        r"(?:cannot|could not) be reached",
        r"had permanent fatal errors",
        r"permanent (?:fatal )?(?:error|failure)",
        r"fatal error",
        r"returned to (?:the )?sender",
        r"undeliverable",
        r"message that you sent could not",
        r"your message wasn.t delivered",
        r"recipients? of (?:your|this) message .{0,20}(?:unknown|does not exist)",
        r"user unknown",
    ]
)

# A text that tells of a delay only: nothing has failed yet.
DELAYED = _any(
    [
        r"this is (?:only )?a warning",
        r"warning (?:message )?only",
        r"(?:you do not|no) need to (?:re-?send|resubmit)",
        r"delivery (?:attempts? )?will (?:continue|be retried)",
        r"will continue to (?:try|attempt)",
        r"has(?: been| not yet been)? delayed",
        r"has not yet been delivered",
        r"delivery status notification \(delay\)",
    ]
)

# Where a copy of the message begins in a text without parts.
COPY = re.compile(
    r"^[ ]{0,8}(?:-{3,} ?below this line is a copy of the message\.?"
    r"|-{3,} this is a copy of (?:the|your) message, including all the headers\.? ?-{3,}"
    r"|-{2,} ?original message(?: follows)? ?-{2,}"
    r"|-{3,} ?(?:returned|undelivered|unsent) (?:message|mail)(?: (?:follows|below))? ?-{3,}"
    r"|-{3,} ?the header of the original message is following\.? ?-{3,}"
    r"|original message headers:)[^\n]{0,40}$",
    re.IGNORECASE | re.MULTILINE,
)

# The subject and From of what no human being has written.
SUBJECT = _any(
    [
        r"undeliver|non.?deliver|not delivered",
        r"(?:delivery|mail) (?:status|failure|error|problem|delivery|system|subsystem)",
        r"failure notice|returned mail|returned to sender|delivery (?:has )?failed|mail failure|nondeliverable",
    ]
)
FROM = re.compile(
    r"(?:mailer-daemon|postmaster|mail-daemon|mdaemon|mailerdaemon|microsoftexchange[0-9a-f]*)\b", re.IGNORECASE
)

ADDRESS = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9-]{0,62}\.){1,10}[A-Za-z0-9-]{1,62}[A-Za-z0-9]"
)
