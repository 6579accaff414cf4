"""The notice that a webhook endpoint was switched off, mailed to those who can switch it on again."""

from __future__ import annotations

from collections.abc import Sequence
from email.message import EmailMessage
from email.policy import SMTP

import structlog
from django.conf import settings
from django.template.loader import render_to_string

from accounts.models import User, WebhookEndpoint
from accounts.names import InvalidName, parse_address
from mailflow import receiver
from mailflow.errors import Refused
from mailflow.ids import new_trace_id
from mailflow.models import Message
from mailflow.smtp.envelope import Envelope, Recipient
from mailflow.spool.accepted import Origin

logger = structlog.get_logger(__name__)
MAX_TOLD = 20


def tell(endpoint: WebhookEndpoint) -> list[int]:
    """Hand the notice in, in the caller's transaction; return its queue entries' ids.

    It goes to the organization's administrators, or to the superusers for an endpoint of the whole system, from the
    null path: nobody hears of a notice that cannot be delivered.
    """
    people = _people(endpoint)
    if not people:
        return []
    notice = receiver.Submission(
        source=Message.Source.DSN.value,
        envelope=Envelope(None, [Recipient(parse_address(person), notify="NEVER") for person in people]),
        origin=Origin(protocol="INTERNAL", trace_id=new_trace_id(), organization_id=endpoint.organization_id),
        content=_compose(endpoint, people),
    )
    try:
        return receiver.accept_within([notice])
    except Refused as refusal:
        logger.error("webhooks.notice_refused", endpoint=str(endpoint.pk), cause=refusal.reason)
        return []


def _people(endpoint: WebhookEndpoint) -> list[str]:
    if endpoint.organization_id is None:
        rows = User.objects.filter(is_superuser=True)
    else:
        rows = User.objects.filter(organization_id=endpoint.organization_id, is_organization_admin=True)
    emails = rows.filter(is_active=True).order_by("pk").values_list("email", flat=True)[:MAX_TOLD]
    return [email for email in emails if _can_be_written_to(email)]


def _can_be_written_to(email: str) -> bool:
    try:
        return not parse_address(email).needs_smtputf8
    except InvalidName:
        return False


def _compose(endpoint: WebhookEndpoint, people: Sequence[str]) -> bytes:
    message = EmailMessage(policy=SMTP)
    message["From"] = f"Mail system <postmaster@{settings.SMTP_HOSTNAME}>"
    message["To"] = ", ".join(people)
    message["Subject"] = "A webhook endpoint was switched off"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834 §5
    message.set_content(
        render_to_string("notices/webhook_disabled.txt", {"endpoint": endpoint, "hostname": settings.SMTP_HOSTNAME})
    )
    return message.as_bytes()
