"""What all our admin pages share; the one module that knows the theme (unfold).

To the type checker the theme's classes are Django's own, which they extend.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

from django.contrib import admin
from django.contrib.admin.utils import quote
from django.core.paginator import Paginator
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts.trail import By

if TYPE_CHECKING:
    from django.contrib.admin.views.main import ChangeList

    _ModelAdmin = admin.ModelAdmin[Any]
    _Paginator = Paginator[Any]
else:
    from unfold.admin import ModelAdmin as _ModelAdmin
    from unfold.views import ChangeList

    _Paginator = Paginator

F = TypeVar("F", bound=Callable[..., Any])

_DIRECTION_MARKS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
SHORT = 90  # characters of a long text in a list


class CappedPaginator(_Paginator):
    """Counts no further than `CAP`: a list of ten million rows opens as fast as one of ten.

    What lies behind is reached by search and filters.
    """

    CAP = 10_000

    @cached_property
    def count(self) -> int:
        rows = cast(QuerySet[Any], self.object_list)
        return rows.order_by().values("pk")[: self.CAP].count()


class List(ChangeList):
    """Offers to show all where a search or a filter leaves something out, and not elsewhere."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        if not self.query and not self.has_active_filters:
            self.full_result_count = self.result_count


class Admin(_ModelAdmin):
    """The base of every page: no count of the whole table beside the count of what is shown."""

    show_full_result_count = False
    list_per_page = 50
    empty_value_display = "–"

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return List


class ReadOnlyAdmin(Admin):
    """A record that nobody edits; looking at it needs the view permission."""

    paginator = CappedPaginator

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class SinceFilter(admin.SimpleListFilter):
    """The last hour, day, week or month, by a condition that an index answers."""

    title = "time"
    parameter_name = "since"
    _SPANS = {
        "1h": dt.timedelta(hours=1),
        "24h": dt.timedelta(days=1),
        "7d": dt.timedelta(days=7),
        "30d": dt.timedelta(days=30),
    }
    _NAMES = [("1h", "Last hour"), ("24h", "Last 24 hours"), ("7d", "Last 7 days"), ("30d", "Last 30 days")]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return self._NAMES

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        span = self._SPANS.get(self.value() or "")
        return queryset if span is None else self.since(queryset, timezone.now() - span)

    def since(self, queryset: QuerySet[Any], at: dt.datetime) -> QuerySet[Any]:
        return queryset.filter(created_at__gte=at)


def by(request: HttpRequest) -> By:
    """Return who acts and from where, for the trail."""
    return {"actor": request.user.get_username(), "client": str(request.META.get("REMOTE_ADDR", ""))[:45]}


def badge(description: str, colours: dict[str, str], *, ordering: str | None = None) -> Callable[[F], F]:
    """Show a column as a coloured label. The method returns `(value, text)`; `colours` maps values to
    success, warning, danger, info, or nothing for neutral.
    """

    def decorate(method: F) -> F:
        shown = admin.display(description=description, ordering=ordering)(method)
        shown.label = colours  # type: ignore[attr-defined]
        return shown

    return decorate


def count_of(related: QuerySet[Any], field: str) -> Coalesce:
    """Count related rows per row shown; joins of two such counts in one query would multiply each other."""
    counted = related.filter(**{field: OuterRef("pk")}).order_by().values(field).annotate(number=Count("pk"))
    return Coalesce(Subquery(counted.values("number")), 0)


def shorten(text: str, limit: int = SHORT) -> str:
    """Return one line of the text, cut to `limit`, without marks that turn the direction of writing."""
    line = " ".join(_DIRECTION_MARKS.sub("", text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def moment(at: dt.datetime, *, is_simulated: bool) -> SafeString | str:
    """Return a time as the lists have it, and whether it is the sandbox's."""
    text = date_format(timezone.localtime(at), "DATETIME_FORMAT")
    return format_html("{}<br><small>simulated time</small>", text) if is_simulated else text


def link(viewname: str, pk: int | str, *, text: str) -> SafeString:
    """Return a link to the admin page of one object; the text is escaped."""
    return format_html('<a href="{}" class="text-link">{}</a>', reverse(f"admin:{viewname}", args=[quote(pk)]), text)
