"""`emails/{id}/raw` and `emails/{id}/attachments/{n}`: octets of a filed message, as a file and never as a page."""

from __future__ import annotations

import re
from urllib.parse import quote

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.exceptions import NotFound
from rest_framework.request import Request

from accounts.api.downloads import DownloadView
from mailflow import mailboxes
from mailflow.api import reading
from mailflow.api.emails import USER, one_filed
from mailflow.storage.base import CopyMissing

_PLAIN_NAME = re.compile(r"[A-Za-z0-9 ._-]{1,200}\Z")
_TYPE = re.compile(r"[A-Za-z0-9.+-]{1,100}/[A-Za-z0-9.+-]{1,100}\Z")


class EmailRawView(DownloadView):
    """The message's octets as they were filed."""

    @extend_schema(parameters=[USER], responses={(200, "message/rfc822"): OpenApiResponse(OpenApiTypes.BINARY)})
    def get(self, request: Request, message_id: str) -> HttpResponse:
        octets = _octets(request, message_id)
        return as_file(octets, content_type="message/rfc822", filename=f"{message_id}.eml")


class EmailAttachmentView(DownloadView):
    """One file of the message, decoded; numbered from 0 as `emails/{id}` lists them."""

    @extend_schema(parameters=[USER], responses={(200, "*/*"): OpenApiResponse(OpenApiTypes.BINARY)})
    def get(self, request: Request, message_id: str, number: int) -> HttpResponse:
        files = reading.attachments(_octets(request, message_id))
        if number >= len(files):
            raise NotFound(f"The e-mail has {len(files)} attachments, numbered from 0; there is no {number}.")
        file = files[number]
        return as_file(file.octets, content_type=file.content_type, filename=file.filename or f"attachment-{number}")


def _octets(request: Request, message_id: str) -> bytes:
    filed = one_filed(request, message_id)
    try:
        return mailboxes.read_copy(filed)
    except CopyMissing:
        raise NotFound("The message's content is no longer kept.") from None


def as_file(octets: bytes, *, content_type: str, filename: str) -> HttpResponse:
    """Answer with a download: whatever it holds, no browser runs or shows it in our name."""
    plain = filename if _PLAIN_NAME.match(filename) else "attachment"
    headers = {
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    known = content_type if _TYPE.match(content_type) else "application/octet-stream"
    return HttpResponse(octets, content_type=known, headers=headers)
