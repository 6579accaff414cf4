"""Shares for the bars of the queue's pages, and the tiles above them."""

from __future__ import annotations

import datetime as dt

from django import template

from queue.moments import spoken_span
from queue.overview import Overview

register = template.Library()


@register.filter
def queue_share(part: int, whole: int) -> str:
    """Return a percentage for CSS; what is there at all can be seen."""
    return f"{max(100 * part / whole, 0.6) if part and whole else 0:.2f}"


@register.filter
def queue_tiles(found: Overview) -> list[tuple[str, int, str]]:
    """Return the name, the number and the list's query of each figure."""
    return [
        ("In the queue", found.waiting, ""),
        ("Due now", found.due, ""),
        ("To be retried", found.retrying, "?status__exact=retry"),
        ("On hold", found.held, "?held=true"),
        ("Scheduled", found.scheduled, "?scheduled=true"),
    ]


@register.filter
def queue_number(number: int) -> str:
    return f"{number:,}"


@register.filter
def queue_since(at: dt.datetime, now: dt.datetime) -> str:
    """Return how long ago that was, to the second: a delivery lasts seconds or minutes."""
    return spoken_span(now - at)
