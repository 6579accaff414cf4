"""Admin page of the templates that `send` fills in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin

from accounts.admin.base import Admin, shorten
from mailflow import templating
from mailflow.models import MailTemplate
from mailflow.templating import Source

if TYPE_CHECKING:
    _Form = forms.ModelForm[MailTemplate]
else:
    _Form = forms.ModelForm


class MailTemplateForm(_Form):
    """Refuses a template that could not be filled in, and says which of its texts is wrong."""

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        source = Source(data.get("subject", ""), data.get("text_body", ""), data.get("html_body", ""))
        for field, words in templating.check(source).items():
            self.add_error(field, words)
        if not (source.text or source.html):
            self.add_error("text_body", "A text or an HTML body is needed.")
        return data


@admin.register(MailTemplate)
class MailTemplateAdmin(Admin):
    form = MailTemplateForm
    list_display = ["name", "organization", "short_subject", "updated_at"]
    list_select_related = ["organization"]
    search_fields = ["name", "subject", "organization__name"]
    autocomplete_fields = ["organization"]
    readonly_fields = ["created_at", "updated_at"]

    @admin.display(description="subject")
    def short_subject(self, template: MailTemplate) -> str:
        return shorten(template.subject, 60)
