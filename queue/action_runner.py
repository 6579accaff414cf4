"""Carries out actions in bulk in a worker process, one at a time, in a thread of its own.

It looks into the table every two seconds, so that neither Redis nor beat is needed, and what a killed process had begun
is found again when its lease has run out.
"""

from __future__ import annotations

import threading

import structlog
from django.db import DatabaseError, InterfaceError, close_old_connections, connection

from queue import actions

logger = structlog.get_logger(__name__)

POLL_SECONDS = 2.0


class ActionRunner:
    """One a process. `stop` lets the batch under way end, and gives the rest back."""

    def __init__(self, poll_seconds: float = POLL_SECONDS) -> None:
        self._poll_seconds = poll_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="actions", daemon=True)
        self._name = actions.runner_name()

    def start(self) -> None:
        self._thread.start()

    def stop(self, patience: float = 2.0) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(patience)

    def _run(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            try:
                while not self._stopping.is_set() and self._carry_out_one():
                    pass
            except (DatabaseError, InterfaceError) as error:
                logger.warning("queue.actions_not_read", cause=type(error).__name__)
                connection.close()
            finally:
                close_old_connections()
        connection.close()

    def _carry_out_one(self) -> bool:
        """Carry one action out, where there is one; whatever is wrong with it, the next one's turn comes."""
        action = actions.take(self._name)
        if action is None:
            return False
        try:
            actions.run(action, is_ending=self._stopping.is_set)
        except actions.TakenOver:
            logger.warning("queue.action_taken_over", action_id=action.pk)
        except (DatabaseError, InterfaceError):
            raise
        except Exception as error:
            logger.exception("queue.action_broke", action_id=action.pk)
            actions.give_up(action, error)
        return True
