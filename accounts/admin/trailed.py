"""Admin pages whose changes leave a line in the trail, of the kinds that the API leaves, in the same transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest

from accounts import trail
from accounts.admin.base import Admin, by


class TrailedAdmin(Admin):
    """What is made here is `<trail_kind>.created`, then `.changed` where a field is another, and `.deleted`."""

    trail_kind = ""

    def trail_words(self, obj: Any) -> str:
        """What a line says of an object that is made or goes."""
        return ""

    def change_words(self, obj: Any, names: Sequence[str]) -> str:
        return f"Changed: {', '.join(names)}."

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        with transaction.atomic():
            super().save_model(request, obj, form, change)
            if not change:
                self._leave(request, "created", [(obj, self.trail_words(obj))])
            elif form.changed_data:
                self._leave(request, "changed", [(obj, self.change_words(obj, form.changed_data))])

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        with transaction.atomic():
            self._leave(request, "deleted", [(obj, self.trail_words(obj))])
            super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        with transaction.atomic():
            related = self.list_select_related
            rows = queryset.select_related(*related) if isinstance(related, list) else queryset
            self._leave(request, "deleted", [(obj, self.trail_words(obj)) for obj in rows])
            super().delete_queryset(request, queryset)

    def _leave(self, request: HttpRequest, act: str, told: Sequence[tuple[Any, str]]) -> None:
        kind, who = f"{self.trail_kind}.{act}", by(request)
        trail.leave([trail.entry(kind, str(obj), words, who) for obj, words in told])
