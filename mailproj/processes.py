"""The command line of every process of the system: `runall`, docker-compose.yml and the tests all use these.

No command takes a parameter that a setting could give: a process reads its ports and limits from the settings alone.
"""

from __future__ import annotations

WEB = ("-m", "gunicorn", "mailproj.wsgi")  # with gunicorn.conf.py
SMTP = ("manage.py", "runsmtp")
# One solo process: the engine inside it does the deliveries (docs/architecture.md); more workers are more processes.
# Quiet (-q), since Celery's banner is no line of a JSON log.
WORKER = (
    *("-m", "celery", "-q", "-A", "mailproj", "worker", "-P", "solo"),
    *("--without-gossip", "--without-mingle", "--without-heartbeat"),
)
BEAT = ("-m", "celery", "-q", "-A", "mailproj", "beat")
MIGRATE = ("manage.py", "migrate", "--no-input")

PROCESSES: dict[str, tuple[str, ...]] = {"web": WEB, "smtp": SMTP, "worker": WORKER, "beat": BEAT, "migrate": MIGRATE}


def command(name: str, interpreter: str = "python") -> list[str]:
    """Return the argument list that starts a process, to be run in the project's folder."""
    return [interpreter, *PROCESSES[name]]
