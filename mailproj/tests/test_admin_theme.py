"""What we add to the admin's theme reaches every page."""

from __future__ import annotations

import pytest
from django.contrib.staticfiles import finders
from django.test import Client
from django.urls import reverse

from accounts.models import User

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("page", ["admin:index", "admin:accounts_user_add", "admin:auth_group_add"])
def test_pages_load_our_style_and_script(client: Client, page: str) -> None:
    client.force_login(User.objects.create_superuser("root", "root@example.com", "correct-horse-7"))
    shown = client.get(reverse(page)).content.decode()
    for name in ("mailproj/admin.css", "mailproj/admin.js"):
        assert name in shown and finders.find(name) is not None
