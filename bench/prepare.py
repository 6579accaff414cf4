"""Run in a process of its own with a system's environment: makes the tables, and who can receive and send.

Prints the API key of the user.
"""

from __future__ import annotations

import os

import django
from django.core.management import call_command

LOCAL_RECIPIENT = "user@example.com"
DAILY_LIMIT = 100_000_000


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mailproj.settings")
    django.setup()
    call_command("migrate", verbosity=0)

    from accounts import keys  # noqa: PLC0415  (models cannot be imported before the setup)
    from accounts.models import Domain, Organization, User  # noqa: PLC0415

    organization = Organization.objects.create(name="Bench")
    Domain.objects.create(name="example.com", organization=organization, is_trusted=True)
    user = User.objects.create(username="user", email=LOCAL_RECIPIENT, organization=organization, quota_mb=0)
    _, text = keys.create("bench", user, daily_limit=DAILY_LIMIT, actor="bench")
    print(text)


if __name__ == "__main__":
    main()
