"""Admin pages; Django finds them here."""

from accounts.admin import keys, organizations, trail, users

__all__ = ["keys", "organizations", "trail", "users"]
