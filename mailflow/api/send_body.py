"""The body of `POST send`: R1's and R5's forms as one (contract §1.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from rest_framework import serializers

from accounts.names import Address
from mailflow.api.fields import AddressListField, BodyTextField, HeadersField, HeaderTextField, NamedAddressField
from mailflow.compose import Draft, Named

# Silently leaving these out would send another message than the one that was asked for.
_NOT_OFFERED = ("attachments", "scheduled_at")


class SendBody(serializers.Serializer[Any]):
    """`recipient` and `body` are R1's words for R5's `to` and `text_body`; fields that are not known are ignored."""

    sender = NamedAddressField(required=False, help_text="Without it: the key's default sender, or your own address.")
    to = AddressListField(required=False, help_text="One address or a list.")
    recipient = AddressListField(required=False, help_text="The same as `to`.")
    cc = AddressListField(required=False)
    bcc = AddressListField(required=False, help_text="Recipients that the message does not name.")
    reply_to = AddressListField(required=False)
    subject = HeaderTextField(required=False, allow_blank=True, default="")
    text_body = BodyTextField(required=False)
    body = BodyTextField(required=False, help_text="The same as `text_body`.")
    html_body = BodyTextField(required=False)
    headers = HeadersField(required=False, help_text="Further header fields, by name.")

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict):
            data = {name: value for name, value in data.items() if value is not None}  # null is the same as absent
        return super().to_internal_value(data)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        errors: dict[str, str] = {}
        for one, other in (("to", "recipient"), ("text_body", "body")):
            if one in attrs and other in attrs:
                errors[other] = f"Give either {one!r} or {other!r}, not both."
        if not (attrs.get("to") or attrs.get("recipient")):
            errors["to"] = "At least one recipient is needed."
        if not {"text_body", "body", "html_body"} & attrs.keys():
            errors["body"] = "One of 'body', 'text_body' and 'html_body' is needed."
        if attrs.get("reply_to") and any(name.lower() == "reply-to" for name, _ in attrs.get("headers", [])):
            errors["reply_to"] = "Give it here or in 'headers', not both."
        if len(recipients(attrs)) > settings.SMTP_MAX_RECIPIENTS:
            errors["to"] = f"At most {settings.SMTP_MAX_RECIPIENTS} recipients, cc and bcc included."
        for name in _NOT_OFFERED:
            if self.initial_data.get(name):
                errors[name] = "This version does not offer it."
        if errors:
            raise serializers.ValidationError(errors)
        return attrs


def recipients(data: dict[str, Any]) -> list[Address]:
    """Everyone the message goes to, once each, in the order given."""
    named: Sequence[Named] = [
        *data.get("to", ()), *data.get("recipient", ()), *data.get("cc", ()), *data.get("bcc", ()),
    ]  # fmt: skip
    return list(dict.fromkeys(one.address for one in named))


def draft(data: dict[str, Any], sender: Named) -> Draft:
    return Draft(
        sender=sender,
        to=data.get("to") or data["recipient"],
        cc=data.get("cc", ()),
        reply_to=data.get("reply_to", ()),
        subject=data["subject"],
        text=data.get("text_body", data.get("body")),
        html=data.get("html_body"),
        headers=data.get("headers", ()),
    )
