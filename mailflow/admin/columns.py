"""Cells of lists that have many columns: one line each, with the whole text where the pointer rests on it.

At 1280 pixels a list has about 940; what is wider than that has more of the text in each cell.
"""

from __future__ import annotations

import datetime as dt

from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts.admin.base import link, shorten

_LONGEST = 1000  # characters; the object's own page has all of it


def one_line(text: str, width: int) -> SafeString | str:
    """Return the text cut by the browser to so many ems, more where the window is wider."""
    line = shorten(text, _LONGEST)
    if not line:
        return ""
    return format_html(
        '<span title="{}" style="display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap;'
        ' max-width: max({}em, {}em + (100vw - 1280px) / 4)"><bdi>{}</bdi></span>',
        line, width, width, line,
    )  # fmt: skip


def short_moment(at: dt.datetime, *, is_simulated: bool = False) -> SafeString:
    """Return a time without its year, where that is this one; and whether it is the sandbox's."""
    its = timezone.localtime(at)
    text = f"{its:%m-%d %H:%M:%S}" if its.year == timezone.localtime().year else f"{its:%Y-%m-%d %H:%M}"
    below = SafeString("<br><small>simulated time</small>") if is_simulated else ""
    return format_html(
        '<time datetime="{}" title="{} UTC" style="white-space: nowrap">{}</time>{}',
        its.isoformat(), f"{its:%Y-%m-%d %H:%M:%S}", text, below,
    )  # fmt: skip


def message_cell(message_id: str) -> SafeString | str:
    """Return a link to the page of a message, or nothing where there is none."""
    return link("mailflow_message_change", message_id, text=one_line(message_id, 8)) if message_id else ""
