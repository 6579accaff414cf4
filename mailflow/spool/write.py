"""The rows of accepted messages, written in one go: content, message, first event, queue entries (docs/adr/0003)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from mailflow import events, handoff, webhook_notices
from mailflow.content import CHUNK_OCTETS, split
from mailflow.ids import thread_id_of
from mailflow.models import ContentChunk, Event, Message, Metadata, Tag
from mailflow.spool.accepted import Accepted
from mailflow.spool.insert import bulk_insert, without_waiting

_MESSAGE_FIELDS = (
    "id", "created_at", "source", "status", "reverse_path", "recipients", "recipient_count", "subject", "header_from",
    "internet_message_id", "size_octets", "digest", "body_type", "is_smtputf8", "envelope_id", "dsn_return", "user_id",
    "organization_id", "api_key_id", "client_address", "helo", "protocol", "trace_id", "error_message",
    "thread_id", "is_reply", "requires_tls",
)  # fmt: skip
HASH_SLICE_OCTETS = 2047  # beyond this hashlib drops the lock
MAX_HASHED_UNDER_LOCK = 64 << 10
_PROCESSING = Message.Status.PROCESSING.value  # asked of an enum for every message, these would be felt
_ACCEPTED = Event.Kind.ACCEPTED.value
_CHUNK_FIELDS = ("message_id", "ordinal", "octets")


@dataclass(frozen=True, slots=True)
class Encoded:
    """An accepted message with its digest; `chunks_stored` where its content was committed ahead."""

    accepted: Accepted
    digest: str
    chunks_stored: bool = False


def encode(accepted: Accepted) -> Encoded:
    """Hash the content; costs about 1 ms a MiB, for large contents without the interpreter's lock."""
    content = accepted.content
    if not isinstance(content, bytes):
        raise TypeError("large content is hashed while its chunks are written")
    return Encoded(accepted, _digest(content))


def _digest(content: bytes) -> str:
    """Hash; a small content in slices for which the interpreter's lock is kept, since to get it back takes longer."""
    if len(content) > MAX_HASHED_UNDER_LOCK:
        return hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256()
    view = memoryview(content)
    for start in range(0, len(content), HASH_SLICE_OCTETS):
        digest.update(view[start : start + HASH_SLICE_OCTETS])
    return digest.hexdigest()


def is_large(accepted: Accepted) -> bool:
    return not isinstance(accepted.content, bytes) or len(accepted.content) > CHUNK_OCTETS


def write_chunk(message_id: str, ordinal: int, chunk: bytes) -> None:
    """Insert one piece of a large message in the caller's transaction."""
    bulk_insert(ContentChunk, _CHUNK_FIELDS, [(message_id, ordinal, chunk)])


def write_accepted(batch: Sequence[Encoded], notes: Sequence[events.NewEvent] = ()) -> list[int]:
    """Insert all rows of the batch, and further events, in the caller's transaction; return the queue entries' ids."""
    messages = [encoded.accepted for encoded in batch]
    chunks = [
        (encoded.accepted.message_id, ordinal, chunk)
        for encoded in batch
        if not encoded.chunks_stored
        for ordinal, chunk in enumerate(split(encoded.accepted.content))
    ]
    with without_waiting():
        bulk_insert(ContentChunk, _CHUNK_FIELDS, chunks)
        bulk_insert(Message, _MESSAGE_FIELDS, [_message_row(encoded) for encoded in batch])
        _write_labels([accepted for accepted in messages if accepted.labels is not None])
        events.record([*map(_accepted_event, messages), *notes])
        entry_ids = handoff.current().enqueue(messages) if messages else []
    webhook_notices.tell_of_received(messages)
    webhook_notices.tell_of_failed_logins(notes)
    return entry_ids


def _write_labels(labelled: Sequence[Accepted]) -> None:
    found = [(accepted.message_id, accepted.labels) for accepted in labelled if accepted.labels is not None]
    bulk_insert(Metadata, ("message_id", "data"), [(pk, labels.metadata) for pk, labels in found if labels.metadata])
    bulk_insert(Tag, ("tag", "message_id"), [(tag, pk) for pk, labels in found for tag in labels.tags])


def _message_row(encoded: Encoded) -> tuple[object, ...]:
    accepted = encoded.accepted
    envelope, origin = accepted.envelope, accepted.origin
    recipients = [str(recipient.address) for recipient in envelope.recipients]
    return (
        accepted.message_id,
        accepted.created_at,
        accepted.source,
        _PROCESSING,
        envelope.reverse_path_text,
        recipients,
        len(recipients),
        events.clean_text(accepted.subject),
        events.clean_text(accepted.header_from),
        events.clean_text(accepted.internet_message_id, 998),
        len(accepted.content),
        encoded.digest,
        envelope.body_type,
        envelope.is_smtputf8,
        envelope.envelope_id,
        envelope.dsn_return,
        origin.user_id,
        origin.organization_id,
        origin.api_key_id,
        origin.client_address,
        events.clean_text(origin.helo, 255),
        origin.protocol,
        origin.trace_id,
        "",
        thread_id_of(accepted.thread_root or accepted.internet_message_id or accepted.message_id),
        bool(accepted.thread_root),
        envelope.requires_tls,
    )


def _accepted_event(accepted: Accepted) -> events.NewEvent:
    count = len(accepted.envelope.recipients)
    origin = accepted.origin
    source = f" from {origin.client_address}" if origin.client_address else ""
    actor = f" of {origin.actor}" if origin.actor else ""
    return events.NewEvent(
        kind=_ACCEPTED,
        summary=f"Accepted {len(accepted.content)} octets{actor} by {origin.protocol}{source} "
        f"for {count} recipient{'s' if count != 1 else ''}.",
        message_id=accepted.message_id,
        decisions=accepted.decisions,
        client_address=origin.client_address,
        actor=origin.actor,
        trace_id=origin.trace_id,
        created_at=accepted.created_at,
    )
