"""One noun a module; Django finds them here."""

from mailflow.models.content import ContentChunk
from mailflow.models.counter import Counter, Gauge
from mailflow.models.event import Event
from mailflow.models.mailbox import FiledMessage, Mailbox
from mailflow.models.message import Message
from mailflow.models.runtime import RestartRequest, RuntimeSetting

__all__ = [
    "ContentChunk", "Counter", "Event", "FiledMessage", "Gauge", "Mailbox", "Message", "RestartRequest",
    "RuntimeSetting",
]  # fmt: skip
