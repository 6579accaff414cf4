"""gunicorn's configuration, all of it from the settings; gunicorn finds this file by itself.

The settings are read here, in gunicorn's first process, so that a wrong value ends the start with its one line: read in
a worker process only, the start would be tried again for ever.
"""

import os
from pathlib import Path

from django.conf import settings
from gunicorn.workers.base import Worker

from mailproj.lifeline import end_with
from mailproj.ports import web_addresses

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mailproj.settings")

bind = web_addresses(settings.HTTP_HOST, settings.HTTP_PORT, settings.HTTP_EXTRA_PORTS, print)
worker_class = "mailproj.web_worker.PatientWorker"
workers = settings.HTTP_WORKERS
threads = settings.HTTP_THREADS
forwarded_allow_ips = ""  # whom to believe is HTTP_TRUSTED_PROXIES' to say; by itself gunicorn believes loopback
graceful_timeout = 2  # `runall` and a container's stop both have ten seconds for everything
timeout = 60
keepalive = 5
_memory = Path("/dev/shm")  # noqa: S108  (gunicorn makes an unnamed file of its own there)
worker_tmp_dir = str(_memory) if _memory.is_dir() else None  # a heartbeat must not wait for a disk
control_socket_disable = True  # it would lie in the home folder, shared by every instance of the same user
loglevel = "warning"  # requests are logged by django-structlog, with their ids
errorlog = "-"


def post_fork(server: object, worker: Worker) -> None:
    end_with(worker.ppid)  # an orphan would keep the port from the process that replaces its parent


def post_worker_init(worker: Worker) -> None:
    from mailproj import web_errors  # needs the applications, which a worker process loads

    web_errors.install()


def child_exit(server: object, worker: Worker) -> None:
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
