"""What a listener and its writer process say to each other: accepted messages one way, results the other.

A frame is two lengths, a pickle, and the contents of its messages behind each other, which so are copied once. Both
ends are our own processes and nobody else has the socket.
"""

from __future__ import annotations

import copyreg
import pickle
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

from accounts.names import Address
from mailflow.events import NewEvent
from mailflow.policy.decision import Decision
from mailflow.smtp.envelope import DeliverBy, Envelope, Recipient
from mailflow.smtp.reply import Reply
from mailflow.spool.accepted import Accepted, Origin

_LENGTHS = struct.Struct("!IQ")
_NAMES = [field.name for field in fields(Accepted)]
_CONTENT = _NAMES.index("content")
_values_of = attrgetter(*_NAMES[:_CONTENT], *_NAMES[_CONTENT + 1 :])

# Number of the message; what its sender is refused with, why, and by which rule: by none where it may come again.
Result = tuple[int, Reply | None, str, str]


def _reducer(cls: type[Any]) -> Callable[[Any], tuple[type[Any], tuple[Any, ...]]]:
    values = attrgetter(*[field.name for field in fields(cls)])
    return lambda value: (cls, values(value))


# Dataclasses with slots would reduce themselves in Python code, which takes ten times as long.
for _cls in (Address, Decision, DeliverBy, Envelope, NewEvent, Origin, Recipient, Reply):
    copyreg.pickle(_cls, _reducer(_cls))


@dataclass(frozen=True, slots=True)
class Work:
    """One frame for the writer: numbered messages, events, and whether it is the last."""

    messages: Sequence[tuple[int, Accepted]] = ()
    notes: Sequence[NewEvent] = ()
    is_last: bool = False


def pack_work(work: Work) -> bytes:
    """Render a frame; contents must be in memory."""
    contents = [_octets(accepted) for _, accepted in work.messages]
    head = [
        (number, len(content), _values_of(accepted))
        for (number, accepted), content in zip(work.messages, contents, strict=True)
    ]
    return _frame((head, list(work.notes), work.is_last), contents)


def _accepted(values: tuple[Any, ...], content: bytes) -> Accepted:
    make: Any = Accepted
    found: Accepted = make(*values[:_CONTENT], content, *values[_CONTENT:])
    return found


def pack_results(results: Sequence[Result]) -> bytes:
    return _frame(list(results), ())


def _octets(accepted: Accepted) -> bytes:
    if not isinstance(accepted.content, bytes):
        raise TypeError("large content does not go through a frame")
    return accepted.content


def _frame(value: object, contents: Sequence[bytes]) -> bytes:
    head = pickle.dumps(value, protocol=5)
    return b"".join([_LENGTHS.pack(len(head), sum(map(len, contents))), head, *contents])


class Frames:
    """Takes octets as they come and yields whole frames, as `Work` or as results."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        self._buffer += data

    def work(self) -> Iterator[Work]:
        for head, contents in self._whole():
            messages, notes, is_last = head
            start, found = 0, []
            for number, octets, values in messages:
                content = contents[start : start + octets]
                start += octets
                found.append((number, _accepted(values, content)))
            yield Work(found, notes, is_last)

    def results(self) -> Iterator[Sequence[Result]]:
        for head, _contents in self._whole():
            yield head

    def _whole(self) -> Iterator[tuple[Any, bytes]]:
        while len(self._buffer) >= _LENGTHS.size:
            head_octets, content_octets = _LENGTHS.unpack_from(self._buffer)
            head_end = _LENGTHS.size + head_octets
            end = head_end + content_octets
            if len(self._buffer) < end:
                return
            with memoryview(self._buffer) as view:
                head = pickle.loads(view[_LENGTHS.size : head_end])  # noqa: S301  (from our own process)
                contents = bytes(view[head_end:end])
            del self._buffer[:end]
            yield head, contents
