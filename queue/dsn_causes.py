"""What enhanced status codes mean to a sender, and what the sender can do (RFC 3463 §3, RFC 5248); data.

The same code says one thing where another host said it, and another where we found it ourselves: then it is known what
is meant by it, and often nobody on the other side can do anything about it.
"""

from __future__ import annotations

from dataclasses import dataclass

from queue.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Cause:
    """Two sentences for people."""

    meaning: str
    remedy: str


_ASK_RECIPIENT = "Please ask the recipient, by another way than this address, to look into it."
_CHECK_ADDRESS = "Please check the address for typing errors, and whether the recipient has a new one."
_ASK_POSTMASTER = (
    "The recipient can do nothing about it. Please show this report to your postmaster, and send the message again "
    "when it is mended."
)
_WITHOUT_REQUIRETLS = (
    "If the message may go without that protection, please send it again without it; else reach the recipient another "
    "way."
)
_WANTS_SECURITY = Cause(
    "The other mail system wants an encrypted line or a login before it takes the message.",
    "Its answer above may say which. Please show this report to your postmaster.",
)

# By the code without its class: the exact code first, then its subject alone.
_CAUSES = {
    "1": Cause("There is something wrong with the recipient's address.", _CHECK_ADDRESS),
    "1.1": Cause("The recipient's address does not exist there.", _CHECK_ADDRESS),
    "1.2": Cause("The recipient's mail domain does not exist.", "Please check the part of the address behind the @."),
    "1.6": Cause("The recipient has moved and left no new address.", "Please ask the recipient for the new address."),
    "1.8": Cause(
        "The other side does not accept your own address as sender.",
        "Please check the sender address that your mail program uses.",
    ),
    "1.10": Cause("The recipient's domain takes no mail at all.", _CHECK_ADDRESS),
    "2": Cause("The recipient's mailbox cannot take the message.", _ASK_RECIPIENT),
    "2.1": Cause("The recipient's mailbox is switched off.", _ASK_RECIPIENT),
    "2.2": Cause("The recipient's mailbox is full.", "Please ask the recipient to make room, then send it again."),
    "2.3": Cause(
        "The message is larger than the recipient's mailbox allows.",
        "Please send it in smaller parts, or put large attachments elsewhere and send a link.",
    ),
    "3": Cause("The recipient's mail system could not take the message.", "Please send it again later."),
    "3.3": Cause(
        "The other mail system cannot do what your message asks for, such as to keep a deadline (DELIVERBY).",
        "Please send it again without that wish.",
    ),
    "3.4": Cause(
        "The message is larger than the other mail system allows.",
        "Please send it in smaller parts, or put large attachments elsewhere and send a link.",
    ),
    "3.5": Cause(
        "The other mail system says that it is not set up to take this message.",
        "Please ask the recipient, by another way than this address, to show its answer above to their postmaster.",
    ),
    "4": Cause("The recipient's mail system could not be reached.", "Please send it again later."),
    "4.3": Cause(
        "The other mail system could not look up what it needs to take the message.",
        "Please send it again later. If it comes back again, please ask the recipient, by another way than this "
        "address, to show its answer above to their postmaster.",
    ),
    "4.6": Cause("The message went round in a circle between mail systems.", _ASK_RECIPIENT),
    "4.7": Cause(
        "The message could not be passed on in the time allowed, and no more attempts will be made.",
        "Please send it again later, or reach the recipient another way.",
    ),
    "5": Cause("The two mail systems did not understand one another.", "Please tell your postmaster."),
    "5.3": Cause("The message had too many recipients at once.", "Please send it to fewer recipients at a time."),
    "6.3": Cause(
        "The message is in a form that cannot be passed on to the other mail system.",
        "Please send it with its attachments encoded (base64), as mail programs do by default.",
    ),
    "6.7": Cause(
        "An address in the message holds characters beyond plain English letters, digits and signs (SMTPUTF8), and the "
        "other mail system cannot handle such mail.",
        "Please write from and to addresses without such characters, if there are any, or ask the recipient for one.",
    ),
    "6.9": Cause(
        "The header of the message holds characters beyond plain English letters, digits and signs (SMTPUTF8), and the "
        "other mail system cannot handle such mail.",
        "Please write from and to addresses without such characters, if there are any, or ask the recipient for one.",
    ),
    "6": Cause("The other side cannot handle the form of the message.", "Please send it in a plainer form."),
    "7": Cause(
        "The other side refuses the message by its rules.",
        "Its answer above may say why. If you think that it errs, please ask the recipient to let your mail in.",
    ),
    "7.1": Cause(
        "The other side does not allow you to send to this recipient, or takes the message for unwanted mail.",
        "Its answer above may say why. If you think that it errs, please ask the recipient to let your mail in.",
    ),
    "7.4": Cause(
        "The other mail system lacks a security feature that this message, or the way in which it was sent, needs.",
        "Its answer above may say which. Please show this report to your postmaster.",
    ),
    "7.5": Cause(
        "The other mail system could not make use of a key, a certificate or a signature.",
        "Its answer above may say which. Please show this report to your postmaster.",
    ),
    "7.8": Cause(
        "The other mail system wants a login, and did not accept the one that it got, or got none.", _ASK_POSTMASTER
    ),
    "7.10": _WANTS_SECURITY,
    "7.11": _WANTS_SECURITY,
    # RFC 8689 gave the number to REQUIRETLS; Gmail says it of mail whose DKIM signature does not pass.
    "7.30": Cause(
        "The other mail system misses a protection of the message: TLS all the way (REQUIRETLS), or, as some providers "
        "use this code, a valid signature (DKIM).",
        "Its answer above says which. Please show this report to your postmaster.",
    ),
}

# Where we found it ourselves: what the code then means (`queue.routing`, `signer`, `transports.handshake`, `session`).
_OWN_FAULT = Cause("This mail system could not deal with the message.", _ASK_POSTMASTER)
_SMARTHOST_LOGIN = Cause(
    "Your mail goes by way of another host (a smarthost), and this mail system could not log in there: it was not let "
    "in with its user name and password, or could not send them safely.",
    _ASK_POSTMASTER,
)
_OWN_CAUSES = {
    "3.0": _OWN_FAULT,
    "3.1": _OWN_FAULT,
    "3.5": Cause(
        "This mail system is not set up right for your mail: it cannot use a key or a password it needs to send it.",
        _ASK_POSTMASTER,
    ),
    "4.3": Cause(
        "Where the message is to go could not be looked up: the directory of names (DNS) gave no answer, or none that "
        "can be used.",
        "Please send it again later. If it comes back again, please show this report to your postmaster, who can tell "
        "whose directory is at fault.",
    ),
    "7.0": _SMARTHOST_LOGIN,
    "7.4": Cause(
        "The next mail system did not offer an encrypted line (TLS), without which nothing must be sent to it.",
        _ASK_POSTMASTER,
    ),
    "7.5": Cause(
        "The next mail system could not be reached safely: encryption (TLS) failed, or its certificate does not prove "
        "that it is the one that it should be.",
        _ASK_POSTMASTER,
    ),
    "7.8": _SMARTHOST_LOGIN,
    "7.10": Cause(
        "You asked that the message travel only over lines that are encrypted and verified (REQUIRETLS), and there is "
        "no such line to the next mail system.",
        _WITHOUT_REQUIRETLS,
    ),
    "7.11": _SMARTHOST_LOGIN,
    "7.30": Cause(
        "You asked that the message be protected by TLS all the way to its recipient (REQUIRETLS), and the next mail "
        "system does not promise that.",
        _WITHOUT_REQUIRETLS,
    ),
}
# The rules of TLS that a domain publishes for its own hosts (RFC 7672, RFC 8461): there it must be mended.
_PUBLISHED_RULES = frozenset(["dane", "dane-unusable", "mta-sts"])
_ASK_BOTH_SIDES = (
    "Whoever runs the other mail system must put its certificate or its published rules right. Please show this report "
    "to your postmaster, or let the recipient know by another way than this address; then send the message again."
)
_PUBLISHED_CAUSES = {
    "7.4": Cause(
        "The other mail domain publishes that its mail must be encrypted (DANE or MTA-STS), and its host did not offer "
        "that. The message was kept back so that nobody else could read it.",
        _ASK_BOTH_SIDES,
    ),
    "7.5": Cause(
        "The other mail domain publishes which hosts take its mail and how they prove it (DANE or MTA-STS), and the "
        "host that was found is not such a one. The message was kept back so that nobody else could read it.",
        _ASK_BOTH_SIDES,
    ),
}
_UNKNOWN = Cause(
    "The message could not be delivered; the answer above is all that is known.",
    "If the answer does not help you, please show this report to your postmaster.",
)
_SECURITY_FIRST = 530  # STARTTLS (RFC 3207 §4) or AUTH (RFC 4954 §6)

KEPT_BACK = Cause(
    "Your organization's suppression list keeps mail from this address: earlier mail to it came back, its owner did "
    "not want it, or somebody of your organization entered it. No attempt was made.",
    "If the address is right and its owner wants your mail, please ask whoever administers mail in your organization "
    "to remove it from the list.",
)


def cause_of(status: str, outcome: Outcome | None = None) -> Cause:
    """Return the cause of a status such as `5.1.1`, by its detail, else by its subject.

    `outcome` says whether another host said so, and by which rule TLS was asked for; without it, another host did.
    """
    _, _, code = status.partition(".")
    subject = code.partition(".")[0]
    if outcome is not None and outcome.code == _SECURITY_FIRST:
        return _WANTS_SECURITY
    found = _found_ourselves(outcome) if outcome is not None and outcome.code is None else None
    return found or _CAUSES.get(code) or _CAUSES.get(subject) or _UNKNOWN


def _found_ourselves(outcome: Outcome) -> Cause | None:
    """Return the cause of what we found, by its own code: that the time ran out meanwhile (4.7) explains nothing."""
    code = outcome.enhanced_code.partition(".")[2]
    is_published = outcome.tls_policy in _PUBLISHED_RULES
    return (_PUBLISHED_CAUSES.get(code) if is_published else None) or _OWN_CAUSES.get(code)
