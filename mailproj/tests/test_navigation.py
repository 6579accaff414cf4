"""The admin's navigation leads to every page that there is."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.test import RequestFactory
from django.urls import reverse

from accounts.models import User
from mailproj import dashboard

pytestmark = pytest.mark.django_db


def _links(user: User) -> set[str]:
    request = RequestFactory().get("/admin/")
    request.user = user
    groups = dashboard.navigation(request)
    return {item["link"] for group in groups for item in group["items"]}


def test_every_list_that_a_superuser_may_see_is_in_the_navigation_or_a_tab_of_one_that_is() -> None:
    root = User.objects.create_superuser("root", "root@example.com", "correct-horse-7")
    request = RequestFactory().get("/admin/")
    request.user = root
    theme: dict[str, Any] = settings.UNFOLD
    tabs = {str(item["link"]) for group in theme["TABS"] for item in group["items"]}
    lists = {
        reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
        for model, page in admin.site._registry.items()
        if page.has_view_permission(request)
    }
    assert lists - _links(root) - tabs == set()


def test_nobody_is_led_to_what_they_may_not_see() -> None:
    helper = User.objects.create_user("helper", "helper@example.com", is_staff=True)
    helper.user_permissions.add(Permission.objects.get(codename="view_plan"))
    assert _links(helper) == {reverse("admin:index"), reverse("admin:accounts_plan_changelist")}
