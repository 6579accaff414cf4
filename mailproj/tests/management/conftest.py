"""Two tenants with everything that they manage."""

from __future__ import annotations

import pytest

from accounts import credentials, keys
from accounts.models import Alias, Domain, Organization, User
from mailproj.tests.management.asking import PASSWORD


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> None:
    credentials.remembered.clear()


@pytest.fixture(autouse=True)
def cast(db: None) -> None:
    """Two tenants, each with a domain, an administrator, a member, a key of the member's and an alias; and staff."""
    User.objects.create_superuser("root", "root@platform.example", PASSWORD)
    User.objects.create_user("clerk", "clerk@platform.example", PASSWORD, is_staff=True)
    for name in ("acme", "blue"):
        organization = Organization.objects.create(name=name)
        domain = Domain.objects.create(name=f"{name}.example", organization=organization, is_trusted=True)
        for user, is_admin in ((f"{name}-boss", True), (f"{name}-jane", False), (f"{name}-john", False)):
            User.objects.create_user(
                user, f"{user}@{name}.example", PASSWORD, organization=organization, is_organization_admin=is_admin
            )
        keys.create(f"{name} key", User.objects.get(username=f"{name}-jane"), daily_limit=5)
        Alias.objects.create(domain=domain, local_part="sales", targets=[f"{name}-jane@{name}.example"])
