"""Registers Django's admin so that only processes that show its pages, or check them, load them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.contrib.admin import checks as admin_checks
from django.contrib.admin.apps import SimpleAdminConfig
from django.core import checks
from django.core.checks import CheckMessage


class AdminConfig(SimpleAdminConfig):
    """Django's own loads every admin module in every process: more than half of what a listener took to start.

    `mailproj.urls` loads them instead.
    """

    def ready(self) -> None:
        checks.register(admin_checks.check_dependencies, checks.Tags.admin)
        checks.register(_check_pages, checks.Tags.admin)


def _check_pages(app_configs: Sequence[Any] | None, **named: Any) -> list[CheckMessage]:
    admin.autodiscover()
    found: list[CheckMessage] = admin_checks.check_admin_app(app_configs, **named)
    return found
