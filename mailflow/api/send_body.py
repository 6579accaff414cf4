"""The body of `POST send`: R1's and R5's forms as one (contract §1.2), and what goes beyond them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from django.conf import settings
from django.utils import timezone
from rest_framework import serializers

from accounts.api.fields import IdOrNameField
from accounts.names import Address
from mailflow.api.attachment_field import AttachmentsField
from mailflow.api.fields import (
    AddressListField,
    Base64Field,
    BodyTextField,
    HeadersField,
    HeaderTextField,
    MetadataField,
    NamedAddressField,
    TagsField,
)
from mailflow.api.scheduled_at import ScheduledAtField
from mailflow.compose import Draft, Named
from mailflow.scheduled import MAX_AHEAD, TOO_FAR
from mailflow.spool.accepted import Labels

_BODIES = ("text_body", "body", "html_body")
_COMPOSED = (*_BODIES, "subject", "cc", "bcc", "reply_to", "headers", "attachments", "template", "template_data")


class SendBody(serializers.Serializer[Any]):
    """`recipient` and `body` mean the same as `to` and `text_body`; fields that are not known are ignored."""

    sender = NamedAddressField(required=False, help_text="Without it: the key's default sender, or your own address.")
    to = AddressListField(required=False, help_text="One address or a list.")
    recipient = AddressListField(required=False, help_text="The same as `to`.")
    cc = AddressListField(required=False)
    bcc = AddressListField(required=False, help_text="Recipients that the message does not name.")
    reply_to = AddressListField(required=False)
    subject = HeaderTextField(required=False, allow_blank=True)
    text_body = BodyTextField(required=False)
    body = BodyTextField(required=False, help_text="The same as `text_body`.")
    html_body = BodyTextField(required=False)
    headers = HeadersField(required=False, help_text="Further header fields, by name.")
    attachments = AttachmentsField(required=False)
    tags = TagsField(required=False, help_text="Up to 10 words to find the message by.")
    metadata = MetadataField(required=False, help_text="Up to 50 names with values of your own, kept with the message.")
    scheduled_at = ScheduledAtField(
        required=False,
        help_text=f"When it is to be sent: a day and a time, at most {MAX_AHEAD.days} days ahead; without a zone, UTC.",
    )
    template = IdOrNameField(required=False, max_length=100, help_text="A template's id or name.")
    template_data = serializers.DictField(required=False, help_text="What the template is filled in with.")
    raw = Base64Field(
        required=False, help_text="A whole message (RFC 5322) in base64, which is sent as it is, in place of its parts."
    )

    @cached_property
    def fields(self) -> Any:
        """The same fields for every body: they keep nothing of one, and making them anew costs more than using them.

        None is required, so those that a JSON body does not name have nothing to say.
        """
        every = _prototype_fields()
        given = getattr(self, "initial_data", None)
        return {name: every[name] for name in given if name in every} if type(given) is dict else every

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict):
            data = {name: value for name, value in data.items() if value is not None}  # null is the same as absent
        return super().to_internal_value(data)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        errors = {**_doubles(attrs), **_missing(attrs), **_excess(attrs)}
        if errors:
            raise serializers.ValidationError(errors)
        return attrs


class _Prototype(SendBody):
    fields = serializers.Serializer.fields


_FIELDS: list[Any] = []


def _prototype_fields() -> Any:
    if not _FIELDS:
        _FIELDS.append(_Prototype().fields)
    return _FIELDS[0]


def _doubles(attrs: Mapping[str, Any]) -> dict[str, str]:
    """What is said twice, or in two ways that exclude each other."""
    errors = {}
    for one, other in (("to", "recipient"), ("text_body", "body")):
        if one in attrs and other in attrs:
            errors[other] = f"Give either {one!r} or {other!r}, not both."
    if attrs.get("reply_to") and any(name.lower() == "reply-to" for name, _ in attrs.get("headers", [])):
        errors["reply_to"] = "Give it here or in 'headers', not both."
    if "template" in attrs:
        errors |= {name: "The template has it." for name in _BODIES if name in attrs}
    elif "template_data" in attrs:
        errors["template_data"] = "It is for a 'template', and none is named."
    if "raw" in attrs:
        allowed = {"bcc"}
        errors |= {name: "The message in 'raw' has it." for name in _COMPOSED if name in attrs and name not in allowed}
    return errors


def _missing(attrs: Mapping[str, Any]) -> dict[str, str]:
    if "raw" in attrs:
        return {}
    errors = {}
    if not (attrs.get("to") or attrs.get("recipient")):
        errors["to"] = "At least one recipient is needed."
    if "template" not in attrs and not attrs.keys() & set(_BODIES):
        errors["body"] = "One of 'body', 'text_body', 'html_body' and 'template' is needed."
    return errors


def _excess(attrs: Mapping[str, Any]) -> dict[str, str]:
    errors = {}
    if len(recipients(attrs)) > settings.SMTP_MAX_RECIPIENTS:
        errors["to"] = f"At most {settings.SMTP_MAX_RECIPIENTS} recipients, cc and bcc included."
    at = attrs.get("scheduled_at")
    now = timezone.now()
    if at is not None and at > now + MAX_AHEAD:
        errors["scheduled_at"] = TOO_FAR
    if at is not None and at < now - dt.timedelta(minutes=5):
        errors["scheduled_at"] = "That time is past."
    return errors


def scheduled_at(body: Mapping[str, Any]) -> dt.datetime | None:
    """Return the time that a body which was accepted asks for, in UTC."""
    text = body.get("scheduled_at")
    return None if text is None else ScheduledAtField().to_internal_value(text)


def recipients(data: Mapping[str, Any]) -> list[Address]:
    """Everyone the message goes to, once each, in the order given."""
    named: Sequence[Named] = [
        *data.get("to", ()), *data.get("recipient", ()), *data.get("cc", ()), *data.get("bcc", ()),
    ]  # fmt: skip
    return list(dict.fromkeys(one.address for one in named))


def draft(data: Mapping[str, Any], sender: Named) -> Draft:
    return Draft(
        sender=sender,
        to=data.get("to") or data["recipient"],
        cc=data.get("cc", ()),
        reply_to=data.get("reply_to", ()),
        subject=data.get("subject", ""),
        text=data.get("text_body", data.get("body")),
        html=data.get("html_body"),
        headers=data.get("headers", ()),
        attachments=data.get("attachments", ()),
    )


def labels(data: Mapping[str, Any]) -> Labels | None:
    tags, metadata = data.get("tags", ()), data.get("metadata", {})
    return Labels(tuple(tags), metadata) if tags or metadata else None
