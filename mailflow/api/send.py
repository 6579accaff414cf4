"""`POST send`: the HTTP door (R1, R5); it collects and checks, the receiver accepts."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import structlog
from django.conf import settings
from django.db import DatabaseError
from django.utils import timezone
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import APIException, ParseError, PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import keys, users
from accounts.addresses import may_send_as
from accounts.api import problems
from accounts.api.texts import text
from accounts.models import ApiKey, User
from accounts.names import Address, InvalidName, parse_address
from mailflow import compose, counters, events, receiver, runtime
from mailflow.api import send_body
from mailflow.api.send_body import SendBody
from mailflow.compose import Named
from mailflow.errors import Refused, Unavailable
from mailflow.events import NewEvent
from mailflow.ids import new_trace_id
from mailflow.models import Event, Message
from mailflow.policy.sender import check_sender
from mailflow.smtp.envelope import Envelope, Recipient
from mailflow.spool.accepted import Origin, Receipt

log = structlog.get_logger(__name__)

TOO_BIG = 552  # the SMTP reply that stands for 413


class SwitchedOff(problems.ServiceUnavailable):
    """Staff decided that no new mail is taken (`PUT config` with `enabled` false)."""

    default_detail = "New mail is not taken just now: an administrator switched the service off. Try again later."


class SendAnswer(serializers.Serializer[Any]):
    """The message is on disk when this leaves."""

    status = serializers.ChoiceField(choices=["queued"])
    message = serializers.CharField(help_text="For people, in the language of Accept-Language.")
    email_id = serializers.CharField(help_text="msg_…, the message's id everywhere.")


class SendView(APIView):
    """Send a message, as R1's or R5's form has it."""

    @extend_schema(
        request=SendBody,
        responses={
            202: SendAnswer,
            401: OpenApiResponse(description="No credentials, or wrong ones."),
            403: OpenApiResponse(description="The account's organization is switched off."),
            413: OpenApiResponse(description="The request or the message is too large."),
            422: OpenApiResponse(description="The body cannot be used; the fields are named."),
            429: OpenApiResponse(description="The key's daily limit is reached."),
            503: OpenApiResponse(description="Nothing can be stored just now, or new mail is switched off."),
        },
    )
    def post(self, request: Request) -> Response:
        began = time.perf_counter()
        user, key = cast(User, request.user), _key(request)
        if not users.may_act(user):
            raise PermissionDenied("The account or its organization is switched off and cannot send.")
        if not runtime.fresh().enabled:
            raise SwitchedOff
        data = _validated(request)
        sender = _sender(data, user, key)
        recipients = send_body.recipients(data)
        content = compose.compose(
            send_body.draft(data, sender),
            message_id=f"<{new_trace_id()}.{new_trace_id()}@{sender.address.domain.strip('[]').replace(':', '-')}>",
            date=timezone.now(),
        )
        self._take(key)
        submission = receiver.Submission(
            source=Message.Source.HTTP,
            envelope=_envelope(sender.address, recipients, content),
            origin=_origin(request, user, key),
            content=content,
            decisions=[check_sender(sender.address, authenticated_as=user.username, may_use=True)],
        )
        receipt = self._accept(submission, key)
        counters.add("http.sends.accepted")
        counters.observe("processing_ms", (time.perf_counter() - began) * 1000)
        counters.observe("message_octets", len(content))
        log.info(
            "Email queued for delivery",
            api_key_id=str(key.pk) if key else None,
            recipient=str(recipients[0]),
            recipients=len(recipients),
            message_id=receipt.message_id,
        )
        words = text(request, "Email queued for delivery")
        return Response({"status": "queued", "message": words, "email_id": receipt.message_id}, status=202)

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

    def _take(self, key: ApiKey | None) -> None:
        """Count the message against the key's day, now that nothing but the store can refuse it."""
        if key is None:
            return
        self.usage = keys.take(key, _today())
        counters.add("http.rate_limit.allowed" if self.usage.allowed else "http.rate_limit.refused")
        if self.usage.allowed:
            return
        wait = (self.usage.resets_at - timezone.now()).total_seconds()
        raise problems.DailyLimitReached(wait, f"The key's limit of {key.daily_limit} messages a day is reached.")

    def _accept(self, submission: receiver.Submission, key: ApiKey | None) -> Receipt:
        try:
            return receiver.accept_blocking(submission)
        except Exception as error:
            self._give_back(key)  # nothing was sent, so nothing is counted
            if isinstance(error, (Refused, Unavailable)):
                raise _problem(error) from None
            raise

    def _give_back(self, key: ApiKey | None) -> None:
        counters.add("http.sends.refused")
        if key is None:
            return
        try:
            keys.give_back(key, _today())
        except DatabaseError as error:
            log.warning("usage_not_given_back", api_key_id=str(key.pk), error=type(error).__name__)

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        """Every answer to a limited caller carries R4's headers, refused or not."""
        response = super().finalize_response(request, response, *args, **kwargs)
        usage = getattr(self, "usage", None)
        key = _key(request) if response.status_code not in (401, 500, 503) else None
        if usage is None and key is not None:
            usage = keys.usage(key, _today())
        if usage is not None:
            for name, value in _limit_headers(usage).items():
                response[name] = value
        return response


def _envelope(sender: Address, recipients: Sequence[Address], content: bytes) -> Envelope:
    """SMTPUTF8 is declared where an address needs it, in the envelope or in the header (RFC 6531 §3.4)."""
    needs_smtputf8 = not content.isascii() or any(address.needs_smtputf8 for address in (sender, *recipients))
    return Envelope(sender, [Recipient(address) for address in recipients], is_smtputf8=needs_smtputf8)


def _problem(error: Refused | Unavailable) -> APIException:
    """Say over HTTP what the receiver says in SMTP's words."""
    if isinstance(error, Unavailable):
        log.warning("send_unavailable", cause=error.cause)
        return problems.ServiceUnavailable()
    if error.reply.code == TOO_BIG:
        return problems.TooLarge(f"{error.reply.text}.")
    return problems.Unprocessable({"non_field_errors": [f"{error.reply.text}."]})


def _key(request: Request) -> ApiKey | None:
    return request.auth if isinstance(request.auth, ApiKey) else None


def _today() -> dt.date:
    return timezone.now().date()


def _validated(request: Request) -> dict[str, Any]:
    try:
        body = SendBody(data=request.data)
    except ParseError as error:
        raise problems.Unprocessable({"non_field_errors": [str(error.detail)]}) from None
    if not body.is_valid():
        raise problems.Unprocessable(body.errors)
    return cast("dict[str, Any]", body.validated_data)


def _sender(data: Mapping[str, Any], user: User, key: ApiKey | None) -> Named:
    """The sender that was asked for, where the caller holds it, or the default one."""
    default = _address(settings.SMTP_FROM_ADDRESS) if key is not None else None
    wanted: Named | None = data.get("sender")
    if wanted is None:
        own = default or _address(user.email)
        if own is None:
            raise problems.Unprocessable({"sender": ["It is needed: the account has no address of its own."]})
        return Named(own)
    if wanted.address != default and not user.is_superuser and not may_send_as(user, wanted.address):
        rule = "You may send from your own address and from your organization's verified domains."
        raise problems.Unprocessable({"sender": [rule]})
    return wanted


def _address(text_of_it: str) -> Address | None:
    try:
        return parse_address(text_of_it)
    except InvalidName:
        return None


def _limit_headers(usage: keys.Usage) -> dict[str, str]:
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
    )
