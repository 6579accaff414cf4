"""Whose mail a caller may see: staff all, others what they sent or were filed, admins also their organization's.

Someone who merely received a message sees nobody else's part in it: the envelope names blind copies too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

from django.db.models import Exists, OuterRef, Q, QuerySet
from rest_framework.exceptions import NotFound
from rest_framework.permissions import IsAdminUser
from rest_framework.request import Request
from rest_framework.views import APIView

from accounts.models import User
from mailflow.models import FiledMessage, Message


def sees_all(user: User) -> bool:
    return user.is_staff or user.is_superuser


def visible_messages(user: User) -> QuerySet[Message]:
    if sees_all(user):
        return Message.objects.all()
    filed = FiledMessage.objects.filter(message_id=OuterRef("pk"), mailbox__user=user)
    return Message.objects.filter(owned_by(user) | Exists(filed))


def visible_message(user: User, message_id: str) -> Message:
    """Return the message, or raise 404: another tenant's message is as if it were not there."""
    found = None if "\0" in message_id else visible_messages(user).filter(pk=message_id).first()
    if found is None:
        raise NotFound(f"There is no message {message_id[:40]!r}.")
    return found


class StaffForMessages(IsAdminUser):
    """For staff; to others a message that they cannot see is not there, here either (contract §1.3)."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        if super().has_permission(request, view):
            return True
        if request.user.is_authenticated:
            visible_message(request.user, view.kwargs["message_id"])
        return False


def recipients_shown(user: User, messages: Collection[Message]) -> Mapping[str, list[str]]:
    """Return, by id, the only recipients that the caller may see; one query. Messages wholly theirs are left out."""
    foreign = [message.pk for message in messages if not owns(user, message)]
    if not foreign:
        return {}
    shown: dict[str, list[str]] = defaultdict(list, {pk: [] for pk in foreign})
    rows = FiledMessage.objects.filter(message_id__in=foreign, mailbox__user=user)
    for message_id, recipient in rows.values_list("message_id", "recipient").order_by("pk"):
        shown[message_id].append(recipient)
    return shown


def owns(user: User, message: Message) -> bool:
    if sees_all(user) or message.user_id == user.pk:
        return True
    return _is_admin(user) and message.organization_id == user.organization_id


def owned_by(user: User) -> Q:
    own = Q(user_id=user.pk)
    return own | Q(organization_id=user.organization_id) if _is_admin(user) else own


def _is_admin(user: User) -> bool:
    return user.is_organization_admin and user.organization_id is not None
