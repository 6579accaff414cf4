"""`templates`: messages to be filled in, each organization's own."""

from __future__ import annotations

from typing import Any, cast

from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.api import problems
from accounts.api.fields import PatternField, TextField
from accounts.api.paging import PageOfItems, page_of, window_of
from accounts.models import Organization, Scope, User
from mailflow import templating
from mailflow.api.visibility import sees_all
from mailflow.models import MailTemplate
from mailflow.templating import InvalidTemplate, Source

NAME = r"^[A-Za-z][\w.-]{0,99}\Z"  # beginning with a letter, so that no name is an id


class TemplateBody(serializers.Serializer[Any]):
    """The language is Django's, without what reaches outside of the template."""

    name = PatternField(
        NAME, error_messages={"invalid": "A letter, then letters, digits, dots, hyphens and underscores; 100 at most."}
    )
    subject = TextField(required=False, allow_blank=True, trim_whitespace=False, max_length=2000)
    text_body = TextField(required=False, allow_blank=True, trim_whitespace=False)
    html_body = TextField(required=False, allow_blank=True, trim_whitespace=False)
    organization_id = serializers.IntegerField(
        required=False, help_text="For staff, who may make templates for any organization; else one's own."
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        errors = templating.check(_source(attrs))
        if not self.partial and not (attrs.get("text_body") or attrs.get("html_body")):
            errors["text_body"] = "One of 'text_body' and 'html_body' is needed."
        if errors:
            raise serializers.ValidationError(errors)
        return attrs


class TemplateItem(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    organization_id = serializers.IntegerField()
    name = serializers.CharField()
    subject = serializers.CharField()
    text_body = serializers.CharField()
    html_body = serializers.CharField()
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class TemplatePage(PageOfItems):
    items = TemplateItem(many=True)


class RenderBody(serializers.Serializer[Any]):
    template_data = serializers.DictField(required=False)


class RenderAnswer(serializers.Serializer[Any]):
    subject = serializers.CharField()
    text_body = serializers.CharField(allow_null=True)
    html_body = serializers.CharField(allow_null=True)


_NEW = OpenApiExample(
    "A greeting",
    value={
        "name": "Greeting",
        "subject": "Welcome, {{ name }}!",
        "text_body": "Hello {{ name }}.",
        "html_body": "<p>Hello {{ name }}.</p>",
    },
    request_only=True,
)
_CHANGE = OpenApiExample("Another subject", value={"subject": "Good to see you, {{ name }}"}, request_only=True)
_ITEM = OpenApiExample(
    "A template",
    value={
        "id": 4,
        "organization_id": 1,
        "name": "Greeting",
        "subject": "Welcome, {{ name }}!",
        "text_body": "Hello {{ name }}.",
        "html_body": "<p>Hello {{ name }}.</p>",
        "created_at": "2025-10-23T12:00:00Z",
        "updated_at": "2025-10-23T12:00:00Z",
    },
    response_only=True,
    status_codes=["200", "201"],
)
_RENDER = [
    OpenApiExample("For Jane", value={"template_data": {"name": "Jane"}}, request_only=True),
    OpenApiExample(
        "Filled in",
        value={"subject": "Welcome, Jane!", "text_body": "Hello Jane.", "html_body": "<p>Hello Jane.</p>"},
        response_only=True,
        status_codes=["200"],
    ),
]
_TAKEN = OpenApiResponse(description="Its name is taken.")


class TemplateListView(APIView):
    key_scope = Scope.SEND

    @extend_schema(operation_id="templates_list", responses=TemplatePage)
    def get(self, request: Request) -> Response:
        rows = _visible(request).order_by("name", "pk")
        page = page_of(rows, window_of(request), lambda found: [TemplateItem(one).data for one in found])
        return Response(page.as_items())

    @extend_schema(request=TemplateBody, responses={201: TemplateItem, 409: _TAKEN}, examples=[_NEW, _ITEM])
    def post(self, request: Request) -> Response:
        data = _checked(TemplateBody(data=request.data))
        organization_id = _organization_id(request, data)
        made = _saved(MailTemplate(organization_id=organization_id, **_texts(data)))
        return Response(TemplateItem(made).data, status=201)


class TemplateView(APIView):
    key_scope = Scope.SEND

    @extend_schema(responses=TemplateItem, examples=[_ITEM])
    def get(self, request: Request, template_id: int) -> Response:
        return Response(TemplateItem(_found(request, template_id)).data)

    @extend_schema(
        request=TemplateBody(partial=True), responses={200: TemplateItem, 409: _TAKEN}, examples=[_CHANGE, _ITEM]
    )
    def patch(self, request: Request, template_id: int) -> Response:
        found = _found(request, template_id)
        data = _checked(TemplateBody(data=request.data, partial=True))
        if "organization_id" in data:
            raise ValidationError({"organization_id": "A template stays in its organization."})
        for name, value in _texts(data).items():
            setattr(found, name, value)
        if not (found.text_body or found.html_body):
            raise ValidationError({"text_body": "One of 'text_body' and 'html_body' is needed."})
        return Response(TemplateItem(_saved(found)).data)

    @extend_schema(responses={204: None})
    def delete(self, request: Request, template_id: int) -> Response:
        _found(request, template_id).delete()
        return Response(status=204)


class TemplateRenderView(APIView):
    """What the message would say with this data; nothing is sent."""

    key_scope = Scope.READ

    @extend_schema(
        request=RenderBody,
        responses={200: RenderAnswer, 422: OpenApiResponse(description="The template breaks with this data.")},
        examples=_RENDER,
    )
    def post(self, request: Request, template_id: int) -> Response:
        found = _found(request, template_id)
        data = _checked(RenderBody(data=request.data))
        source = Source(found.subject, found.text_body, found.html_body)
        try:
            rendered = templating.render(source, data.get("template_data", {}))
        except InvalidTemplate as error:
            raise ValidationError({"template_data": [f"{found.name}: {error}."]}) from None
        return Response({"subject": rendered.subject, "text_body": rendered.text, "html_body": rendered.html})


def _visible(request: Request) -> QuerySet[MailTemplate]:
    user = cast(User, request.user)
    if sees_all(user):
        return MailTemplate.objects.all()
    return MailTemplate.objects.filter(organization_id=user.organization_id or 0)


def _found(request: Request, template_id: int) -> MailTemplate:
    found = _visible(request).filter(pk=template_id).first() if template_id < 2**63 else None
    if found is None:
        raise NotFound(f"There is no template {template_id}.")
    return found


def _organization_id(request: Request, data: dict[str, Any]) -> int:
    user = cast(User, request.user)
    wanted: int | None = data.get("organization_id")
    if wanted is not None and wanted != user.organization_id:
        if not sees_all(user) or not Organization.objects.filter(pk=wanted).exists():
            raise ValidationError({"organization_id": "There is no such organization."})
        return wanted
    if user.organization_id is None:
        raise ValidationError({"organization_id": "It is needed: the account belongs to no organization."})
    return user.organization_id


def _checked(body: Any) -> dict[str, Any]:
    body.is_valid(raise_exception=True)
    return cast("dict[str, Any]", body.validated_data)


def _texts(data: dict[str, Any]) -> dict[str, Any]:
    return {name: data[name] for name in ("name", "subject", "text_body", "html_body") if name in data}


def _source(data: dict[str, Any]) -> Source:
    return Source(data.get("subject", ""), data.get("text_body", ""), data.get("html_body", ""))


def _saved(template: MailTemplate) -> MailTemplate:
    try:
        with transaction.atomic():
            template.save()
    except IntegrityError:
        raise problems.Conflict(f"There is a template {template.name!r} already.") from None
    return template
