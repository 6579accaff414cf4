from __future__ import annotations

import pytest

from queue.transports.base import NextHop
from queue.transports.search import MAX_MARKS, Marks, Search

A1, A2, A3 = (NextHop("a.test", f"192.0.2.{number}", 25) for number in (1, 2, 3))
B1 = NextHop("b.test", "192.0.2.11", 25)
C1 = NextHop("c.test", "192.0.2.21", 25)
ALIAS = NextHop("alias.test", "192.0.2.1", 25)  # another name for A1


def found(hops: list[NextHop], *, in_time: int) -> tuple[list[NextHop], bool]:
    """Return which are tried where the time is over after so many of them, and whether any are left."""
    search = Search(hops, 100.0)
    tried: list[NextHop] = []
    while (hop := search.next(99.0 if len(tried) < in_time else 100.0)) is not None:
        tried.append(hop)
    return tried, search.is_cut_short


def test_in_time_all_hops_are_tried_in_order() -> None:
    hops = [A1, A2, B1, C1]
    assert found(hops, in_time=9) == (hops, False)


@pytest.mark.parametrize(
    ("hops", "in_time", "tried"),
    [
        ([A1, B1, C1], 1, [A1, B1]),
        ([A1, B1, C1], 2, [A1, B1]),
        ([A1, B1, C1], 0, [A1, B1]),  # an attempt without any time is one all the same
        ([A1, A2, A3, B1], 1, [A1, B1]),
        ([A1, A2, A3, B1, C1], 2, [A1, A2, B1]),
        ([A1, A2, A3], 1, [A1, A2]),
        ([A1, A2, A3], 2, [A1, A2]),
        ([A1, ALIAS, A2], 1, [A1, A2]),
        ([A1, ALIAS, A2, B1], 2, [A1, ALIAS, B1]),
        ([A1, ALIAS], 1, [A1]),
    ],
)
def test_time_ends_the_search_only_when_two_hosts_were_tried(
    hops: list[NextHop], in_time: int, tried: list[NextHop]
) -> None:
    assert found(hops, in_time=in_time) == (tried, len(tried) < len(hops))


def test_where_there_is_one_hop_the_search_is_complete() -> None:
    assert found([A1], in_time=0) == ([A1], False)
    assert found([], in_time=0) == ([], False)


def test_a_mark_ends_with_its_time_or_when_it_is_cleared() -> None:
    marks: Marks[str] = Marks()
    marks.put("a", 10.0)
    assert (marks.until("a", 9.0), marks.until("a", 10.0), marks.until("b", 9.0)) == (10.0, 0.0, 0.0)
    marks.clear("a")
    marks.clear("b")
    assert (marks.until("a", 9.0), len(marks)) == (0.0, 0)


def test_while_one_finds_out_whether_it_is_better_the_others_need_not() -> None:
    marks: Marks[str] = Marks()
    marks.put("a", 10.0)
    assert marks.until("a", 12.0) == 0.0
    marks.renew("a", 22.0)
    marks.renew("b", 22.0)
    assert (marks.until("a", 12.0), marks.until("b", 12.0)) == (22.0, 0.0)


def test_of_too_many_marks_the_oldest_are_forgotten() -> None:
    marks: Marks[int] = Marks()
    for number in range(MAX_MARKS):
        marks.put(number, 1000.0 + number)
    marks.put(0, 5000.0)
    marks.put(MAX_MARKS, 5001.0)
    assert len(marks) == MAX_MARKS
    assert [number for number in range(MAX_MARKS + 1) if not marks.until(number, 0.0)] == [1]
