"""`queue/actions`: hold, release, retry, reroute, expire, fail or delete what a filter means; for staff."""

from __future__ import annotations

from typing import Any, cast

from django.utils import timezone
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, PolymorphicProxySerializer, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.permissions import IsAdminUser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.api.paging import PageOfItems, page_of, window_of
from accounts.api.problems import Conflict
from accounts.models import User
from queue import actions, control, selection, shown
from queue.control import Action, InvalidOrder, Order
from queue.models import Entry, QueueAction
from queue.selection import InvalidSelection, Selection
from queue.selection_fields import FIELDS
from queue.waiting import around

SAMPLE = 10
MAX_ID = 2**63 - 1
_FILTER_HEAD = """Conditions that all hold together; where several values are allowed, a list.
`all: true` means every entry. Only what has not ended is acted on.
"""
_FILTER_HELP = "\n".join(
    [_FILTER_HEAD, *(f"- `{field.name}`: {field.help}; such as `{field.example}`" for field in FIELDS.values())]
)
_PARAMETERS_HELP = """- `reason`: for the events and the trail; for `fail` the sender is told, too
- `at` (`retry`): a time, or a span from now such as `2h`; now by default
- `route` (`reroute`): a host or host:port; empty: by the rules again
- `expires_at`, `max_attempts` (`expire`): until when, and how often, attempts are made
- `dsn` (`fail`): whether the sender gets a report; true by default"""


class ActionBody(serializers.Serializer[Any]):
    action = serializers.ChoiceField(choices=[action.value for action in Action])
    filter = serializers.DictField(help_text=_FILTER_HELP)
    parameters = serializers.DictField(required=False, help_text=_PARAMETERS_HELP)
    dry_run = serializers.BooleanField(
        required=False, default=False, help_text="True: tell how many entries are meant, with some of them; do nothing."
    )


class SampleItem(serializers.Serializer[Any]):
    id = serializers.CharField()
    message_id = serializers.CharField()
    sender = serializers.CharField()
    recipient = serializers.CharField()
    subject = serializers.CharField()
    status = serializers.ChoiceField(choices=Entry.Status.choices)
    attempts = serializers.IntegerField()
    max_attempts = serializers.IntegerField()
    created_at = serializers.DateTimeField()
    next_attempt_at = serializers.DateTimeField(allow_null=True)
    expires_at = serializers.DateTimeField()
    scheduled_at = serializers.DateTimeField(allow_null=True)
    held_at = serializers.DateTimeField(allow_null=True)
    hold_reason = serializers.CharField()
    route = serializers.CharField()
    waiting_for = serializers.CharField()
    last_reply = serializers.CharField()


class DryRun(serializers.Serializer[Any]):
    dry_run = serializers.BooleanField()
    description = serializers.CharField()
    count = serializers.IntegerField()
    is_count_exact = serializers.BooleanField(help_text="False: there are more.")
    sample = SampleItem(many=True)


class ActionItem(serializers.Serializer[Any]):
    """One action; while it is `waiting` or `running`, ask again."""

    id = serializers.CharField()
    status = serializers.ChoiceField(choices=QueueAction.Status.choices)
    description = serializers.CharField()
    action = serializers.CharField()
    filter = serializers.DictField()
    parameters = serializers.DictField()
    actor = serializers.CharField()
    door = serializers.CharField(help_text="api, admin or command")
    total = serializers.IntegerField(allow_null=True, help_text="Entries to look at; null until it begins.")
    looked_at = serializers.IntegerField()
    done = serializers.IntegerField()
    left_alone = serializers.IntegerField()
    left = serializers.DictField(child=serializers.IntegerField(), help_text="Entries left alone, by the reason.")
    message = serializers.CharField(help_text="The counts in words.")
    error = serializers.CharField()
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)


class ActionPage(PageOfItems):
    items = ActionItem(many=True)


_EXAMPLES = [
    OpenApiExample(
        "Count first",
        value={"action": "hold", "filter": {"domain": "example.net"}, "dry_run": True},
        request_only=True,
    ),
    OpenApiExample(
        "Hold the mail of one customer",
        value={
            "action": "hold",
            "filter": {"organization": "Shop"},
            "parameters": {"reason": "account was taken over"},
        },
        request_only=True,
    ),
    OpenApiExample(
        "Send by another host what was greylisted, and try at once",
        value={
            "action": "reroute",
            "filter": {"domain": ["example.net", "example.org"], "reply": "greylisted"},
            "parameters": {"route": "relay.example.com:2525"},
        },
        request_only=True,
    ),
    OpenApiExample(
        "Give up what is older than two days, with reports",
        value={"action": "fail", "filter": {"older_than": "2d", "status": "retry"}, "parameters": {"dsn": True}},
        request_only=True,
    ),
]


class ActionListView(APIView):
    """Actions in bulk on the queue."""

    permission_classes = [IsAdminUser]

    @extend_schema(operation_id="queue_actions_list", responses=ActionPage)
    def get(self, request: Request) -> Response:
        """The latest first."""
        page = page_of(
            QueueAction.objects.order_by("-pk"), window_of(request), lambda rows: [_item(row) for row in rows]
        )
        return Response(page.as_items())

    @extend_schema(
        request=ActionBody,
        examples=_EXAMPLES,
        responses={
            200: OpenApiResponse(
                PolymorphicProxySerializer("ActionOrDryRun", [ActionItem, DryRun], resource_type_field_name=None),
                description="Done; or, for a dry run, what it would be done to.",
            ),
            202: OpenApiResponse(ActionItem, description="A worker carries it out; `Location` tells how far it is."),
        },
    )
    def post(self, request: Request) -> Response:
        """Act on all open entries that a filter means.

        Up to 500 are dealt with at once (200); more by a worker, in batches (202). What is being delivered right now is
        left alone, and counted; what waits in a worker for its turn is asked back, which takes some seconds. Asking
        twice does no harm.
        """
        body = ActionBody(data=request.data)
        body.is_valid(raise_exception=True)
        given = body.validated_data
        order, chosen = _read(given, cast(User, request.user).username)
        if given["dry_run"]:
            return Response(_dry_run(order, chosen))
        action = actions.perform(order, chosen, door="api", client_address=request.META.get("REMOTE_ADDR", ""))
        if action.finished_at is not None:
            return Response(_item(action))
        return Response(_item(action), status=202, headers={"Location": f"{request.path.rstrip('/')}/{action.pk}"})


class ActionView(APIView):
    """How far one action is."""

    permission_classes = [IsAdminUser]

    @extend_schema(responses=ActionItem)
    def get(self, request: Request, action_id: str) -> Response:
        return Response(_item(_found(action_id)))


class ActionStopView(APIView):
    """End an action after its batch under way; what is done stays done."""

    permission_classes = [IsAdminUser]

    @extend_schema(
        request=None,
        responses={200: ActionItem, 409: OpenApiResponse(description="It has ended already.")},
    )
    def post(self, request: Request, action_id: str) -> Response:
        action = _found(action_id)
        if not actions.request_stop(action.pk):
            raise Conflict("The action has ended already.")
        action.refresh_from_db()
        return Response(_item(action))


def _read(given: dict[str, Any], actor: str) -> tuple[Order, Selection]:
    """Read both parts, and tell the errors of both at once."""
    now, errors = timezone.now(), {}
    try:
        order = control.parse_order(given["action"], given.get("parameters", {}), actor=actor, now=now)
    except InvalidOrder as error:
        errors["parameters"] = dict(error.errors)
    try:
        chosen = selection.parse(given["filter"], now, needs_one=True)
    except InvalidSelection as error:
        errors["filter"] = {"" if name == "filter" else name: words for name, words in error.errors.items()}
    if errors:
        raise ValidationError(errors)
    return order, chosen


def _dry_run(order: Order, chosen: Selection) -> dict[str, Any]:
    entries, now = chosen.open_entries(), timezone.now()
    count = selection.count(entries)
    sample = list(entries.select_related("message").order_by("-message_id", "-id")[:SAMPLE]) if count.number else []
    about = around(sample, now)
    return {
        "dry_run": True,
        "description": f"{order.words}: {chosen.words}",
        "count": count.number,
        "is_count_exact": not count.is_more,
        "sample": [shown.values(entry, now, about) for entry in sample],
    }


def _found(action_id: str) -> QueueAction:
    is_number = action_id.isascii() and action_id.isdigit() and len(action_id) < 20 and int(action_id) <= MAX_ID
    found = QueueAction.objects.filter(pk=int(action_id)).first() if is_number else None
    if found is None:
        raise NotFound(f"There is no action {action_id[:40]!r}.")
    return found


def _item(action: QueueAction) -> dict[str, Any]:
    tally = actions.tally_of(action)
    return {
        "id": str(action.pk),
        "status": action.status,
        "description": actions.words_of(action),
        "action": action.action,
        "filter": action.filter,
        "parameters": action.parameters,
        "actor": action.actor,
        "door": action.door,
        "total": action.total,
        "looked_at": action.looked_at,
        "done": tally.done,
        "left_alone": tally.left.total(),
        "left": dict(tally.left),
        "message": f"{tally.words}.",
        "error": action.error,
        "created_at": action.created_at,
        "started_at": action.started_at,
        "finished_at": action.finished_at,
    }
