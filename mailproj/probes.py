"""Whether each process of the system answers: asked by `runall` at its start and by the containers' health checks."""

from __future__ import annotations

import http.client
import ipaddress
import socket

import redis
from django.conf import settings

from mailproj.celery import app
from mailproj.ports import reachable

_PATIENCE = 2.0  # seconds for one question
_GREETINGS = (b"220", b"421", b"521")
_PROXY_LOCAL = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"  # PROXY version 2: who connects speaks for itself


def web_answers() -> bool:
    """Whether the web process answers /health at all; what it says there is for the reader of /health."""
    return _health_status() is not None


def web_is_healthy() -> bool:
    return _health_status() == 200


def smtp_greets() -> bool:
    """Whether the listener greets, or where it has no plain port, takes connections for TLS.

    421 and 521 are greetings too: it is full, or takes no mail (SMTP_ACCEPTS_MAIL), and a new start would not help.
    """
    port = settings.SMTP_PORT or settings.SMTPS_PORT
    try:
        with socket.create_connection((reachable(settings.SMTP_HOST), port), timeout=_PATIENCE) as connection:
            if _is_proxy(connection.getsockname()[0]):
                connection.sendall(_PROXY_LOCAL)
            return not settings.SMTP_PORT or connection.recv(512).startswith(_GREETINGS)
    except OSError:
        return False


def _is_proxy(own_address: str) -> bool:
    """Whether the listener waits for a PROXY header from here."""
    own = ipaddress.ip_address(own_address.partition("%")[0])
    return any(own in network for network in settings.SMTP_PROXY_NETWORKS)


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
