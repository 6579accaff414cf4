"""Admin page of warm-up plans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest
from django.utils import timezone

from accounts.admin.base import Admin, shorten
from queue.admin.destinations import leave_trail
from queue.models import WarmupPlan
from queue.pacing import plan

if TYPE_CHECKING:
    UnfoldAdminTextareaWidget = forms.Textarea
    _ModelForm = forms.ModelForm[WarmupPlan]
else:
    from unfold.widgets import UnfoldAdminTextareaWidget

    _ModelForm = forms.ModelForm


class WarmupForm(_ModelForm):
    """The steps as people write them."""

    steps = forms.CharField(
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        initial=", ".join(map(str, plan.DEFAULT_STEPS)),
        help_text="Messages on the first day, the second, and so on; after the last day there is no limit.",
    )

    class Meta:
        model = WarmupPlan
        fields = ["domain", "started_on", "steps", "is_active"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            self.initial["steps"] = ", ".join(map(str, self.instance.steps))

    def clean_steps(self) -> list[int]:
        try:
            return plan.parse(self.cleaned_data["steps"])
        except plan.InvalidPlan as error:
            raise forms.ValidationError(str(error)) from None


@admin.register(WarmupPlan)
class WarmupPlanAdmin(Admin):
    """A plan for one of our sending domains; what is above the day's number waits until the next."""

    form = WarmupForm
    list_display = ["domain", "day", "today", "is_active", "started_on"]
    list_filter = ["is_active"]
    list_select_related = ["domain"]
    search_fields = ["domain__name"]
    autocomplete_fields = ["domain"]

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"started_on": timezone.now().date()}

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Leave the count of the day alone: workers write it meanwhile."""
        if change:
            kept = {name: getattr(obj, name) for name in ("domain", "started_on", "steps", "is_active")}
            WarmupPlan.objects.filter(pk=obj.pk).update(**kept)
        else:
            obj.save()
        steps = ", ".join(map(str, obj.steps))
        words = f"From {obj.started_on}: {shorten(steps, 200)}; {'active' if obj.is_active else 'off'}."
        leave_trail(request, "warmup.changed", obj.domain.name, words)

    @admin.display(description="day")
    def day(self, row: WarmupPlan) -> str:
        number = plan.day_of(row.started_on, timezone.now())
        if number < 1:
            return "not begun"
        return f"{number} of {len(row.steps)}" if number <= len(row.steps) else "over"

    @admin.display(description="begun today")
    def today(self, row: WarmupPlan) -> str:
        now = timezone.now()
        allowed = plan.allowed(row.steps, row.started_on, now)
        count = row.granted if row.granted_on == now.date() else 0
        return f"{count} of {allowed}" if allowed is not None else "no limit"
