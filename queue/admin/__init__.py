"""Admin pages; Django finds them here. The message's page is among them, since it joins the queue and mailflow."""

from queue.admin import attempts, entries, messages

__all__ = ["attempts", "entries", "messages"]
