from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue.transports.content import BLOCK_OCTETS, BareLineEnd, blocks, dot_stuffed, final_dot

lines = st.lists(st.binary(max_size=5).map(lambda line: line.replace(b"\r", b".").replace(b"\n", b".")), max_size=6)


@given(lines)
def test_stuffing_can_be_undone_and_ends_nowhere_but_at_the_end(lines: list[bytes]) -> None:
    content = b"".join(line + b"\r\n" for line in lines)
    wire = dot_stuffed(content) + final_dot(content)
    *sent, last, nothing = wire.split(b"\r\n")
    assert (last, nothing) == (b".", b"")
    assert b"." not in sent
    assert b"".join(line.removeprefix(b".") + b"\r\n" for line in sent) == content


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"x", b"."]), max_size=8).map(b"".join))
def test_a_bare_cr_or_lf_is_found_wherever_it_stands(content: bytes) -> None:
    rest = content.replace(b"\r\n", b"")
    if b"\r" in rest or b"\n" in rest:
        with pytest.raises(BareLineEnd):
            dot_stuffed(content)
    else:
        dot_stuffed(content)


@pytest.mark.parametrize(
    "line", [b"x" * 70 + b"\r\n", b"\r\n", b".\r\n", b"y" * (BLOCK_OCTETS - 1) + b"\r\n", b"no end"]
)
def test_blocks_are_cut_after_lines_and_lose_nothing(line: bytes) -> None:
    content = (line * (3 * BLOCK_OCTETS // len(line) + 1))[: 3 * BLOCK_OCTETS + 7]
    cut = list(blocks(content))
    assert b"".join(cut) == content
    assert all(block.endswith(b"\r\n") for block in cut[:-1])
    if line != b"no end":
        assert len(cut) >= 2
