"""Django's registration of the app."""

from django.apps import AppConfig


class MailprojConfig(AppConfig):
    name = "mailproj"
    default_auto_field = "django.db.models.BigAutoField"
