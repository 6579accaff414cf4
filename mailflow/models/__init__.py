"""One noun a module; Django finds them here."""

from mailflow.models.content import ContentChunk
from mailflow.models.counter import Counter, Gauge
from mailflow.models.event import Event
from mailflow.models.fetch import FetchMark
from mailflow.models.idempotency import IdempotencyKey
from mailflow.models.label import Metadata, Tag
from mailflow.models.mailbox import FiledMessage, Mailbox
from mailflow.models.message import Message
from mailflow.models.runtime import RestartRequest, RuntimeSetting
from mailflow.models.template import MailTemplate

__all__ = [
    "ContentChunk", "Counter", "Event", "FetchMark", "FiledMessage", "Gauge", "IdempotencyKey", "MailTemplate",
    "Mailbox", "Message", "Metadata", "RestartRequest", "RuntimeSetting", "Tag",
]  # fmt: skip
