"""Django's registration of the app."""

from django.apps import AppConfig


class QueueConfig(AppConfig):
    name = "queue"
    default_auto_field = "django.db.models.BigAutoField"
