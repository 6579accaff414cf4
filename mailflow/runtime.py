"""Configuration and restarts that act on running processes, within two seconds (contract §6; docs/adr/0010).

The database has the truth. A process has one `Watcher`, which looks there once a second and whenever the bell rings in
Redis; what it found last is in `current()`. The web, which has none, asks `fresh()`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

import structlog
from django.db import DatabaseError, InterfaceError, close_old_connections, connection, transaction
from django.db.models import F
from django.utils import timezone

from accounts.models import TrailEntry
from mailflow import bell
from mailflow.models import RestartRequest, RuntimeSetting
from mailflow.runtime_fields import (
    FIELDS,
    SERVICES,
    Effective,
    InvalidConfig,
    Key,
    RuntimeConfig,
    ServiceConfig,
    SetValue,
    SmtpConfig,
    Value,
    build,
    checked,
    effective,
    fits,
)

__all__ = [
    "FIELDS", "RESTARTABLE", "SERVICES", "Effective", "InvalidConfig", "RuntimeConfig", "ServiceConfig", "SmtpConfig",
    "Watcher", "change", "checked", "current", "effective", "fresh", "read", "request_restart",
]  # fmt: skip

log = structlog.get_logger(__name__)

POLL_SECONDS = 1.0
FIRST_LOOK_SECONDS = 3.0  # a process starts without its database, but not before it has asked
RESTARTABLE = tuple(RestartRequest.Service.values)

_watched: RuntimeConfig | None = None  # what a watcher of this process found last


def current() -> SmtpConfig:
    """Return what the watcher found last, the environment's values before; no lock, no query."""
    known = _watched
    return build({}).smtp if known is None else known.smtp


def fresh() -> SmtpConfig:
    """Return what is at most a second old, for processes without a watcher; it costs one query a second at most."""
    known = _watched
    return _kept.get().smtp if known is None else known.smtp


def read() -> dict[Key, SetValue]:
    """Return all values that were set, with one query; a row that does not fit is passed over."""
    rows = RuntimeSetting.objects.order_by().values_list("service", "name", "value", "set_by", "set_at")
    return {
        (service, name): SetValue(value, set_by, set_at)
        for service, name, value, set_by, set_at in rows
        if fits((service, name), value)
    }


def change(values: Mapping[Key, Value | None], *, actor: str, client_address: str = "") -> dict[Key, SetValue]:
    """Set values as `checked` returns them, all or none, with a line in the trail for each that is another now.

    None gives the environment's value back. Returns what `read` would; every process follows within two seconds.
    """
    now, actor = timezone.now(), actor[:254]
    with transaction.atomic():
        list(RuntimeSetting.objects.select_for_update().values_list("pk"))  # else two changes cross in the trail
        before = read()
        new = {key: value for key, value in sorted(values.items()) if _differs(before.get(key), value)}
        rows = [
            RuntimeSetting(service=service, name=name, value=value, set_by=actor, set_at=now)
            for (service, name), value in new.items()
            if value is not None
        ]
        RuntimeSetting.objects.bulk_create(
            rows,
            update_conflicts=True,
            unique_fields=["service", "name"],
            update_fields=["value", "set_by", "set_at"],
        )
        for service, name in (key for key, value in new.items() if value is None):
            RuntimeSetting.objects.filter(service=service, name=name).delete()
        TrailEntry.objects.bulk_create(
            TrailEntry(
                kind="config.changed",
                actor=actor,
                subject=" ".join(key),
                client_address=client_address,
                detail=f"{_spoken(before.get(key))} → {'the environment’s' if value is None else _text(value)}",
            )
            for key, value in new.items()
        )
        after = read()
        if new:
            transaction.on_commit(_announce, robust=True)
    return after


def request_restart(service: str, *, actor: str, client_address: str = "") -> int:
    """Ask every process of this kind to end itself cleanly, to be started anew; return the request's generation."""
    now, actor = timezone.now(), actor[:254]
    with transaction.atomic():
        rows = RestartRequest.objects
        rows.get_or_create(service=service, defaults={"requested_by": actor, "requested_at": now})
        rows.filter(service=service).update(generation=F("generation") + 1, requested_by=actor, requested_at=now)
        generation = rows.values_list("generation", flat=True).get(service=service)
        TrailEntry.objects.create(
            kind="restart.requested",
            actor=actor,
            subject=service,
            client_address=client_address,
            detail=f"Generation {generation}.",
        )
        transaction.on_commit(bell.ring, robust=True)
    return generation


def _differs(before: SetValue | None, value: Value | None) -> bool:
    return before is not None if value is None else before is None or before.value != value


def _spoken(before: SetValue | None) -> str:
    return "the environment’s" if before is None else _text(before.value)


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _announce() -> None:
    _kept.forget()
    bell.ring()


class _Kept:
    """What a process without a watcher read a moment ago. Of many threads that find it old, one reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._config: RuntimeConfig | None = None
        self._read_at: float | None = None

    def get(self) -> RuntimeConfig:
        read_at = self._read_at
        if read_at is not None and time.monotonic() - read_at < POLL_SECONDS:
            return self._config or build({})
        if self._lock.acquire(blocking=read_at is None):  # the very first must wait: nothing is known yet
            try:
                if self._read_at is read_at:
                    self._look()
            finally:
                self._lock.release()
        return self._config or build({})

    def _look(self) -> None:
        try:
            self._config = build(read())
        except (DatabaseError, InterfaceError) as error:  # it goes on with what it knows
            log.warning("runtime.not_read", cause=type(error).__name__)
        self._read_at = time.monotonic()

    def forget(self) -> None:
        self._read_at = None


_kept = _Kept()


class Watcher:
    """Tells one process of changes, and of requests to restart it; one a process, never one a connection.

    Both callbacks are called in the watcher's own thread and must return soon. A request that was there when the
    process started is of no concern to it, so nothing is restarted twice.
    """

    def __init__(self, service: str = RestartRequest.Service.SMTP) -> None:
        self._service = service
        self._wake = threading.Event()
        self._has_looked = threading.Event()
        self._stopping = False
        self._ending = threading.Lock()
        self._generation: int | None = None
        self._told = build({})
        self._is_away = False
        self._on_change: Callable[[RuntimeConfig], None] = lambda _: None
        self._on_restart: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="runtime", daemon=True)
        self._bell = bell.BellThread(self._wake.set)

    def start(self, on_change: Callable[[RuntimeConfig], None], on_restart: Callable[[], None]) -> None:
        """Begin to watch; returns after the first look, so that `current()` is what holds, or after three seconds.

        `on_change` is called for values other than the environment's, and then for each change.
        """
        self._on_change, self._on_restart = on_change, on_restart
        self._told = build({})
        self._thread.start()
        self._bell.start()
        self._has_looked.wait(FIRST_LOOK_SECONDS)

    def stop(self, patience: float = 0.5) -> None:
        """Watch no more; for the very end, as `current()` then answers the environment's values. Twice is no harm."""
        global _watched
        with self._ending:
            self._stopping = True
        self._bell.stop()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(patience)
        _watched = None

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            self._look()
            self._has_looked.set()
            self._wake.wait(POLL_SECONDS)
        connection.close()

    def _look(self) -> None:
        """Look once; whatever is wrong with the database or a callback, the next look comes."""
        try:
            found, generation = build(read()), self._latest_generation()
        except Exception as error:  # noqa: BLE001  (the process goes on with what it knows)
            if not self._is_away:
                log.warning("runtime.not_read", cause=f"{type(error).__name__}: {error}")
            self._is_away = True
            connection.close()
            return
        finally:
            close_old_connections()
        self._is_away = False
        if self._remember(found):
            self._tell(found, generation)

    def _latest_generation(self) -> int:
        found = RestartRequest.objects.filter(pk=self._service).values_list("generation", flat=True).first()
        return found or 0

    def _remember(self, found: RuntimeConfig) -> bool:
        """Make it what `current()` answers; False where the watcher was stopped meanwhile."""
        global _watched
        with self._ending:
            if not self._stopping:
                _watched = found
            return not self._stopping

    def _tell(self, found: RuntimeConfig, generation: int) -> None:
        seen, self._generation = self._generation, generation
        if found != self._told:
            self._told = found
            log.info("runtime.changed", service=self._service, smtp=str(found.smtp), imap=str(found.imap))
            _guarded(lambda: self._on_change(found))
        if seen is not None and generation > seen:
            log.info("runtime.restart", service=self._service, generation=generation)
            _guarded(self._on_restart)


def _guarded(tell: Callable[[], None]) -> None:
    """Call back; whoever cannot bear a change is restarted all the same, and hears of the next."""
    try:
        tell()
    except Exception:
        log.exception("runtime.not_applied")
