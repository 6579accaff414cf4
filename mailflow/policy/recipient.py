"""Whether a recipient is taken: ours, or may the client relay (contract §2)."""

from __future__ import annotations

from accounts.addresses import Found, Resolution
from accounts.names import Address
from mailflow.mailboxes import QuotaVerdict, quota_verdict
from mailflow.policy.decision import Decision, Verdict
from mailflow.smtp.reply import Reply

_STAGE = "recipient"


def check_recipient(
    address: Address, resolution: Resolution, *, may_relay: str, auth_possible: bool, declared_octets: int = 0
) -> Decision:
    """`may_relay` says in words why the client may send anywhere ("authenticated as john"), or is empty."""
    shown = f"<{address}>"
    if resolution.found is Found.FOREIGN:
        return _check_foreign(shown, may_relay=may_relay, auth_possible=auth_possible)
    if resolution.found is Found.UNKNOWN_USER:
        reply = Reply(550, "1.1", f"{shown} is unknown here")
        reason = f"{address.domain} is ours, but has no mailbox, alias or catch-all for it"
        return Decision(_STAGE, "unknown_user", Verdict.REJECT, reason, shown, reply)
    if resolution.found is Found.ALIAS:
        return Decision(_STAGE, "alias", Verdict.ACCEPT, "an alias of ours", shown)
    return _check_quota(shown, resolution, declared_octets)


def _check_foreign(shown: str, *, may_relay: str, auth_possible: bool) -> Decision:
    if may_relay:
        return Decision(_STAGE, "relay", Verdict.ACCEPT, f"relayed: {may_relay}", shown)
    hint = "; authenticate to send to other domains" if auth_possible else ""
    reply = Reply(550, "7.1", f"Relaying to {shown} is not allowed{hint}")
    reason = "not a domain of ours, and the client is neither authenticated nor in SMTP_TRUSTED_NETWORKS"
    return Decision(_STAGE, "relay_denied", Verdict.REJECT, reason, shown, reply)


def _check_quota(shown: str, resolution: Resolution, declared_octets: int) -> Decision:
    verdict = quota_verdict(resolution.used_octets, declared_octets, resolution.quota_octets)
    figures = "the mailbox has used up its quota"
    if verdict is QuotaVerdict.FAR_OVER:
        reply = Reply(552, "2.2", f"The mailbox of {shown} is full")
        return Decision(_STAGE, "quota.far_over", Verdict.REJECT, figures, shown, reply)
    if verdict is QuotaVerdict.OVER:
        reply = Reply(452, "2.2", f"The mailbox of {shown} is full; try again later")
        return Decision(_STAGE, "quota.over", Verdict.DEFER, figures, shown, reply)
    return Decision(_STAGE, "mailbox", Verdict.ACCEPT, "a mailbox of ours", shown)
