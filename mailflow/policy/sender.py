"""Who may use which reverse path, From and Sender (contract §2, RFC 6409 §6.1, §6.3, RFC 5322 §3.6.2); pure."""

from __future__ import annotations

from collections.abc import Collection

from accounts.names import Address
from mailflow.message.originators import MAX_ADDRESSES, Originators
from mailflow.policy.decision import Decision, Verdict
from mailflow.smtp.reply import Reply


def check_sender(reverse_path: Address | None, *, authenticated_as: str, may_use: bool) -> Decision:
    """`authenticated_as` is empty on a session without AUTH; `may_use` then does not matter."""
    shown = f"<{reverse_path or ''}>"
    if reverse_path is None:
        return Decision("sender", "null_path", Verdict.ACCEPT, "the null path is always taken (RFC 5321 §4.5.5)", shown)
    if not authenticated_as:
        return Decision("sender", "reception", Verdict.ACCEPT, "reception needs no authentication", shown)
    if may_use:
        return Decision("sender", "owned", Verdict.ACCEPT, f"{authenticated_as} may send from this address", shown)
    reply = Reply(553, "7.1", f"{authenticated_as} may not send from <{reverse_path}>")
    return Decision(
        "sender", "not_owned", Verdict.REJECT,
        f"{authenticated_as} holds neither the address nor a verified domain of it", shown, reply,
    )  # fmt: skip


def check_header_from(originators: Originators, *, authenticated_as: str, holds: Collection[Address]) -> Decision:
    """Judge the names that a submission bears; `holds` are those of `originators.addresses` that the account may use.

    A session without AUTH receives mail for us, and whom that is from is no account's affair: `authenticated_as` is
    empty, and nothing is refused. A submission without a From is taken and noted: receivers tell it by its reverse
    path, which the account holds. We add none, for RFC 6409 §8 has no rule for it and the field would be our invention.
    """
    shown = ", ".join(f"<{address}>" for address in originators.addresses[:5])
    if not authenticated_as:
        return Decision("header_from", "reception", Verdict.ACCEPT, "reception takes any From", shown)
    flaw = _flaw_of(originators)
    if flaw is not None:
        rule, reply = flaw
        return Decision("header_from", rule, Verdict.REJECT, originators.flaw or reply.text, shown, reply)
    for address in originators.addresses:
        if address not in holds:
            return _from_not_owned(address, authenticated_as, shown)
    if not originators.from_count:
        return Decision("header_from", "from_missing", Verdict.NOTE, "the message has no From field", shown)
    reason = f"{authenticated_as} may use each address of the From and Sender fields"
    return Decision("header_from", "owned", Verdict.ACCEPT, reason, shown)


def refuse_long_header_section(limit: int) -> Decision:
    """A submission whose header section is so long that its From cannot be judged."""
    reply = Reply(554, "6.0", f"The header section is longer than {limit} octets")
    reason = f"the header section is longer than the {limit} octets in which From and Sender are looked for"
    return Decision("header_from", "header_too_long", Verdict.REJECT, reason, reply=reply)


def _flaw_of(originators: Originators) -> tuple[str, Reply] | None:
    """What is wrong whoever sends it; 554 for the syntax, 550 for our own limit (RFC 6409 §6.3)."""
    if originators.from_count > 1 or originators.sender_count > 1:
        # Readers differ in which of two they show: one may be the account's and the other somebody else's.
        return "from_twice", Reply(554, "6.0", "The From or the Sender field stands more than once")
    if originators.flaw:
        return "from_unparsable", Reply(554, "6.0", "The From or the Sender field cannot be read")
    if originators.has_too_many:
        return "from_too_many", Reply(550, "7.0", f"The From field has more than {MAX_ADDRESSES} addresses")
    return None


def _from_not_owned(address: Address, authenticated_as: str, shown: str) -> Decision:
    reply = Reply(550, "7.1", f"{authenticated_as} may not write as <{address}>")
    reason = f"{authenticated_as} holds neither <{address}> nor a verified domain of it"
    return Decision("header_from", "from_not_owned", Verdict.REJECT, reason, shown, reply)
