#!/usr/bin/env python
"""Django's command line for mailproj; `manage.py help` lists the commands."""

import os
import sys

import mailproj  # noqa: F401  (grafts the `queue` package; must come before Django, also in spawned children)


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mailproj.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
