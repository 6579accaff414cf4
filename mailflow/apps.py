"""Django's registration of the app."""

from django.apps import AppConfig


class MailflowConfig(AppConfig):
    name = "mailflow"
    default_auto_field = "django.db.models.BigAutoField"
