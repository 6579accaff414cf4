"""The octets of messages in the spool: split into chunks, joined again (RFC 5321 §4.5.3.1.7 sets no upper size)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from accounts.prepared import Prepared
from mailflow.models import ContentChunk
from mailflow.spool.large import Content, LargeContent
from mailflow.storage.base import CopyMissing

CHUNK_OCTETS = 1024 * 1024


def split(content: Content) -> Iterator[bytes]:
    """Cut into pieces of at most `CHUNK_OCTETS`; an empty message is one empty piece, unlike none."""
    if isinstance(content, LargeContent):
        yield from content.pieces(CHUNK_OCTETS)
        return
    if len(content) <= CHUNK_OCTETS:
        yield content
        return
    for start in range(0, len(content), CHUNK_OCTETS):
        yield content[start : start + CHUNK_OCTETS]


_CHUNKS = Prepared(
    lambda message_ids: (
        ContentChunk.objects.filter(message_id__in=message_ids)
        .order_by("message_id", "ordinal")
        .values_list("message_id", "octets")
    )
)


def read(message_id: str) -> bytes:
    """Return the whole message as it was accepted; raise `CopyMissing` where nothing is kept of it."""
    found = read_many([message_id])
    if message_id not in found:
        raise CopyMissing(f"the spool holds no content of {message_id}")
    return found[message_id]


def read_head(message_id: str) -> bytes:
    """Return the first chunk, which is the whole of a message up to `CHUNK_OCTETS`; empty where nothing is kept."""
    octets = ContentChunk.objects.filter(message_id=message_id, ordinal=0).values_list("octets", flat=True).first()
    return bytes(octets or b"")


def read_many(message_ids: Iterable[str]) -> dict[str, bytes]:
    """Return the messages by id with one query; an id without content is left out. The caller bounds the batch."""
    pieces: dict[str, list[bytes]] = {}
    for message_id, octets in _CHUNKS.rows(list(set(message_ids))):
        pieces.setdefault(message_id, []).append(bytes(octets))
    return {message_id: b"".join(parts) for message_id, parts in pieces.items()}


def delete(message_ids: Iterable[str]) -> None:
    """Remove the content, in the caller's transaction; whether anybody still needs it is the caller's to know."""
    ContentChunk.objects.filter(message_id__in=set(message_ids)).delete()
