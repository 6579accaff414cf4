"""`GET events` and `events/{id}`: what happened and why, refusals included; a cursor feed and a search (contract §1.1).

A caller sees the events of the messages that are theirs (`mailflow.api.visibility`), their organization's refusals, and
failed authentications as themselves; staff see all.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Mapping
from typing import Any, cast

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils.dateparse import parse_date
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.models import User
from mailflow import event_search
from mailflow.api.visibility import owned_by, sees_all
from mailflow.event_search import Page, Visible, Wanted
from mailflow.models import Event, FiledMessage, Message

MAX_LIMIT = 500
DEFAULT_LIMIT = 50
MAX_ID = 2**63 - 1
MAX_WORDS = 10


class MomentField(serializers.CharField):
    """A date, which means its first moment in UTC, or a date and time."""

    def to_internal_value(self, data: Any) -> Any:
        text = super().to_internal_value(data)
        try:
            day = parse_date(text)
            if day is not None:
                return dt.datetime.combine(day, dt.time(), dt.UTC)
            # the space: what a + becomes in a query that was not encoded
            moment = dt.datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
            return moment.astimezone(dt.UTC) if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
        except (ValueError, OverflowError):
            raise serializers.ValidationError("A date such as 2025-01-31 or 2025-01-31T12:00:00Z is needed.") from None


class NetworkField(serializers.CharField):
    """An address, or a network of them such as 192.0.2.0/24."""

    def to_internal_value(self, data: Any) -> Any:
        text = super().to_internal_value(data)
        try:
            return ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise serializers.ValidationError(
                "An address such as 192.0.2.7 or a network such as 192.0.2.0/24 is needed."
            ) from None


class CursorField(serializers.CharField):
    """What an answer gave as `next`, or the id of an event."""

    def to_internal_value(self, data: Any) -> Any:
        text = super().to_internal_value(data)
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise serializers.ValidationError("An event's id is needed, or what an answer gave as next.")
        return min(int(text), MAX_ID)


class EventFilter(serializers.Serializer[Any]):
    """The query; conditions all hold together. Addresses and actors match whole, whatever their case."""

    kind = serializers.MultipleChoiceField(choices=Event.Kind.choices, required=False, help_text="May be repeated.")
    refusals = serializers.BooleanField(
        required=False, help_text="`true`: only what was refused and became no message, authentication included."
    )
    stage = serializers.CharField(required=False, help_text="connection, greeting, auth, sender, recipient, content …")
    rule = serializers.CharField(required=False, help_text="Such as relay_denied.")
    sender = serializers.CharField(required=False, help_text="The reverse path.")
    recipient = serializers.CharField(required=False)
    client_address = NetworkField(required=False, help_text="An address, or a network such as 192.0.2.0/24.")
    actor = serializers.CharField(required=False, help_text="A username, or whatever name authentication was tried as.")
    trace_id = serializers.CharField(required=False)
    message_id = serializers.CharField(required=False)
    q = serializers.CharField(required=False, help_text="Words, each of which is in the summary or the reply.")
    since = MomentField(required=False, help_text="A date or a date and time (ISO 8601); this moment is included.")
    until = MomentField(required=False, help_text="The same; a date means its first moment.")
    after = CursorField(required=False, help_text="The oldest first, from behind this cursor; 0 is the beginning.")
    before = CursorField(required=False, help_text="The newest first, from before this cursor.")
    limit = serializers.IntegerField(required=False, min_value=1, max_value=MAX_LIMIT, default=DEFAULT_LIMIT)

    def validate_q(self, text: str) -> list[str]:
        words = text.split()
        if len(words) > MAX_WORDS:
            raise serializers.ValidationError(f"At most {MAX_WORDS} words can be searched for.")
        return words

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "after" in attrs and "before" in attrs:
            raise serializers.ValidationError({"before": "Only one of after and before can be given."})
        return attrs


class DecisionItem(serializers.Serializer[Any]):
    stage = serializers.CharField()
    rule = serializers.CharField()
    outcome = serializers.CharField()
    reason = serializers.CharField()
    saw = serializers.CharField(required=False)
    reply = serializers.CharField(required=False)


class EventItem(serializers.Serializer[Any]):
    """One event; what does not apply is empty."""

    id = serializers.CharField()
    created_at = serializers.DateTimeField()
    kind = serializers.ChoiceField(choices=Event.Kind.choices)
    stage = serializers.CharField()
    rule = serializers.CharField()
    sender = serializers.CharField()
    recipient = serializers.CharField()
    summary = serializers.CharField()
    reply = serializers.CharField()
    client_address = serializers.CharField()
    actor = serializers.CharField()
    message_id = serializers.CharField()
    trace_id = serializers.CharField()
    decisions = DecisionItem(many=True)


class EventPage(serializers.Serializer[Any]):
    items = EventItem(many=True)
    next = serializers.CharField(allow_null=True, help_text="The cursor of the next page; null: there is none.")
    more = serializers.BooleanField(help_text="Whether the next page can be asked for at once.")


class EventListView(APIView):
    """The newest first, and with `next` as `before` what is older; or, with `after`, a feed for whoever polls.

    The feed: ask with `after=0` (and `since`, to begin at a moment), then always with the last answer's `next`. It
    tells every event once, about two seconds after it happened: an event gets its id before it is committed, so that
    one of a lower id may appear after one of a higher, and the feed waits until none can.

    A page may hold fewer events than `limit`, or none, although `more` is true: a search reads 100,000 at once at most.
    """

    @extend_schema(operation_id="events_list", parameters=[EventFilter], responses=EventPage)
    def get(self, request: Request) -> Response:
        asked = EventFilter(data=request.query_params)
        asked.is_valid(raise_exception=True)
        query = asked.validated_data
        wanted = _wanted(query)
        visible = _visible(cast(User, request.user), wanted)
        if "after" in query:
            page = event_search.after(visible, wanted, limit=query["limit"], after=query["after"])
            return Response(_body(page, str(page.next_id)))
        page = event_search.newest(visible, wanted, limit=query["limit"], before=query.get("before"))
        return Response(_body(page, str(page.next_id) if page.has_more else None))


class EventView(APIView):
    """One event."""

    @extend_schema(responses=EventItem)
    def get(self, request: Request, event_id: str) -> Response:
        found = None
        if event_id.isascii() and event_id.isdigit() and len(event_id) < 20 and int(event_id) <= MAX_ID:
            visible = _visible(cast(User, request.user), Wanted())
            found = Event.objects.filter(visible.condition, pk=int(event_id)).first()
        if found is None:
            raise NotFound(f"There is no event {event_id[:40]!r}.")
        return Response(_item(found))


def _wanted(query: Mapping[str, Any]) -> Wanted:
    return Wanted(
        kinds=frozenset(query.get("kind", ())),
        refusals=query.get("refusals", False),
        network=query.get("client_address"),
        words=query.get("q", ()),
        since=query.get("since"),
        until=query.get("until"),
        **{name: query.get(name, "") for name in ("stage", "rule", "sender", "recipient", "actor")},
        **{name: query.get(name, "") for name in ("trace_id", "message_id")},
    )


def _visible(user: User, wanted: Wanted) -> Visible:
    if sees_all(user):
        return Visible(Q(), is_all=True)
    refusals = _own_refusals(user)
    if wanted.among_refusals:
        return Visible(Q(pk__in=refusals), is_indexed=True)
    own = Message.objects.filter(owned_by(user), pk=OuterRef("message_id"))
    # Of a message that they merely received, the steps of their own copy.
    filed = FiledMessage.objects.filter(
        message_id=OuterRef("message_id"), mailbox__user=user, recipient=OuterRef("recipient")
    )
    return Visible(Q(Exists(own)) | Q(Exists(filed)) | Q(pk__in=refusals))


def _own_refusals(user: User) -> QuerySet[Event, int]:
    """The ids of refusals that concern the user, each part by an index.

    Attempts at a colleague's password are for the organization's administrators alone.
    """
    refusals = Event.objects.filter(message_id="").order_by()
    attempts = event_search.of_any_kind(refusals, [Event.Kind.AUTH_FAILED])
    parts = [event_search.lower_is(attempts, "actor", name) for name in sorted({user.username, user.email})]
    if user.organization_id is not None:
        theirs = refusals.filter(organization_id=user.organization_id)
        parts.append(theirs if user.is_organization_admin else theirs.exclude(kind=Event.Kind.AUTH_FAILED))
    first, *others = (part.values_list("pk", flat=True) for part in parts)
    return first.union(*others, all=True) if others else first


def _body(page: Page, next_cursor: str | None) -> dict[str, Any]:
    return {"items": [_item(event) for event in page.events], "next": next_cursor, "more": page.has_more}


def _item(event: Event) -> dict[str, Any]:
    return {
        "id": str(event.pk),
        "created_at": event.created_at,
        "kind": event.kind,
        "stage": event.stage,
        "rule": event.rule,
        "sender": event.sender,
        "recipient": event.recipient,
        "summary": event.summary,
        "reply": event.reply,
        "client_address": event.client_address,
        "actor": event.actor,
        "message_id": event.message_id,
        "trace_id": event.trace_id,
        "decisions": event.decisions,
    }
