"""Whether each process of the system answers: asked by `runall` at its start and by the containers' health checks."""

from __future__ import annotations

import http.client
import socket

import redis
from django.conf import settings

from mailproj.celery import app
from mailproj.ports import reachable

_PATIENCE = 2.0  # seconds for one question


def web_answers() -> bool:
    """Whether the web process answers /health at all; what it says there is for the reader of /health."""
    return _health_status() is not None


def web_is_healthy() -> bool:
    return _health_status() == 200


def smtp_greets() -> bool:
    """Whether the listener says 220, or where it has no plain port, takes connections for TLS."""
    port = settings.SMTP_PORT or settings.SMTPS_PORT
    try:
        with socket.create_connection((reachable(settings.SMTP_HOST), port), timeout=_PATIENCE) as connection:
            return not settings.SMTP_PORT or connection.recv(512).startswith(b"220")
    except OSError:
        return False


def redis_answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, socket_timeout=_PATIENCE, socket_connect_timeout=_PATIENCE) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def worker_answers(url: str, patience: float = _PATIENCE) -> bool:
    """Whether at least one worker answers a ping through Redis, so that both it and its line are up.

    A missing worker cannot refuse: the whole `patience` is spent on waiting for it.
    """
    app.conf.broker_url = url  # `runall` has started its Redis after the settings were read
    try:
        return bool(app.control.ping(timeout=patience, limit=1))
    except app.connection_for_write().recoverable_connection_errors:
        return False


def _health_status() -> int | None:
    hosts = [host for host in settings.ALLOWED_HOSTS if not host.startswith((".", "*"))]
    connection = http.client.HTTPConnection(reachable(settings.HTTP_HOST), settings.HTTP_PORT, timeout=_PATIENCE)
    try:
        connection.request("GET", "/health", headers={"Host": hosts[0] if hosts else "localhost"})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
