from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import DjangoAssertNumQueries

from mailflow import content
from mailflow.ids import new_message_id
from mailflow.models import ContentChunk
from mailflow.storage.base import CopyMissing


def keep(octets: bytes) -> str:
    message_id = new_message_id()
    ContentChunk.objects.bulk_create(
        ContentChunk(message_id=message_id, ordinal=ordinal, octets=piece)
        for ordinal, piece in enumerate(content.split(octets))
    )
    return message_id


@given(st.integers(0, 3), st.integers(-1, 1))
def test_pieces_are_bounded_and_join_to_the_whole(chunks: int, more: int) -> None:
    whole = bytes(max(0, chunks * content.CHUNK_OCTETS + more))
    pieces = list(content.split(whole))
    assert b"".join(pieces) == whole
    assert all(len(piece) <= content.CHUNK_OCTETS for piece in pieces)
    assert all(pieces) or pieces == [b""]


@pytest.mark.django_db
def test_a_message_of_many_chunks_is_read_in_order() -> None:
    whole = b"".join(bytes([letter]) * content.CHUNK_OCTETS for letter in range(12)) + b"end"
    assert content.read(keep(whole)) == whole


@pytest.mark.django_db
def test_every_octet_comes_back_unchanged() -> None:
    whole = bytes(range(256)) * 3
    assert content.read(keep(whole)) == whole


@pytest.mark.django_db
def test_an_empty_message_is_there_and_a_missing_one_is_not() -> None:
    assert content.read(keep(b"")) == b""
    with pytest.raises(CopyMissing, match="msg_unknown"):
        content.read("msg_unknown")


@pytest.mark.django_db
def test_a_batch_is_read_with_one_query(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    wanted = {keep(octets): octets for octets in (b"one", b"two", b"x" * (content.CHUNK_OCTETS + 1))}
    with django_assert_num_queries(1):
        found = content.read_many([*wanted, "msg_unknown"])
    assert found == wanted
    assert content.read_many([]) == {}


@pytest.mark.django_db
def test_deleting_takes_the_named_messages_and_no_others() -> None:
    gone, kept = keep(b"gone"), keep(b"kept")
    content.delete([gone, "msg_unknown"])
    assert content.read_many([gone, kept]) == {kept: b"kept"}
