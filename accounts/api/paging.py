"""Lists in pages: `page`/`page_size` or `offset`/`limit` (contract §1.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from django.db.models import Model, QuerySet
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request

MAX_PAGE_SIZE = 1000
MAX_OFFSET = 2**31
T = TypeVar("T", bound=Model)


@dataclass(frozen=True, slots=True)
class Window:
    """Which part of a list is asked for."""

    offset: int
    limit: int

    @property
    def page(self) -> int:
        return self.offset // self.limit + 1


@dataclass(frozen=True, slots=True)
class Page:
    """One part of a list, ready to be rendered in either envelope."""

    items: Sequence[Any]
    total: int
    window: Window

    def as_items(self) -> dict[str, Any]:
        """R3's envelope, for every list below /api/v1."""
        return {
            "items": self.items,
            "total": self.total,
            "page": self.window.page,
            "page_size": self.window.limit,
            "total_pages": math.ceil(self.total / self.window.limit),
        }

    def as_named(self, name: str) -> dict[str, Any]:
        """R4's envelope, for its own paths."""
        return {name: self.items, "total": self.total, "offset": self.window.offset, "limit": self.window.limit}


class PageOfItems(serializers.Serializer[Any]):
    """What `Page.as_items` answers, for the schema; a subclass names its `items`."""

    total = serializers.IntegerField(help_text="How many there are on all pages together.")
    page = serializers.IntegerField(help_text="Which page this is, from 1 on.")
    page_size = serializers.IntegerField(help_text="How many items a page has at most.")
    total_pages = serializers.IntegerField()


class WindowFilter(serializers.Serializer[Any]):
    """What `window_of` reads, beside the filters of a subclass."""

    page = serializers.IntegerField(required=False, min_value=1)
    page_size = serializers.IntegerField(required=False, min_value=1)
    offset = serializers.IntegerField(required=False, min_value=0)
    limit = serializers.IntegerField(required=False, min_value=1)


def window_of(request: Request, *, default: int = 20) -> Window:
    """Read the window from the query; a wrong number is a 400 that names it."""
    query = request.query_params
    if "offset" in query or "limit" in query:
        limit = _number(request, "limit", default, 1, MAX_PAGE_SIZE)
        return Window(_number(request, "offset", 0, 0, MAX_OFFSET), limit)
    size = _number(request, "page_size", default, 1, MAX_PAGE_SIZE)
    page = _number(request, "page", 1, 1, MAX_OFFSET // MAX_PAGE_SIZE)
    return Window((page - 1) * size, size)


def page_of(queryset: QuerySet[T], window: Window, render: Callable[[Sequence[T]], Sequence[Any]]) -> Page:
    """Fetch the window with two queries and render its rows, all at once."""
    total = queryset.count()
    rows = list(queryset[window.offset : window.offset + window.limit]) if window.offset < total else []
    return Page(render(rows), total, window)


def part_of(items: Sequence[Any], window: Window) -> Page:
    """Cut the window out of a list that is there whole."""
    return Page(items[window.offset : window.offset + window.limit], len(items), window)


def _number(request: Request, name: str, default: int, low: int, high: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 12 and low <= int(text) <= high):
        raise ValidationError({name: f"A whole number from {low} to {high} is needed."})
    return int(text)
