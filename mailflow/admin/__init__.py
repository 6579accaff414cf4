"""Admin pages; Django finds them here. The message's own page is in `queue.admin`, which knows what became of it."""

from mailflow.admin import events, mailboxes, runtime, templates

__all__ = ["events", "mailboxes", "runtime", "templates"]
