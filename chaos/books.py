"""What the system has written down, as JSON: `python -m chaos.books open|all`, run with the settings of that system."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import django

import mailproj  # noqa: F401  (the graft of `queue`)

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mailproj.settings")
django.setup()  # this module is a program: nobody imports it

from chaos import letters  # noqa: E402
from mailflow import content, mailboxes  # noqa: E402
from mailflow.models import FiledMessage, Message  # noqa: E402
from mailflow.storage.base import CopyMissing  # noqa: E402
from queue.models import Entry  # noqa: E402


def everything() -> dict[str, Any]:
    return {"messages": dict(_messages()), "entries": list(_entries()), "filed": list(_filed())}


def _messages() -> Iterator[tuple[str, bool]]:
    """Each message's id, and whether its octets in the spool are those that were accepted."""
    for message_id, digest in list(Message.objects.values_list("pk", "digest")):
        octets = content.read_many([message_id]).get(message_id)
        yield message_id, octets is not None and hashlib.sha256(octets).hexdigest() == digest


def _entries() -> Iterator[tuple[str, str, str]]:
    yield from Entry.objects.order_by("pk").values_list("message_id", "recipient", "status")


def _filed() -> Iterator[dict[str, Any]]:
    """Each copy in a mailbox, read back from its storage: numbered messages, and reports about them."""
    for filed in FiledMessage.objects.order_by("pk"):
        try:
            octets = mailboxes.read_copy(filed)
        except CopyMissing:
            octets = b""
        found = letters.read(octets)
        yield {
            "recipient": filed.recipient,
            "at": filed.internal_date.timestamp(),
            "is_verified": mailboxes.verify(filed, octets),
            "copy": (found.number, found.digest, found.is_intact) if isinstance(found, letters.Copy) else None,
            "report": (found.number, found.recipients) if isinstance(found, letters.Report) else None,
        }


if __name__ == "__main__":
    if sys.argv[1:] == ["open"]:
        print(Entry.objects.filter(status__in=Entry.OPEN).count())
    else:
        print(json.dumps(everything()))
