"""`manage.py seed`: prepare the demo's data, as `runall` does at every start."""

from __future__ import annotations

from django.conf import settings
from django.core.management.base import CommandError

from accounts.command import PlainCommand
from mailproj import demo


class Command(PlainCommand):
    help = "Make the demo's organization, domain, mailboxes and API key where they are missing."
    examples = "Example:\n  manage.py seed"

    def handle(self, *_args: object, **_options: object) -> None:
        if not settings.DEMO:
            raise CommandError("seed is for the demo profile; in production make a key with createapikey.")
        settings.MAIL_DATA_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
        logins = demo.prepare(settings.MAIL_DATA_DIR, settings.ADMIN_USERNAME, settings.ADMIN_PASSWORD)
        self.stdout.write(f"The demo's data is there; the administrator is {logins.admin_username}.")
