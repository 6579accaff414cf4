"""The shape of a message in the API: R3's fields, with the recipients' own results beside them."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.utils import timezone
from rest_framework import serializers

from accounts.models import Domain, User
from mailflow.api import heads, visibility
from mailflow.api.reading import Shown
from mailflow.models import Event, Message, Metadata, Tag
from queue.models import Attempt, Entry
from queue.waiting import Around, around, waiting_for


class MessageItem(serializers.Serializer[Any]):
    """`message_id` is the same as `id`; `internet_message_id` is the header's own."""

    id = serializers.CharField()
    message_id = serializers.CharField()
    internet_message_id = serializers.CharField()
    thread_id = serializers.CharField(allow_null=True)
    domain_id = serializers.IntegerField(allow_null=True, help_text="The domain of ours that it concerns.")
    sender_email = serializers.CharField(help_text="The envelope's sender; empty for the null path.")
    recipient_email = serializers.CharField(allow_null=True, help_text="The first recipient.")
    recipient_count = serializers.IntegerField()
    forwarded_to = serializers.CharField(allow_null=True)
    subject = serializers.CharField()
    body_preview = serializers.CharField()
    status = serializers.ChoiceField(choices=Message.Status.choices)
    error_message = serializers.CharField(allow_null=True)
    size_bytes = serializers.IntegerField()
    has_attachments = serializers.BooleanField()
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class RecipientItem(serializers.Serializer[Any]):
    """One recipient's own result."""

    recipient = serializers.CharField()
    status = serializers.ChoiceField(choices=Entry.Status.choices)
    attempts = serializers.IntegerField()
    max_attempts = serializers.IntegerField()
    last_reply = serializers.CharField(allow_null=True)
    waiting_for = serializers.CharField(allow_null=True)
    next_attempt_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)


class MessageDetail(MessageItem):
    source = serializers.ChoiceField(choices=Message.Source.choices)  # type: ignore[assignment]  # a field, not DRF's own `source`
    protocol = serializers.CharField()
    header_from = serializers.CharField()
    trace_id = serializers.CharField()
    tags = serializers.ListField(child=serializers.CharField(), help_text="For its sender alone.")
    metadata = serializers.DictField(help_text="For its sender alone.")
    recipients = RecipientItem(many=True)


STATUS_SET = "status_set"  # the rule of the event that a person's change of a status leaves


@dataclass(frozen=True, slots=True)
class _Page:
    """What a page of messages needs beside its rows, fetched for all of them at once."""

    shown: Mapping[str, Shown]
    shares: Mapping[str, Sequence[str]]
    entries: Mapping[str, Sequence[Entry]]
    forwarded: Mapping[str, str]
    domains: Mapping[str, int]


def items(messages: Sequence[Message], user: User) -> list[dict[str, Any]]:
    """Render a page of messages with a fixed number of queries."""
    page = _page(messages, user)
    return [_item(message, page) for message in messages]


def detail(message: Message, user: User) -> dict[str, Any]:
    page, now = _page([message], user), timezone.now()
    rows = _seen_entries(message, page)
    about = around(rows, now)
    return {
        **_item(message, page),
        "source": message.source,
        "protocol": message.protocol,
        "header_from": message.header_from,
        "trace_id": message.trace_id,
        **_labels(message, seen=page.shares.get(message.pk) is None),
        "recipients": [recipient(entry, now, about) for entry in rows],
    }


def _labels(message: Message, *, seen: bool) -> dict[str, Any]:
    if not seen:
        return {"tags": [], "metadata": {}}
    tags = Tag.objects.filter(message_id=message.pk).order_by("tag").values_list("tag", flat=True)
    metadata = Metadata.objects.filter(pk=message.pk).values_list("data", flat=True).first()
    return {"tags": list(tags), "metadata": metadata or {}}


def recipient(entry: Entry, now: dt.datetime, about: Around) -> dict[str, Any]:
    return {
        "recipient": entry.recipient,
        "status": entry.status,
        "attempts": entry.attempts,
        "max_attempts": entry.max_attempts,
        "last_reply": entry.last_reply or None,
        "waiting_for": waiting_for(entry, now, about) or None,
        "next_attempt_at": entry.next_attempt_at if entry.status in Entry.OPEN else None,
        "finished_at": entry.finished_at,
    }


def _page(messages: Sequence[Message], user: User) -> _Page:
    ids = [message.pk for message in messages]
    entries: dict[str, list[Entry]] = defaultdict(list)
    for entry in Entry.objects.filter(message_id__in=ids).order_by("pk"):
        entries[entry.message_id].append(entry)
    names = {name for message in messages for name in _domain_names(message)}
    return _Page(
        shown=heads.shown(ids),
        shares=visibility.recipients_shown(user, messages),
        entries=entries,
        forwarded=_forwarded(ids),
        domains=dict(Domain.objects.filter(name__in=names).values_list("name", "pk")),
    )


def _forwarded(ids: Collection[str]) -> dict[str, str]:
    """Return where messages were sent on: by aliases, whose attempt names the targets, or as a person noted it."""
    found: dict[str, list[str]] = defaultdict(list)
    noted = Event.objects.filter(message_id__in=ids, rule=STATUS_SET).exclude(recipient="").order_by("pk")
    for message_id, recipient in noted.values_list("message_id", "recipient"):
        found[message_id] = [recipient]
    forwarding = Event.objects.filter(message_id__in=ids, kind=Event.Kind.FORWARDED).values("entry_id")
    attempts = Attempt.objects.filter(entry_id__in=forwarding, outcome=Attempt.Outcome.DELIVERED).order_by("pk")
    for message_id, next_hop in attempts.values_list("entry__message_id", "next_hop"):
        found[message_id].append(next_hop)
    return {message_id: ", ".join(dict.fromkeys(hops)) for message_id, hops in found.items()}


def _domain_names(message: Message) -> list[str]:
    """The domains that a message concerns, the one it was sent to first."""
    addresses = [*message.recipients[:1], message.reverse_path]
    return [address.rpartition("@")[2].lower() for address in addresses if "@" in address]


def _seen_entries(message: Message, page: _Page) -> list[Entry]:
    share = page.shares.get(message.pk)
    return [entry for entry in page.entries.get(message.pk, ()) if share is None or entry.recipient in share]


def _item(message: Message, page: _Page) -> dict[str, Any]:
    share = page.shares.get(message.pk)
    recipients = message.recipients if share is None else list(share)
    entries = _seen_entries(message, page)
    shown = page.shown.get(message.pk) or Shown()
    ended = [entry.finished_at for entry in entries if entry.finished_at is not None]
    domains = [page.domains[name] for name in _domain_names(message) if name in page.domains]
    return {
        "id": message.pk,
        "message_id": message.pk,
        "internet_message_id": message.internet_message_id,
        "thread_id": message.thread_id or None,
        "domain_id": domains[0] if domains else None,
        "sender_email": message.reverse_path,
        "recipient_email": recipients[0] if recipients else None,
        "recipient_count": len(recipients),
        "forwarded_to": page.forwarded.get(message.pk) if share is None else None,
        "subject": message.subject,
        "body_preview": shown.preview,
        "status": message.status,
        "error_message": (message.error_message or None) if share is None else None,
        "size_bytes": message.size_octets,
        "has_attachments": shown.has_attachments,
        "created_at": message.created_at,
        "updated_at": max([message.created_at, *ended]),
    }
