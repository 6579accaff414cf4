"""`GET`/`PUT config` and `POST restart` (R1, R2): what acts on the running processes (contract §1.1, §6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from django.utils.translation import get_language_from_request
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.models import ApiKey, User
from mailflow import runtime
from mailflow.models import RestartRequest
from mailflow.runtime import Effective, InvalidConfig

SMTP, WORKER = RestartRequest.Service.SMTP, RestartRequest.Service.WORKER
RESTARTED = {
    SMTP: ("SMTP server was restarted successfully", "SMTP server byl úspěšně restartován"),
    WORKER: ("Worker was restarted successfully", "Worker byl úspěšně restartován"),
}
SERVICE = OpenApiParameter("service", str, enum=runtime.SERVICES, description="Without it: both.")


class IsAdministrator(BasePermission):
    """Superusers, and staff who were given the permission to change runtime settings."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        user = request.user
        return bool(user.is_authenticated and user.is_staff and user.has_perm("mailflow.change_runtimesetting"))


class ConfigBody(serializers.Serializer[Any]):
    """Any of the fields; null gives the environment's value back."""

    max_workers = serializers.IntegerField(required=False, allow_null=True, min_value=1, max_value=1000)
    pool_size = serializers.IntegerField(required=False, allow_null=True, min_value=1, max_value=100)
    timeout = serializers.FloatField(required=False, allow_null=True, min_value=0.1, max_value=86400)
    max_connections = serializers.IntegerField(required=False, allow_null=True, min_value=1, max_value=100_000)
    idle_timeout = serializers.FloatField(required=False, allow_null=True, min_value=0.1, max_value=86400)
    enabled = serializers.BooleanField(required=False, allow_null=True)


class ConfigValue(serializers.Serializer[Any]):
    """One value and where it comes from."""

    value = serializers.JSONField(help_text="A number, or true or false.")
    variable = serializers.CharField(allow_null=True, help_text="The environment's name for it, if it has one.")
    set_by = serializers.CharField(allow_null=True)
    set_at = serializers.DateTimeField(allow_null=True)

    def get_fields(self) -> dict[str, Any]:  # a serializer's own attribute is called source
        return {**super().get_fields(), "source": serializers.ChoiceField(choices=["environment", "set"])}


class ConfigAnswer(serializers.Serializer[Any]):
    """The values at the top are those of `service`; of the union, SMTP's."""

    max_workers = serializers.IntegerField()
    pool_size = serializers.IntegerField()
    timeout = serializers.FloatField(help_text="Seconds.")
    max_connections = serializers.IntegerField()
    idle_timeout = serializers.FloatField(help_text="Seconds.")
    enabled = serializers.BooleanField()
    services = serializers.DictField(child=serializers.DictField(child=ConfigValue()))


class RestartBody(serializers.Serializer[Any]):
    service = serializers.ChoiceField(choices=RestartRequest.Service.choices, required=False, default=SMTP.value)


class Restarted(serializers.Serializer[Any]):
    """The request is on disk; the processes follow within two seconds, once what they do has ended."""

    status = serializers.ChoiceField(choices=["restarted"])
    message = serializers.CharField(help_text="For people, in the language of Accept-Language.")


_PUT = [
    OpenApiExample("Three values", value={"max_workers": 8, "pool_size": 20, "timeout": 60}, request_only=True),
    OpenApiExample("The environment's value again", value={"timeout": None}, request_only=True),
]
_RESTART = [
    OpenApiExample("The SMTP listeners", value={"service": "smtp"}, request_only=True),
    OpenApiExample(
        "Restarted",
        value={"status": "restarted", "message": "SMTP server was restarted successfully"},
        response_only=True,
        status_codes=["200"],
    ),
]


class ConfigView(APIView):
    """What the running processes work with. A change reaches each of them within two seconds and outlives a restart."""

    permission_classes = [IsAdministrator]

    @extend_schema(parameters=[SERVICE], responses=ConfigAnswer)
    def get(self, request: Request) -> Response:
        services = _services(request)
        return Response(_answer(services, runtime.read()))

    @extend_schema(
        parameters=[SERVICE],
        request=ConfigBody,
        responses={200: ConfigAnswer, 400: OpenApiResponse(description="A field is unknown or out of its range.")},
        examples=_PUT,
    )
    def put(self, request: Request) -> Response:
        """Set the fields that are given, all or none."""
        services, body = _services(request), _object(request)
        try:
            values = runtime.checked(services, body)
        except InvalidConfig as error:
            raise ValidationError(error.errors) from None
        after = runtime.change(values, actor=_actor(request), client_address=_client_address(request))
        return Response(_answer(services, after))


class RestartView(APIView):
    """Start a service's processes anew: each ends what it is doing, takes nothing new, and is started again."""

    permission_classes = [IsAdministrator]

    @extend_schema(
        parameters=[OpenApiParameter("service", str, enum=runtime.RESTARTABLE, description="Or in the body.")],
        request=RestartBody,
        responses=Restarted,
        examples=_RESTART,
    )
    def post(self, request: Request) -> Response:
        asked = request.query_params.get("service", _object(request).get("service", SMTP))
        if asked not in runtime.RESTARTABLE:
            raise ValidationError({"service": f"Either {' or '.join(runtime.RESTARTABLE)} is needed."})
        service = RestartRequest.Service(asked)
        runtime.request_restart(service.value, actor=_actor(request), client_address=_client_address(request))
        english, czech = RESTARTED[service]
        words = czech if get_language_from_request(request) == "cs" else english
        return Response({"status": "restarted", "message": words})


def _services(request: Request) -> Sequence[str]:
    asked = request.query_params.get("service")
    if asked is None:
        return runtime.SERVICES
    if asked not in runtime.SERVICES:
        raise ValidationError({"service": f"Either {' or '.join(runtime.SERVICES)} is needed."})
    return (asked,)


def _object(request: Request) -> Mapping[str, Any]:
    if not isinstance(request.data, dict):
        raise ValidationError("The body must be a JSON object.")
    return request.data


def _actor(request: Request) -> str:
    user, key = cast(User, request.user), request.auth
    return f"{user.username} by key {key.name}" if isinstance(key, ApiKey) else user.username


def _client_address(request: Request) -> str:
    return str(request.META.get("REMOTE_ADDR", ""))[:45]


def _answer(services: Sequence[str], values: Mapping[Any, Any]) -> dict[str, Any]:
    found = {service: runtime.effective(service, values) for service in services}
    return {
        **{name: one.value for name, one in found[services[0]].items()},
        "services": {service: {name: _told(one) for name, one in fields.items()} for service, fields in found.items()},
    }


def _told(one: Effective) -> dict[str, Any]:
    return {
        "value": one.value,
        "source": "environment" if one.set is None else "set",
        "variable": one.field.variable or None,
        "set_by": one.set.set_by if one.set else None,
        "set_at": one.set.set_at if one.set else None,
    }
