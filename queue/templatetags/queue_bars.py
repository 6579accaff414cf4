"""Shares for the bars of the queue's pages, the tiles above them, and links in what is told of an entry."""

from __future__ import annotations

import datetime as dt
import re

from django import template
from django.contrib.admin.utils import quote
from django.urls import reverse
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe

from queue.moments import spoken_span
from queue.overview import Overview

register = template.Library()
_ROW = re.compile(r"\(row (\d{1,19}), ([a-z ]+)(?:, from message (msg_[0-9a-f]{26}))?\)")  # `queue.suppress.Hit.told`


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


@register.filter
def queue_told(text: str) -> SafeString:
    """Escape a reply; the row of the suppression list that it names, and the message, are links."""
    return mark_safe(_ROW.sub(_linked, escape(text)))  # noqa: S308  (escaped, and what is put in escapes too)


def _linked(found: re.Match[str]) -> str:
    row, reason, message_id = found.groups()
    told = format_html("{}, {}", _link("queue_suppression", row, f"row {row}"), reason)
    if not message_id:
        return f"({told})"
    return format_html("({}, from message {})", told, _link("mailflow_message", message_id, message_id))


def _link(model: str, pk: str, text: str) -> SafeString:
    """Write it as `accounts.admin.base.link` does: that module needs the templates, and cannot be had here."""
    return format_html(
        '<a href="{}" class="text-link">{}</a>', reverse(f"admin:{model}_change", args=[quote(pk)]), text
    )
