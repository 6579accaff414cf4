"""`POST send/batch`: up to 500 messages in one request, each with its own result."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import APIException
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api import problems
from mailflow import counters, idempotency, receiver
from mailflow.api import sending
from mailflow.api.send import IDEMPOTENCY_KEY, REFUSALS, Door, bound, finish, note_accepted, problem, validated
from mailflow.api.send_body import SendBody
from mailflow.api.sending import Caller
from mailflow.receiver import Submission
from mailflow.spool.accepted import Receipt

MAX_MESSAGES = 500


class BatchBody(serializers.Serializer[Any]):
    messages = serializers.ListField(child=SendBody(), help_text=f"1 to {MAX_MESSAGES}, each as for `send`.")


class BatchResult(serializers.Serializer[Any]):
    """What became of one message; what is missing does not apply."""

    status = serializers.ChoiceField(choices=["queued", "refused"])
    email_id = serializers.CharField(required=False)
    code = serializers.CharField(required=False, help_text="As in an error's body.")
    detail = serializers.CharField(required=False)
    errors = serializers.ListField(  # type: ignore[assignment]  # a field, not DRF's own `errors`
        child=serializers.DictField(), required=False
    )


class BatchAnswer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["queued", "partly queued"])
    queued = serializers.IntegerField()
    refused = serializers.IntegerField()
    results = BatchResult(many=True, help_text="In the order of the messages.")


class NoneTaken(APIException):
    """Not one message could be taken. The status is what each alone would have had, or 422 where they differ."""

    def __init__(self, refusals: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]], wait: int | None) -> None:
        super().__init__(f"No message could be taken: {refusals[0]['detail']}")
        statuses = {refusal["status"] for refusal in refusals}
        self.status_code = statuses.pop() if len(statuses) == 1 else 422
        self.wait = wait if self.status_code == 429 else None
        self.extension = {"queued": 0, "refused": len(results), "results": results}


_WORDS = "No message could be taken (`results` says why of each), or the body is no list of messages."
_REFUSALS = {**REFUSALS, 422: OpenApiResponse(description=_WORDS)}


_EXAMPLES = [
    OpenApiExample(
        "Two messages",
        value={
            "messages": [
                {"to": "one@example.org", "subject": "Hello", "text_body": "Hello, one."},
                {"to": "two@example.org", "subject": "Hello", "text_body": "Hello, two."},
            ]
        },
        request_only=True,
    ),
    OpenApiExample(
        "One of them could not be taken",
        value={
            "status": "partly queued",
            "queued": 1,
            "refused": 1,
            "results": [
                {"status": "queued", "email_id": "msg_0199f1c2d3e40a1b2c3d4e5f60"},
                {
                    "status": "refused",
                    "code": "VALIDATION_ERROR",
                    "detail": "to: Not a valid address.",
                    "errors": [{"field": "to", "message": "Not a valid address."}],
                },
            ],
        },
        response_only=True,
        status_codes=["202"],
    ),
]


class SendBatchView(Door):
    """Send many messages; what is wrong with one holds up no other."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self._refusals: list[dict[str, Any]] = []  # a view is made for each request
        self._wait: int | None = None

    @extend_schema(
        request=BatchBody,
        parameters=[IDEMPOTENCY_KEY],
        responses={202: BatchAnswer, **_REFUSALS},
        examples=_EXAMPLES,
    )
    def post(self, request: Request) -> Response:
        caller = self.caller(request)
        messages = _messages(self.body_of(request))
        count = len(messages)
        reservation = self.reserve(
            request, caller, {"messages": messages}, lambda first: bool(idempotency.accepted(_ids(first, count)))
        )
        ids = _ids(reservation.message_id, count) if reservation is not None else [""] * count
        known = {ids[number] for number in reservation.queued} if reservation is not None else set()
        with bound(reservation):
            results = self._results(messages, ids, known, caller)
        numbers = [number for number, result in enumerate(results) if result["status"] == "queued"]
        queued = len(numbers)
        if queued:
            finish(reservation, numbers)
        elif reservation is not None:
            idempotency.give_up(reservation)
        status = "queued" if queued == count else "partly queued"
        if not queued:
            raise NoneTaken(self._refusals, results, self._wait)
        answer = {"status": status, "queued": queued, "refused": count - queued, "results": results}
        return Response(answer, status=202)

    def _results(
        self, messages: Sequence[Any], ids: Sequence[str], known: Set[str], caller: Caller
    ) -> list[dict[str, Any]]:
        """Accept what can be; what an earlier request with the same key stored is not looked at again."""
        known = known | idempotency.accepted(set(ids) - {""} - known)
        made: dict[int, Submission] = {}
        results: dict[int, dict[str, Any]] = {}
        for number, (message, message_id) in enumerate(zip(messages, ids, strict=True)):
            if message_id in known:
                continue
            try:
                made[number] = sending.submission(validated(message), caller, message_id=message_id)
            except problems.Unprocessable as error:
                results[number] = self._refused(error)
        for number, result in zip(made, receiver.accept_each(list(made.values())), strict=True):
            results[number] = self._result(made[number], result, caller, messages[number])
        known |= idempotency.accepted(set(ids) - {""} - known)  # those of a request with the same key beside this one
        return [
            {"status": "queued", "email_id": message_id} if message_id in known else results[number]
            for number, message_id in enumerate(ids)
        ]

    def _result(
        self, submission: Submission, result: Receipt | Exception, caller: Caller, message: Any
    ) -> dict[str, Any]:
        if isinstance(result, Receipt):
            self.usage = result.usage or self.usage
            note_accepted(result, len(submission.content), caller)
            return {"status": "queued", "email_id": result.message_id}
        return self._refused(problem(result, caller.key, message))

    def _refused(self, error: Exception) -> dict[str, Any]:
        """Say what a request with this message alone would have been answered."""
        counters.add("http.sends.refused")
        members = problems.members_of(error)
        self._refusals.append(members)
        self._wait = getattr(error, "wait", None) or self._wait
        kept: dict[str, Any] = {name: members[name] for name in ("code", "detail", "errors") if name in members}
        return {"status": "refused", **kept}


def _messages(body: Any) -> list[Any]:
    found = body.get("messages") if isinstance(body, dict) else body
    if not isinstance(found, list) or not found:
        raise problems.Unprocessable({"messages": ["A list of messages is needed."]})
    if len(found) > MAX_MESSAGES:
        raise problems.Unprocessable({"messages": [f"At most {MAX_MESSAGES} messages."]})
    return found


def _ids(first: str, count: int) -> list[str]:
    return [idempotency.numbered(first, number) for number in range(count)]
