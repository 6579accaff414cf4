"""What the receiver hands to the spool: one accepted message, complete, as a value."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from accounts.keys import Charge, Usage
from mailflow.policy.decision import Decision
from mailflow.smtp.envelope import Envelope
from mailflow.spool.large import Content


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a message came from: the connection or request, and who was behind it."""

    protocol: str  # ESMTP, ESMTPS, ESMTPA, ESMTPSA (RFC 3848), SMTP, HTTP, or INTERNAL
    trace_id: str
    client_address: str = ""
    helo: str = ""
    tls: str = ""
    actor: str = ""
    user_id: int | None = None
    organization_id: int | None = None
    api_key_id: uuid.UUID | None = None
    is_test: bool = False  # sent with a key for tests: it never leaves for the real world


@dataclass(frozen=True, slots=True)
class Labels:
    """What the sender wants to find the message by, and see beside it; nobody else reads it."""

    tags: Sequence[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Accepted:
    """One message as it will be stored: `content` is trace header section and octets as they came.

    Whoever stores or drops it calls `close` on content that is not `bytes`.
    """

    message_id: str
    created_at: dt.datetime
    source: str
    envelope: Envelope
    origin: Origin
    content: Content
    subject: str
    header_from: str
    internet_message_id: str
    decisions: Sequence[Decision] = field(default=())
    scheduled_at: dt.datetime | None = None  # no attempt before this
    thread_root: str = ""  # the Message-ID that it answers in the end
    labels: Labels | None = None
    charge: Charge | None = None  # counted in the commit; beyond the limit the message is refused there


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the door may tell: the message is on disk under this id. `usage`: what it left of its key's day."""

    message_id: str
    usage: Usage | None = None
