"""The WSGI entry point that gunicorn serves."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mailproj.settings")

from django.core.wsgi import get_wsgi_application

application = get_wsgi_application()

from mailflow import counters  # noqa: E402  (its models can be imported only now)

counters.start()
