"""Whether a recipient is taken: ours, or may the client relay (contract §2, RFC 5321 §3.4, RFC 6409 §4.2, RFC 7504 §4).

A decision that accepts may bring a reply too: the 251 that stands in for the 250.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from accounts.addresses import Found, Resolution, Way
from accounts.models.alias import Alias
from accounts.names import Address, InvalidName, parse_address
from mailflow.mailboxes import QuotaVerdict, quota_verdict
from mailflow.policy.decision import Decision, Verdict
from mailflow.smtp.reply import Reply

_STAGE = "recipient"


def check_recipient(
    address: Address,
    resolution: Resolution,
    *,
    may_relay: str,
    auth_possible: bool,
    declared_octets: int = 0,
    is_smtputf8: bool = False,
) -> Decision:
    """`may_relay` says in words why the client may send anywhere ("authenticated as john"), or is empty.

    `is_smtputf8` where MAIL came with SMTPUTF8: only then may a reply name an address that is not ASCII.
    """
    decision = _judged(
        address,
        resolution,
        may_relay=may_relay,
        auth_possible=auth_possible,
        declared_octets=declared_octets,
        is_smtputf8=is_smtputf8,
    )
    if is_smtputf8 and decision.reply is not None and not decision.reply.text.isascii():
        return replace(decision, reply=replace(decision.reply, is_utf8=True))
    return decision


def _judged(
    address: Address,
    resolution: Resolution,
    *,
    may_relay: str,
    auth_possible: bool,
    declared_octets: int,
    is_smtputf8: bool,
) -> Decision:
    shown = f"<{address}>"
    match resolution.found:
        case Found.FOREIGN:
            return _check_foreign(address, shown, may_relay=may_relay, auth_possible=auth_possible)
        case Found.ALIAS:
            return _check_alias(address, shown, resolution, is_smtputf8=is_smtputf8)
        case Found.RETURN_PATH:
            reason = "a return path that was made here for mail that went out"
            return Decision(_STAGE, "return_path", Verdict.ACCEPT, reason, shown)
        case Found.MAILBOX:
            return _check_quota(shown, resolution, declared_octets)
        case Found.DISABLED:
            # RFC 3463 X.2.1 is temporary where the mailbox may come back, and a switch can be turned on again: what
            # comes meanwhile waits at the sender's. To end a mailbox for good is to delete its user.
            reply = Reply(450, "2.1", f"The mailbox of {shown} is disabled, try again later")
            return Decision(
                _STAGE, "mailbox_disabled", Verdict.DEFER, "the mailbox's user is switched off", shown, reply
            )
        case Found.NO_MAIL:
            reply = Reply(556, "1.10", "Domain does not accept mail")
            reason = f"{address.domain} is ours and only sends"
            return Decision(_STAGE, "domain_takes_no_mail", Verdict.REJECT, reason, shown, reply)
        case Found.DIAL_UP:
            # Who exists there its host alone knows: what it refuses when it comes for the mail is reported then.
            reason = f"{address.domain} is ours, and its own host comes for its mail"
            return Decision(_STAGE, "dial_up", Verdict.ACCEPT, reason, shown)
        case Found.UNKNOWN_USER:
            reply = Reply(550, "1.1", f"{shown} is unknown here")
            reason = f"{address.domain} is ours, but has no mailbox, alias or catch-all for it"
            return Decision(_STAGE, "unknown_user", Verdict.REJECT, reason, shown, reply)


def _check_alias(address: Address, shown: str, resolution: Resolution, *, is_smtputf8: bool) -> Decision:
    """RFC 6531 §3.7.4.1: where the target must not be named, the 251 becomes a 250 and the 551 a 550."""
    target = _disclosed_target(resolution, is_smtputf8=is_smtputf8)
    rule = resolution.way.value
    what = {
        Way.ALIAS: "an alias of ours",
        Way.CATCH_ALL: f"neither a mailbox nor an alias, but {address.domain} has a catch-all",
        Way.POSTMASTER: "a postmaster without mailbox or alias, whose mail an administrator reads",
    }[resolution.way]
    if resolution.announcement == Alias.Announcement.MOVED:
        reply = Reply(550, "1.6", f"{shown} has moved")
        if target:
            reply = Reply(551, "1.6", f"User not local; please try <{target}>")
        return Decision(_STAGE, f"{rule}.moved", Verdict.REJECT, f"{what} that says moved", shown, reply)
    if resolution.announcement == Alias.Announcement.TOLD and target:
        told = Reply(251, "1.5", f"User not local; will forward to <{target}>")
        return Decision(_STAGE, f"{rule}.told", Verdict.ACCEPT, f"{what} that tells where it leads", shown, told)
    return Decision(_STAGE, rule, Verdict.ACCEPT, what, shown)


def _disclosed_target(resolution: Resolution, *, is_smtputf8: bool) -> str:
    """The one target as a client may read it, or nothing."""
    if len(resolution.targets) != 1:
        return ""
    try:
        target = str(parse_address(resolution.targets[0]))
    except InvalidName:
        return ""
    return target if target.isascii() or is_smtputf8 else ""


def _check_foreign(address: Address, shown: str, *, may_relay: str, auth_possible: bool) -> Decision:
    if may_relay:
        if "." not in address.domain and not address.domain.startswith("["):
            # One label is a name of the client's own network, and has no place in a transaction (RFC 5321 §2.3.5).
            reply = Reply(554, "1.2", f"The domain of {shown} is not fully qualified")
            return Decision(_STAGE, "unqualified_domain", Verdict.REJECT, "the domain has one label only", shown, reply)
        return Decision(_STAGE, "relay", Verdict.ACCEPT, f"relayed: {may_relay}", shown)
    hint = "; authenticate to send to other domains" if auth_possible else ""
    reply = Reply(550, "7.1", f"Relaying to {shown} is not allowed{hint}")
    reason = "not a domain of ours, and the client is neither authenticated nor in SMTP_TRUSTED_NETWORKS"
    return Decision(_STAGE, "relay_denied", Verdict.REJECT, reason, shown, reply)


def check_room(recipients: Mapping[Address, Resolution], octets: int) -> Decision | None:
    """Judge the size of a message that is there whole; None where somebody takes it.

    Who declares a size hears it at RCPT already. A full mailbox among others is no reason to refuse all: its recipient
    is reported to the sender then.
    """
    worst: Decision | None = None
    for address, resolution in recipients.items():
        if resolution.found is not Found.MAILBOX:
            return None
        decision = _check_quota(f"<{address}>", resolution, octets)
        if not decision.stops:
            return None
        if worst is None or decision.verdict is Verdict.DEFER:
            worst = decision
    return worst


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
