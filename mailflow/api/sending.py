"""From a checked body of `send` to what the receiver takes: sender, template, parts or a raw message."""

from __future__ import annotations

import email.utils
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from email import message_from_bytes, policy
from functools import cached_property
from typing import Any

from django.conf import settings
from django.utils import timezone

from accounts import keys
from accounts.addresses import may_send_as, may_send_as_each
from accounts.api import problems
from accounts.models import ApiKey, User
from accounts.names import Address, InvalidName, parse_address
from mailflow import compose, receiver, templating
from mailflow.api import send_body
from mailflow.api.visibility import sees_all
from mailflow.compose import InvalidPart, Named
from mailflow.ids import new_trace_id
from mailflow.message import originators
from mailflow.message.headers import header_section_end
from mailflow.models import MailTemplate, Message
from mailflow.policy.decision import Decision
from mailflow.policy.sender import check_header_from, check_sender
from mailflow.smtp.data import has_bare_line_end, with_whole_line_ends
from mailflow.smtp.envelope import Envelope, Recipient
from mailflow.spool.accepted import Origin
from mailflow.templating import InvalidTemplate, Source

MAX_RAW_HEADER_OCTETS = 256 << 10
_LONE_LF = re.compile(rb"(?<!\r)\n")
_BCC = re.compile(rb"(?:\A|\r\n)(?:resent-)?bcc[ \t]*:", re.IGNORECASE)


@dataclass(frozen=True)
class Caller:
    """Who sends: the user, by a key where `key` is one, over the request that `origin` tells of."""

    user: User
    key: ApiKey | None
    origin: Origin

    def may_use(self, address: Address) -> bool:
        """Whether the key, where there is one, may send from the address: its own limit, beside its user's."""
        return self.key is None or keys.may_send_from(self.key, address)

    def holds(self, address: Address) -> bool:
        return self.user.is_superuser or may_send_as(self.user, address)

    @cached_property
    def default_sender(self) -> Address | None:
        """What a key sends from without naming a sender (R5's SMTP_FROM_ADDRESS), where its user holds that."""
        address = _address(settings.SMTP_FROM_ADDRESS) if self.key is not None else None
        return address if address is not None and self.may_use(address) and self.holds(address) else None


def submission(data: Mapping[str, Any], caller: Caller, *, message_id: str = "") -> receiver.Submission:
    """Make one message of validated data; raises `Unprocessable`, which names the field."""
    made = _raw(data, caller) if "raw" in data else _composed(data, caller)
    return replace(
        made,
        scheduled_at=data.get("scheduled_at"),
        labels=send_body.labels(data),
        charge=keys.charge_of(caller.key, timezone.now().date()) if caller.key is not None else None,
        message_id=message_id,
    )


def _composed(data: Mapping[str, Any], caller: Caller) -> receiver.Submission:
    sender = _sender(data, caller)
    draft = send_body.draft(data, sender)
    if "template" in data:
        draft = _filled_in(draft, data, caller)
    domain = sender.address.domain.strip("[]").replace(":", "-")
    content = compose.compose(draft, message_id=f"<{new_trace_id()}.{new_trace_id()}@{domain}>", date=timezone.now())
    return _submission(sender.address, send_body.recipients(data), content, caller, [])


def _submission(
    sender: Address, recipients: Sequence[Address], content: bytes, caller: Caller, decisions: Sequence[Decision]
) -> receiver.Submission:
    """SMTPUTF8 is declared where an address needs it, in the envelope or in the header (RFC 6531 §3.4)."""
    is_ascii = content.isascii()
    header_is_ascii = is_ascii or content[: header_section_end(content)].isascii()
    needs_smtputf8 = not header_is_ascii or any(address.needs_smtputf8 for address in (sender, *recipients))
    body_type = "" if is_ascii else "8BITMIME"
    envelope = Envelope(
        sender, [Recipient(address) for address in recipients], body_type=body_type, is_smtputf8=needs_smtputf8
    )
    owned = check_sender(sender, authenticated_as=caller.user.username, may_use=True)
    return receiver.Submission(
        source=Message.Source.HTTP.value,
        envelope=envelope,
        origin=caller.origin,
        content=content,
        decisions=[owned, *decisions],
    )


def _sender(data: Mapping[str, Any], caller: Caller) -> Named:
    """The sender that was asked for, where the caller holds it, or the default one."""
    wanted: Named | None = data.get("sender")
    if wanted is None:
        return Named(_own_sender(caller))
    _check_held("sender", wanted.address, caller)
    return wanted


def _own_sender(caller: Caller) -> Address:
    """The key's default, else the caller's own address, else one that the key is bound to: the first it may use."""
    for address in (caller.default_sender, _address(caller.user.email)):
        if address is not None and caller.may_use(address):
            return address
    bound = [_address(text) for text in caller.key.allowed_addresses] if caller.key is not None else []
    for address in bound:
        if address is not None and caller.holds(address):
            return address
    if caller.key is not None and not keys.is_unbound(caller.key):
        raise problems.Unprocessable({"sender": [f"It is needed. {_bounds(caller.key)}"]})
    raise problems.Unprocessable({"sender": ["It is needed: the account has no address of its own."]})


def _bounds(key: ApiKey) -> str:
    return f"The API key may send from {', '.join([*key.allowed_addresses, *key.allowed_domains])} only."


def _check_held(field: str, address: Address, caller: Caller) -> None:
    if caller.key is not None and not caller.may_use(address):
        raise problems.Unprocessable({field: [_bounds(caller.key)]})
    if not caller.holds(address):
        rule = "You may send from your own address and from your organization's verified domains."
        raise problems.Unprocessable({field: [rule]})


def _address(text: str) -> Address | None:
    try:
        return parse_address(text)
    except InvalidName:
        return None


# --- templates ------------------------------------------------------------------------------------------------------


def find_template(text: str, user: User) -> MailTemplate | None:
    """Return the caller's template by its id or name; staff without an organization see all."""
    rows = MailTemplate.objects.all()
    if user.organization_id is not None:
        rows = rows.filter(organization_id=user.organization_id)
    elif not sees_all(user):
        return None
    if "\0" in text:
        return None
    by_id = rows.filter(pk=int(text)).first() if text.isascii() and text.isdigit() and len(text) < 19 else None
    return by_id or rows.filter(name=text).first()


def _filled_in(draft: compose.Draft, data: Mapping[str, Any], caller: Caller) -> compose.Draft:
    template = find_template(data["template"], caller.user)
    if template is None:
        raise problems.Unprocessable({"template": ["There is no such template."]})
    source = Source(template.subject, template.text_body, template.html_body)
    try:
        rendered = templating.render(source, data.get("template_data", {}))
        compose.check_header_text(rendered.subject)
        for text in (rendered.text, rendered.html):
            compose.check_text(text or "")
    except InvalidTemplate as error:
        raise problems.Unprocessable({"template": [f"{template.name}: {error}."]}) from None
    except InvalidPart as error:
        raise problems.Unprocessable({"template_data": [f"With it, {error}."]}) from None
    subject = draft.subject or rendered.subject
    text = rendered.text if rendered.text is not None or rendered.html is not None else ""
    return replace(draft, subject=subject, text=text, html=rendered.html)


# --- raw messages ---------------------------------------------------------------------------------------------------


def _raw(data: Mapping[str, Any], caller: Caller) -> receiver.Submission:
    """Take a whole message as it is; its From and Sender must be the caller's, its recipients are named or its own."""
    content: bytes = data["raw"]
    if b"\r\n" not in content:
        content = _LONE_LF.sub(b"\r\n", content)  # written on a system whose lines end so
    elif settings.SMTP_BARE_LINE_ENDS == "normalise" and has_bare_line_end(content):
        content = with_whole_line_ends(content)
    end = header_section_end(content)
    if end > MAX_RAW_HEADER_OCTETS:
        raise problems.Unprocessable({"raw": [f"The header section is longer than {MAX_RAW_HEADER_OCTETS} octets."]})
    head = content[:end]
    if _BCC.search(head):
        raise problems.Unprocessable({"raw": ["It has a Bcc field, which every recipient would read; use 'bcc'."]})
    found = originators.scan(head)
    if not found.from_addresses and not found.flaw:
        raise problems.Unprocessable({"raw": ["It has no From field."]})
    held = may_send_as_each(caller.user, found.addresses)
    for address in found.addresses:
        if caller.key is not None and not caller.may_use(address):
            raise problems.Unprocessable({"raw": [f"It names {address}. {_bounds(caller.key)}"]})
    decision = check_header_from(found, authenticated_as=caller.user.username, holds=held)
    if decision.stops:
        raise problems.Unprocessable({"raw": [f"{decision.reason[:1].upper()}{decision.reason[1:]}."]})
    wanted: Named | None = data.get("sender")
    sender = wanted.address if wanted is not None else found.from_addresses[0]
    _check_held("sender", sender, caller)
    recipients = send_body.recipients(data) or _named_in(head)
    if len(recipients) > settings.SMTP_MAX_RECIPIENTS:
        raise problems.Unprocessable({"raw": [f"It names more than {settings.SMTP_MAX_RECIPIENTS} recipients."]})
    return _submission(sender, recipients, content, caller, [decision])


def _named_in(head: bytes) -> list[Address]:
    """Return whom the header names as To and Cc, each once."""
    message = message_from_bytes(head, policy=policy.compat32)
    fields = [str(value) for name in ("To", "Cc") for value in message.get_all(name, [])]
    found: list[Address] = []
    for _, text in email.utils.getaddresses(fields):
        address = _address(text)
        if address is None:
            raise problems.Unprocessable(
                {"to": [f"It is needed: the message names {text[:100]!r}, which is no address."]}
            )
        found.append(address)
    if not found:
        raise problems.Unprocessable({"to": ["It is needed: the message names nobody."]})
    return list(dict.fromkeys(found))
