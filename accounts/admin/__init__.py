"""Admin pages; Django finds them here."""

from accounts.admin import dkim, domains, keys, odmr, organizations, plans, trail, users, webhooks

__all__ = ["dkim", "domains", "keys", "odmr", "organizations", "plans", "trail", "users", "webhooks"]
