"""What enhanced status codes mean to a sender, and what the sender can do (RFC 3463 §3); data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cause:
    """Two sentences for people."""

    meaning: str
    remedy: str


_ASK_RECIPIENT = "Please ask the recipient, by another way than this address, to look into it."
_CHECK_ADDRESS = "Please check the address for typing errors, and whether the recipient has a new one."

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
    "4": Cause("The recipient's mail system could not be reached.", "Please send it again later."),
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
}
_UNKNOWN = Cause(
    "The message could not be delivered; the answer above is all that is known.",
    "If the answer does not help you, please show this report to your postmaster.",
)


def cause_of(status: str) -> Cause:
    """Return the cause of a status such as `5.1.1`, by its detail, else by its subject."""
    _, _, code = status.partition(".")
    subject = code.partition(".")[0]
    return _CAUSES.get(code) or _CAUSES.get(subject) or _UNKNOWN
