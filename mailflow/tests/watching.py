"""A program for the tests of `mailflow.runtime`: a process with a watcher, which says what it hears.

Usage: `python -m mailflow.tests.watching`, with `DATABASE_URL` and `REDIS_URL` in the environment. It says `watching`
with its first limits, then a line for each change and restart, until its standard input ends.
"""

from __future__ import annotations

import os
import sys

import django
from django.conf import settings


def _say(*words: object) -> None:
    print(*words, flush=True)


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mailproj.settings")
    django.setup()
    from mailflow import runtime  # noqa: PLC0415  (its models need the settings)

    watcher = runtime.Watcher()
    watcher.start(lambda config: _say("max_workers", config.smtp.max_workers), lambda: _say("restart"))
    _say("watching", runtime.current().max_workers, settings.SMTP_MAX_WORKERS)
    sys.stdin.read()
    watcher.stop()


if __name__ == "__main__":
    main()
