"""Attachments in a request: base64 in JSON, or the files of a multipart form."""

from __future__ import annotations

import mimetypes
from typing import Any

from django.core.files.uploadedfile import UploadedFile
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from accounts.api.fields import TextField
from mailflow import mime
from mailflow.api.fields import Base64Field
from mailflow.mime import Attachment, InvalidAttachment

UNKNOWN_TYPE = "application/octet-stream"


class AttachmentBody(serializers.Serializer[Any]):
    """One file. With `content_id` it is shown inside the HTML, where an image is named as `cid:…`."""

    filename = TextField(max_length=255)
    content = Base64Field(help_text="In base64.")
    content_type = TextField(required=False, max_length=300, help_text="Without it: by the file's name.")
    content_id = TextField(required=False, max_length=mime.MAX_CONTENT_ID)


@extend_schema_field(AttachmentBody(many=True))
class AttachmentsField(serializers.Field[Any, Any, Any, Any]):
    """A list of objects, or of uploaded files; its value is a list of `Attachment`."""

    def to_internal_value(self, data: Any) -> list[Attachment]:
        if not isinstance(data, list):
            raise serializers.ValidationError("A list is needed.")
        if len(data) > mime.MAX_ATTACHMENTS:
            raise serializers.ValidationError(f"At most {mime.MAX_ATTACHMENTS} attachments.")
        found: list[Attachment] = []
        errors: dict[str, Any] = {}
        for number, item in enumerate(data):
            try:
                found.append(_attachment(item))
            except serializers.ValidationError as error:
                errors[str(number)] = error.detail
        if errors:
            raise serializers.ValidationError(errors)
        ids = [attachment.content_id for attachment in found if attachment.content_id]
        if len(set(ids)) < len(ids):
            raise serializers.ValidationError("Two attachments have the same content_id.")
        return found

    def to_representation(self, value: Any) -> Any:
        return value


def _attachment(item: Any) -> Attachment:
    if isinstance(item, UploadedFile):
        name = item.name or "attachment"
        found = Attachment(name, item.read(), item.content_type or _guessed(name))
    else:
        body = AttachmentBody(data=item)
        body.is_valid(raise_exception=True)
        data = body.validated_data
        kind = data.get("content_type") or _guessed(data["filename"])
        found = Attachment(data["filename"], data["content"], kind, data.get("content_id", ""))
    try:
        mime.check(found)
    except InvalidAttachment as error:
        text = str(error)
        raise serializers.ValidationError({error.part: [f"{text[:1].upper()}{text[1:]}."]}) from None
    return found


def _guessed(filename: str) -> str:
    return mimetypes.guess_type(filename)[0] or UNKNOWN_TYPE
