"""One noun a module; Django finds them here."""

from queue.models.attempt import Attempt
from queue.models.entry import Entry

__all__ = ["Attempt", "Entry"]
