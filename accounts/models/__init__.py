"""One noun a module; Django finds them here."""

from accounts.models.alias import Alias
from accounts.models.api_key import ApiKey, DailyUsage, Scope
from accounts.models.dkim_key import DkimKey
from accounts.models.domain import Domain
from accounts.models.odmr_secret import OdmrSecret
from accounts.models.organization import Organization
from accounts.models.plan import OrganizationUsage, Plan, StripeEvent, Subscription
from accounts.models.trail import TrailEntry
from accounts.models.user import User
from accounts.models.webhook import WebhookAttempt, WebhookDelivery, WebhookEndpoint

__all__ = [
    "Alias", "ApiKey", "DailyUsage", "DkimKey", "Domain", "OdmrSecret", "Organization", "OrganizationUsage", "Plan",
    "Scope", "StripeEvent", "Subscription", "TrailEntry", "User", "WebhookAttempt", "WebhookDelivery",
    "WebhookEndpoint",
]  # fmt: skip
