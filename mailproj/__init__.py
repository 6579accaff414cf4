"""Settings and wiring of the project; no app imports this package.

The first statements graft our `queue/` folder onto Python's own `queue` module (docs/adr/0001), before Celery or
anything else imports it: `queue.Queue` stays the standard one, `queue.models` is ours.
"""

import queue
from pathlib import Path

queue.__path__ = [str(Path(__file__).resolve().parent.parent / "queue")]

from mailproj.celery import app as celery_app  # noqa: E402

__all__ = ["celery_app"]
