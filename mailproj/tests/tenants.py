"""Tenants who have one of everything, so that each object route of the API can be filled with an object of theirs."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass

from django.test import Client
from django.utils import timezone

from accounts import keys
from accounts.models import Alias, Domain, Organization, Scope, User, WebhookAttempt, WebhookDelivery
from accounts.webhooks import endpoints, outbox
from mailflow import folders
from mailflow.models import Event, MailTemplate, Message
from queue import actions, control, selection
from queue.models import Suppression
from queue.tests.mail import accepted, file

PASSWORD = "MyP@ssw0rd"
_HEAD = (
    "From: {sender}\r\nSubject: {subject}\r\nMessage-ID: <{name}@{name}.example>\r\nMIME-Version: 1.0\r\n"
    'Content-Type: multipart/mixed; boundary="b"\r\n'
)
_BODY = (
    "--b\r\nContent-Type: text/plain\r\n\r\nThe {name} secret.\r\n"
    "--b\r\nContent-Type: image/png\r\nContent-Disposition: attachment; filename=a.png\r\n"
    "Content-Transfer-Encoding: base64\r\n\r\niVBORw==\r\n--b--\r\n"
)


@dataclass(frozen=True, slots=True)
class Tenant:
    """An organization with an administrator and a member, who sent and got the one message; `ids` by path parameter."""

    name: str
    organization: Organization
    boss: User
    member: User
    key: str
    ids: Mapping[str, object]

    def path(self, route: str) -> str:
        """Fill a route of `mailproj.api.urls`, or a path of the schema, with this tenant's objects."""
        return re.sub(r"<(?:\w+:)?(\w+)>|{(\w+)}", lambda found: str(self.id_of(route, found[1] or found[2])), route)

    def id_of(self, route: str, parameter: str) -> object:
        if parameter == "name":
            return _folder(self.name) if "folders/" in route else f"{self.name}.example"
        return self.ids[parameter]


def make(name: str, *, domain_name: str = "", member_name: str = "") -> Tenant:
    organization = Organization.objects.create(name=name)
    domain = Domain.objects.create(name=domain_name or f"{name}.example", organization=organization, is_trusted=True)
    boss, member = (
        User.objects.create_user(who, f"{who}@{domain.name}", PASSWORD, organization=organization)
        for who in (f"{name}-boss", member_name or f"{name}-jane")
    )
    User.objects.filter(pk=boss.pk).update(is_organization_admin=True)
    boss.refresh_from_db()
    key, text = keys.create(f"{name} key", boss, daily_limit=1_000_000, scopes=[Scope.ADMIN])
    template = MailTemplate.objects.create(
        organization=organization, name="Welcome", subject="Hello {{ name }}", text_body="Hello {{ name }}."
    )
    message = _message(name, member)
    return Tenant(
        name=name,
        organization=organization,
        boss=boss,
        member=member,
        key=text,
        ids={
            "organization_id": organization.pk,
            "username": member.username,
            "key_id": key.pk,
            "domain_id": domain.pk,
            "alias_id": Alias.objects.create(domain=domain, local_part="sales", targets=[member.email]).pk,
            "template_id": template.pk,
            "message_id": message.pk,
            "thread_id": message.thread_id,
            "event_id": Event.objects.filter(message_id=message.pk)[0].pk,
            "number": 0,
            "suppression_id": Suppression.objects.create(
                address=f"gone@{name}-customer.example", organization=organization, source_message_id=message.pk
            ).pk,
            "action_id": _action(name),
            **_webhook(organization),
        },
    )


def staff() -> User:
    return User.objects.create_superuser("root", "root@platform.example", PASSWORD)


def client_of(user: User | str | None) -> Client:
    """A client that acts with its password, with this API key, or without credentials."""
    if user is None:
        return Client()
    return Client(headers=headers_of(user))


def headers_of(user: User | str) -> dict[str, str]:
    if isinstance(user, str):
        return {"X-API-Key": user}
    return {"Authorization": f"Basic {b64encode(f'{user.username}:{PASSWORD}'.encode()).decode()}"}


def _message(name: str, member: User) -> Message:
    """A message of the member's to oneself and to others, filed, with a file; it still waits for its delivery."""
    head = _HEAD.format(sender=member.email, subject=f"{name} subject", name=name)
    others = (member.email, f"friend@{name}-customer.example")
    message = accepted(*others, by=member, sender=member.email, header_section=head, text=_BODY.format(name=name))
    file(message, member)
    folders.create(member.pk, _folder(name))
    return message


def _folder(name: str) -> str:
    return f"Projects/{name}"


def _webhook(organization: Organization) -> dict[str, object]:
    made, _ = endpoints.create(organization, f"https://{organization.name}.example/hook", ["message.sent"])
    row = outbox.delivery(made.pk, "message.sent", '{"event":"message.sent"}', timezone.now())
    row.status, row.finished_at, row.next_attempt_at = WebhookDelivery.Status.DELIVERED, timezone.now(), None
    row.save(force_insert=True)
    WebhookAttempt.objects.create(
        delivery=row, started_at=timezone.now(), duration_ms=3, url=made.url,
        request_headers={"webhook-id": row.pk}, response_status=200, response_body="ok",
    )  # fmt: skip
    return {"endpoint_id": made.pk, "delivery_id": row.pk}


def _action(name: str) -> int:
    """An action of staff's on the tenant's mail, which no worker has taken."""
    now = timezone.now()
    order = control.parse_order("hold", {}, actor="root", now=now)
    chosen = selection.parse({"domain": f"{name}-customer.example"}, now, needs_one=True)
    return actions.request(order, chosen, door="admin").pk
