"""One noun a module; Django finds them here."""

from accounts.models.alias import Alias
from accounts.models.api_key import ApiKey, DailyUsage
from accounts.models.domain import Domain
from accounts.models.organization import Organization
from accounts.models.trail import TrailEntry
from accounts.models.user import User

__all__ = ["Alias", "ApiKey", "DailyUsage", "Domain", "Organization", "TrailEntry", "User"]
