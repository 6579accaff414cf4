"""The WSGI entry point of `bench.one_row`: our database settings, none of our middleware."""

from __future__ import annotations

import os

from django.conf import settings
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mailproj.settings")
settings.ROOT_URLCONF = "bench.one_row"
settings.MIDDLEWARE = []

application = get_wsgi_application()
