"""Who may use which reverse path (contract §2)."""

from __future__ import annotations

from accounts.names import Address
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
