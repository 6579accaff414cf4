"""The admin's pages of organizations."""

from __future__ import annotations

import datetime as dt
import re

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import Domain, Organization, OrganizationUsage, User

pytestmark = pytest.mark.django_db


def _tenant(name: str) -> Organization:
    tenant = Organization.objects.create(name=name)
    Domain.objects.create(name=f"{name}.example", organization=tenant)
    User.objects.create_user(f"{name}-jane", f"jane@{name}.example", organization=tenant)
    return tenant


def test_an_organization_that_has_users_or_domains_says_what_must_go_first_and_how(client: Client) -> None:
    client.force_login(User.objects.create_superuser("root", "root@example.com", "correct-horse-7"))
    acme, _ = _tenant("acme"), _tenant("blue")
    OrganizationUsage.objects.create(organization=acme, date=dt.date(2026, 1, 1), count=3)
    address = reverse("admin:accounts_organization_delete", args=[acme.pk])
    several = reverse("admin:accounts_organization_changelist")
    chosen = {"action": "delete_selected", "_selected_action": [acme.pk], "post": "yes"}
    for page in (client.post(address, {"post": "yes"}), client.post(several, chosen)):
        shown = page.content.decode()
        assert "permission to delete" not in shown
        assert (page.status_code == 200 and "Cannot delete" in shown) or "cannot be deleted yet" in shown
        assert "1 user</a> of acme: " in shown and "1 domain</a> of acme: " in shown
        assert "user-cli delete" in shown and "delete each on its page" in shown
        links = re.findall(r'href="([^"]+organization__id__exact=\d+)"', shown)
        assert len(links) == 2
        for link in links:
            assert "acme.example" in client.get(link).content.decode()
            assert "blue.example" not in client.get(link).content.decode()
    User.objects.filter(organization=acme).delete()
    Domain.objects.filter(organization=acme).delete()
    assert client.post(address, {"post": "yes"}).status_code == 302
    assert not Organization.objects.filter(name="acme").exists()
