"""Time filters that are ranges of the primary key, since ids are made in the order of time (mailflow.ids)."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.db.models import QuerySet

from accounts.admin.base import SinceFilter
from mailflow.ids import first_message_id, first_row_id


class SinceByMessageId(SinceFilter):
    def since(self, queryset: QuerySet[Any], at: dt.datetime) -> QuerySet[Any]:
        return queryset.filter(pk__gte=first_message_id(at))


class SinceByRowId(SinceFilter):
    def since(self, queryset: QuerySet[Any], at: dt.datetime) -> QuerySet[Any]:
        return queryset.filter(pk__gte=first_row_id(at))
