"""A message to be filled in: subject and bodies with places for data."""

from __future__ import annotations

from django.db import models


class MailTemplate(models.Model):
    """One row is one template of one organization; `send` names it by its id or its name.

    The language is Django's, cut down to what only reads the data it is given (`mailflow.templating`).
    """

    organization = models.ForeignKey("accounts.Organization", models.CASCADE, related_name="mail_templates")
    name = models.CharField(max_length=100, help_text="Letters, digits, dots, hyphens and underscores.")
    subject = models.TextField(blank=True, help_text="One line, such as Welcome, {{ name }}!")
    text_body = models.TextField(blank=True)
    html_body = models.TextField(blank=True, help_text="What the data holds is escaped, unless marked |safe.")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["organization", "name"], name="one_template_per_name")]

    def __str__(self) -> str:
        return self.name
