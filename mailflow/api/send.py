"""`POST send`: the HTTP door (R1, R5); it collects and checks, the receiver accepts."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import structlog
from django.core.files.uploadedfile import UploadedFile
from django.db import DatabaseError
from django.utils import timezone
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import ParseError, PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import keys, users
from accounts.api import problems
from accounts.api.parsers import JSONParser
from accounts.api.texts import text
from accounts.keys import Usage
from accounts.models import ApiKey, Scope, User
from mailflow import counters, events, idempotency, receiver, runtime
from mailflow.api import sending
from mailflow.api.send_body import SendBody, scheduled_at
from mailflow.api.send_parsers import BareMessage, FormWithFiles
from mailflow.api.sending import Caller
from mailflow.errors import Refused, Unavailable
from mailflow.events import NewEvent
from mailflow.idempotency import Reservation
from mailflow.ids import new_trace_id
from mailflow.models import Event
from mailflow.spool.accepted import Origin, Receipt
from mailflow.spool.commit import DAILY_LIMIT, PLAN_LIMIT

log = structlog.get_logger(__name__)

TOO_BIG = 552  # the SMTP reply that stands for 413
IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    description="A request with the same key and body is carried out once, for 48 hours; with another body it is 422.",
)
REFUSALS = {
    401: OpenApiResponse(description="No credentials, or wrong ones."),
    403: OpenApiResponse(description="The account's organization is switched off."),
    409: OpenApiResponse(description="A request with the same Idempotency-Key is still under way."),
    413: OpenApiResponse(description="The request or the message is too large."),
    422: OpenApiResponse(description="The body cannot be used; the fields are named."),
    429: OpenApiResponse(description="The key's daily limit is reached."),
    503: OpenApiResponse(description="Nothing can be stored just now, or new mail is switched off."),
}


class SwitchedOff(problems.ServiceUnavailable):
    """Staff decided that no new mail is taken (`PUT config` with `enabled` false)."""

    default_detail = "New mail is not taken just now: an administrator switched the service off. Try again later."


class UnderWay(problems.Conflict):
    """Another request with the key is being worked on."""

    default_detail = "A request with the same Idempotency-Key is still under way. Try again in a moment."
    wait = 1


class SendAnswer(serializers.Serializer[Any]):
    """The message is on disk when this leaves."""

    status = serializers.ChoiceField(choices=["queued"])
    message = serializers.CharField(help_text="For people, in the language of Accept-Language.")
    email_id = serializers.CharField(help_text="msg_…, the message's id everywhere.")
    scheduled_at = serializers.DateTimeField(required=False, help_text="Only where it was asked for; in UTC.")


class Door(APIView):
    """What `send` and its batch have in common: who may come in, what a refusal leaves, the headers of limits."""

    key_scope = Scope.SEND
    usage: Usage | None = None

    def caller(self, request: Request) -> Caller:
        user, key = cast(User, request.user), _key(request)
        if not users.may_act(user):
            raise PermissionDenied("The account or its organization is switched off and cannot send.")
        if not runtime.fresh().enabled:
            raise SwitchedOff
        return Caller(user, key, _origin(request, user, key))

    def body_of(self, request: Request) -> Any:
        try:
            return request.data
        except ParseError as error:
            raise problems.Unprocessable({"non_field_errors": [str(error.detail)]}) from None

    def reserve(
        self, request: Request, caller: Caller, body: Any, is_done: Callable[[str], bool] | None = None
    ) -> Reservation | None:
        """Bind the Idempotency-Key, where there is one, to this request."""
        key = request.META.get("HTTP_IDEMPOTENCY_KEY")
        if key is None:
            return None
        if not idempotency.is_valid(key):
            rule = f"1 to {idempotency.MAX_KEY} printable ASCII characters are needed."
            raise problems.Unprocessable({"Idempotency-Key": [rule]})
        try:
            return idempotency.reserve(caller.user.pk, key, idempotency.digest(plain(body)), is_done)
        except idempotency.OtherBody:
            raise problems.Unprocessable({"Idempotency-Key": ["It was used with another request."]}) from None
        except idempotency.UnderWay:
            raise UnderWay from None

    def handle_exception(self, exc: Exception) -> Response:
        """Leave an event of every refusal that has a caller; who has no credentials is in the accounts' trail."""
        response = super().handle_exception(exc)
        request = self.request
        if (response.status_code < 500 or isinstance(exc, SwitchedOff)) and isinstance(request.user, User):
            origin = _origin(request, request.user, _key(request))
            refusal = NewEvent(
                kind=Event.Kind.REFUSED.value,
                summary=f"Refused at send: {response.data['detail']}",
                reply=f"{response.status_code} {response.data['code']}",
                client_address=origin.client_address,
                actor=origin.actor,
                trace_id=origin.trace_id,
            )
            with suppress(DatabaseError):  # the caller's answer does not depend on it
                events.record([refusal])
        return response

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        """Every answer to a limited caller carries R4's headers, refused or not."""
        response = super().finalize_response(request, response, *args, **kwargs)
        key = _key(request) if response.status_code not in (401, 500, 503) else None
        usage = self.usage or (keys.usage(key, today()) if key is not None else None)
        if usage is not None:
            for name, value in _limit_headers(usage).items():
                response[name] = value
        return response


_EXAMPLES = [
    OpenApiExample(
        "A text to one recipient",
        value={
            "sender": "jane@example.com",
            "recipient": "to@example.org",
            "subject": "Test Subject",
            "body": "Email body content",
        },
        request_only=True,
    ),
    OpenApiExample(
        "Text and HTML, with header fields",
        value={
            "to": "user@example.org",
            "subject": "Newsletter",
            "html_body": "<h2>Latest Updates</h2>",
            "text_body": "Latest Updates",
            "headers": {"Reply-To": "noreply@example.com", "X-Priority": "1"},
        },
        request_only=True,
    ),
    OpenApiExample(
        "With a file, a tag and a copy nobody sees",
        value={
            "to": ["user@example.org", "Joe <joe@example.net>"],
            "bcc": "archive@example.com",
            "subject": "Your invoice",
            "text_body": "It is attached.",
            "attachments": [{"filename": "invoice.txt", "content": "MTAwIEVVUgo=", "content_type": "text/plain"}],
            "tags": ["invoice"],
            "metadata": {"customer": 17},
        },
        request_only=True,
    ),
    OpenApiExample(
        "By a template",
        value={"to": "user@example.org", "template": "Welcome", "template_data": {"name": "Jane"}},
        request_only=True,
    ),
    OpenApiExample(
        "A form",
        value={"to": ["user@example.org"], "subject": "Hello", "text_body": "By a form."},
        media_type="multipart/form-data",
        request_only=True,
    ),
    OpenApiExample(
        "A whole message; the query may name its recipients",
        value="From: jane@example.com\r\nTo: user@example.org\r\nSubject: Hello\r\n\r\nHello.\r\n",
        media_type="message/rfc822",
        request_only=True,
    ),
    OpenApiExample(
        "It is on disk",
        value={
            "status": "queued",
            "message": "Email queued for delivery",
            "email_id": "msg_0199f1c2d3e40a1b2c3d4e5f60",
        },
        response_only=True,
        status_codes=["202"],
    ),
]


class SendView(Door):
    """Send a message, given by its parts, by a template, or whole."""

    parser_classes = [JSONParser, FormWithFiles, BareMessage]

    @extend_schema(
        request=SendBody,
        parameters=[IDEMPOTENCY_KEY],
        responses={202: SendAnswer, **REFUSALS},
        examples=_EXAMPLES,
    )
    def post(self, request: Request) -> Response:
        began = time.perf_counter()
        caller = self.caller(request)
        body = self.body_of(request)
        reservation = self.reserve(request, caller, body)
        if reservation is not None and reservation.is_done:
            return self._answer(request, reservation.message_id, body)
        message_id = reservation.message_id if reservation is not None else ""
        try:
            with bound(reservation):
                submission = sending.submission(validated(body), caller, message_id=message_id)
                receipt = receiver.accept_blocking(submission)
        except (Refused, Unavailable, problems.Unprocessable) as error:
            counters.add("http.sends.refused")
            raise problem(error, caller.key, body) from None
        finish(reservation, [0])
        self.usage = receipt.usage
        note_accepted(receipt, len(submission.content), caller)
        counters.observe("processing_ms", (time.perf_counter() - began) * 1000)
        log.info(
            "Email queued for delivery",
            api_key_id=str(caller.key.pk) if caller.key else None,
            recipient=str(submission.envelope.recipients[0].address),
            recipients=len(submission.envelope.recipients),
            message_id=receipt.message_id,
        )
        return self._answer(request, receipt.message_id, body)

    def _answer(self, request: Request, message_id: str, body: Any) -> Response:
        words = text(request, "Email queued for delivery")
        answer: dict[str, Any] = {"status": "queued", "message": words, "email_id": message_id}
        at = scheduled_at(body)
        if at is not None:
            answer["scheduled_at"] = at
        return Response(answer, status=202)


def validated(body: Any) -> dict[str, Any]:
    """Return the checked values; raises `Unprocessable`, which names each field."""
    found = SendBody(data=body)
    if not found.is_valid():
        raise problems.Unprocessable(found.errors)
    return cast("dict[str, Any]", found.validated_data)


def note_accepted(receipt: Receipt, octets: int, caller: Caller) -> None:
    counters.add("http.sends.accepted")
    counters.observe("message_octets", octets)
    if caller.key is not None:
        counters.add("http.rate_limit.allowed")


def problem(error: Exception, key: ApiKey | None, body: Any) -> Exception:
    """Say over HTTP what the receiver says in SMTP's words; anything else stays what it is.

    What is refused of the content comes of `raw` where the body has that, since what is composed keeps the rules.
    """
    if isinstance(error, Unavailable):
        log.warning("send_unavailable", cause=error.cause)
        return problems.ServiceUnavailable()
    if not isinstance(error, Refused):
        return error
    if error.rule == DAILY_LIMIT and key is not None:
        counters.add("http.rate_limit.refused")
        wait = (keys.usage(key, today()).resets_at - timezone.now()).total_seconds()
        return problems.DailyLimitReached(wait, f"The key's limit of {key.daily_limit} messages a day is reached.")
    if error.rule == PLAN_LIMIT:
        return problems.PlanLimitReached(_until_tomorrow(), f"{error.reply.text}.")
    if error.reply.code == TOO_BIG:
        return problems.TooLarge(f"{error.reply.text}.")
    field = "raw" if isinstance(body, dict) and body.get("raw") is not None else "non_field_errors"
    return problems.Unprocessable({field: [f"{error.reply.text}."]})


@contextmanager
def bound(reservation: Reservation | None) -> Iterator[None]:
    """Free the key where the request is refused; where it breaks off, leave it to the next request to find out."""
    try:
        yield
    except BaseException as error:
        if reservation is not None:
            is_decided = isinstance(error, (Refused, problems.Unprocessable))
            is_decided = is_decided or (isinstance(error, Unavailable) and not error.in_doubt)
            with suppress(DatabaseError):  # the first error is the one to tell of
                (idempotency.give_up if is_decided else idempotency.release)(reservation)
        raise


def finish(reservation: Reservation | None, queued: Collection[int]) -> None:
    """The message is accepted: a note that cannot be written is no reason to say otherwise."""
    if reservation is not None:
        with suppress(DatabaseError):
            idempotency.finish(reservation, queued)


def plain(body: Any) -> Any:
    """Return the body as plain JSON values: a file as its name and content."""
    if isinstance(body, dict):
        return {name: plain(value) for name, value in body.items()}
    if isinstance(body, list):
        return [plain(value) for value in body]
    if isinstance(body, UploadedFile):
        content = body.read()
        body.seek(0)
        return [body.name, body.content_type, content.hex()]
    return body


def _until_tomorrow() -> float:
    tomorrow = dt.datetime.combine(today() + dt.timedelta(days=1), dt.time(), dt.UTC)
    return (tomorrow - timezone.now()).total_seconds()


def today() -> dt.date:
    return timezone.now().date()


def _key(request: Request) -> ApiKey | None:
    return request.auth if isinstance(request.auth, ApiKey) else None


def _limit_headers(usage: Usage) -> dict[str, str]:
    return {
        "X-RateLimit-Limit": str(usage.limit),
        "X-RateLimit-Remaining": str(usage.remaining),
        "X-RateLimit-Reset": str(int(usage.resets_at.timestamp())),
    }


def _origin(request: Request, user: User, key: ApiKey | None) -> Origin:
    return Origin(
        protocol="HTTP",
        trace_id=problems.current_request_id()[:32] or new_trace_id(),
        client_address=request.META.get("REMOTE_ADDR", ""),
        actor=f"{user.username} by key {key.name}" if key else user.username,
        user_id=user.pk,
        organization_id=user.organization_id,
        api_key_id=key.pk if key else None,
        is_test=key is not None and key.is_test,
    )
