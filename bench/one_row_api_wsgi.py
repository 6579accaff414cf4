"""The WSGI entry point of `bench.one_row_api`: our settings, our middleware."""

from __future__ import annotations

import os

from django.conf import settings
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mailproj.settings")
settings.ROOT_URLCONF = "bench.one_row_api"

application = get_wsgi_application()
