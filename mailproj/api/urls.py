"""The API's paths below /api/v1, each with the other places at which the references print it (contract §1.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from django.http import HttpResponseBase
from django.urls import URLPattern, path

import accounts.api.schema  # noqa: F401  (registers our authentication with the schema)
from accounts.api.aliases import AliasListView, AliasView
from accounts.api.api_keys import KeyListView, KeyRotateView, KeyView
from accounts.api.audit import AuditView
from accounts.api.billing import (
    CancelSubscriptionView,
    CheckoutSessionView,
    CustomerPortalView,
    OrganizationBillingView,
    ResumeSubscriptionView,
    StripeWebhookView,
    SubscriptionView,
)
from accounts.api.domains import (
    DomainExistsView,
    DomainListView,
    DomainRecordsView,
    DomainVerifyView,
    DomainView,
)
from accounts.api.organizations import OrganizationListView, OrganizationView
from accounts.api.webhook_deliveries import DeliveryListView, DeliveryReplayView, DeliveryView
from accounts.api.webhook_endpoints import (
    EndpointListView,
    EndpointRotateView,
    EndpointTestView,
    EndpointView,
)
from mailflow.api.email_files import EmailAttachmentView, EmailRawView
from mailflow.api.emails import EmailListView, EmailView
from mailflow.api.events import EventListView, EventView
from mailflow.api.folders import FetchView, FolderListView, FolderView
from mailflow.api.send import SendView
from mailflow.api.send_batch import SendBatchView
from mailflow.api.templates import TemplateListView, TemplateRenderView, TemplateView
from mailflow.api.users import UserListView, UserView
from mailproj.api.config import ConfigView, RestartView
from mailproj.api.health import HealthView
from queue.api.actions import ActionListView, ActionStopView, ActionView
from queue.api.entries import QueueListView, QueueRetryView, QueueView
from queue.api.message_lists import (
    DomainMessagesView,
    MessageSearchView,
    MessageStatsView,
    RecentMessagesView,
    ThreadMessagesView,
)
from queue.api.message_status import MessageStatusView
from queue.api.messages import MessageListView, MessageRawView, MessageTimelineView, MessageView
from queue.api.scheduling import CancelView, RescheduleView
from queue.api.stats import StatsView
from queue.api.suppressions import (
    SuppressionExportView,
    SuppressionImportView,
    SuppressionListView,
    SuppressionView,
)
from queue.api.workers import WorkerListView

View = Callable[..., HttpResponseBase]
CANONICAL = "api/v1/"
ROOT, API = "", "api/"


@dataclass(frozen=True, slots=True)
class Resource:
    """One path. `also`: the prefixes of its other places; `as_printed`: the view there, if its envelope differs."""

    route: str
    view: View
    also: Sequence[str] = ()
    as_printed: View | None = None


RESOURCES = [
    Resource("send", SendView.as_view(), also=(ROOT, API)),
    Resource("send/batch", SendBatchView.as_view()),
    Resource("templates", TemplateListView.as_view()),
    Resource("templates/<int:template_id>", TemplateView.as_view()),
    Resource("templates/<int:template_id>/render", TemplateRenderView.as_view()),
    Resource("health", HealthView.as_view(), also=(ROOT, API)),
    Resource("stats", StatsView.as_view(), also=(ROOT, API)),
    Resource("config", ConfigView.as_view(), also=(API,)),
    Resource("restart", RestartView.as_view(), also=(API,)),
    Resource("users", UserListView.as_view(), also=(API,), as_printed=UserListView.as_view(as_printed=True)),
    Resource("users/<str:username>", UserView.as_view(), also=(API,)),
    Resource("organizations", OrganizationListView.as_view()),
    Resource("organizations/<str:organization_id>", OrganizationView.as_view()),
    Resource("api-keys", KeyListView.as_view()),
    Resource("api-keys/<str:key_id>", KeyView.as_view()),
    Resource("api-keys/<str:key_id>/rotate", KeyRotateView.as_view()),
    Resource("domains", DomainListView.as_view(), also=(ROOT,)),
    Resource("domains/<str:domain_id>", DomainView.as_view(), also=(ROOT,)),
    Resource("domains/<str:domain_id>/verify", DomainVerifyView.as_view(), also=(ROOT,)),
    Resource("domains/<str:domain_id>/dns-records", DomainRecordsView.as_view(), also=(ROOT,)),
    Resource("domains/<str:name>/exists", DomainExistsView.as_view(), also=(ROOT, API)),
    Resource("aliases", AliasListView.as_view()),
    Resource("aliases/<str:alias_id>", AliasView.as_view()),
    Resource("queue", QueueListView.as_view(), also=(API,), as_printed=QueueListView.as_view(as_printed=True)),
    Resource("queue/actions", ActionListView.as_view()),
    Resource("queue/actions/<str:action_id>", ActionView.as_view()),
    Resource("queue/actions/<str:action_id>/stop", ActionStopView.as_view()),
    Resource("queue/workers", WorkerListView.as_view()),
    Resource("queue/<str:message_id>", QueueView.as_view(), also=(API,)),
    Resource("queue/<str:message_id>/retry", QueueRetryView.as_view(), also=(API,)),
    Resource("messages", MessageListView.as_view(), also=(ROOT,)),
    Resource("messages/search", MessageSearchView.as_view(), also=(ROOT,)),  # the fixed words before {message_id}
    Resource("messages/stats", MessageStatsView.as_view(), also=(ROOT,)),
    Resource("messages/recent", RecentMessagesView.as_view(), also=(ROOT,)),
    Resource("messages/domain/<int:domain_id>", DomainMessagesView.as_view(), also=(ROOT,)),
    Resource("messages/thread/<str:thread_id>", ThreadMessagesView.as_view(), also=(ROOT,)),
    Resource("messages/<str:message_id>/status", MessageStatusView.as_view(), also=(ROOT,)),
    Resource("messages/<str:message_id>", MessageView.as_view(), also=(ROOT,)),
    Resource("messages/<str:message_id>/timeline", MessageTimelineView.as_view(), also=(ROOT,)),
    Resource("messages/<str:message_id>/raw", MessageRawView.as_view(), also=(ROOT,)),
    Resource("messages/<str:message_id>/cancel", CancelView.as_view(), also=(ROOT,)),
    Resource("messages/<str:message_id>/reschedule", RescheduleView.as_view(), also=(ROOT,)),
    Resource("emails", EmailListView.as_view(), also=(ROOT,), as_printed=EmailListView.as_view(as_printed=True)),
    Resource("emails/<str:message_id>", EmailView.as_view(), also=(ROOT,)),
    Resource("emails/<str:message_id>/raw", EmailRawView.as_view(), also=(ROOT,)),
    Resource("emails/<str:message_id>/attachments/<int:number>", EmailAttachmentView.as_view(), also=(ROOT,)),
    Resource("folders", FolderListView.as_view(), also=(ROOT,)),
    Resource("folders/<path:name>", FolderView.as_view(), also=(ROOT,)),
    Resource("fetch", FetchView.as_view(), also=(ROOT,)),
    Resource("billing/checkout-session", CheckoutSessionView.as_view(), also=(ROOT,)),
    Resource("billing/customer-portal", CustomerPortalView.as_view(), also=(ROOT,)),
    Resource("billing/organization", OrganizationBillingView.as_view(), also=(ROOT,)),
    Resource("subscriptions/me", SubscriptionView.as_view(), also=(ROOT,)),
    Resource("subscriptions/cancel", CancelSubscriptionView.as_view(), also=(ROOT,)),
    Resource("subscriptions/resume", ResumeSubscriptionView.as_view(), also=(ROOT,)),
    Resource("webhooks/stripe", StripeWebhookView.as_view(), also=(ROOT,)),
    Resource("webhook-endpoints", EndpointListView.as_view()),
    Resource("webhook-endpoints/<str:endpoint_id>", EndpointView.as_view()),
    Resource("webhook-endpoints/<str:endpoint_id>/rotate-secret", EndpointRotateView.as_view()),
    Resource("webhook-endpoints/<str:endpoint_id>/test", EndpointTestView.as_view()),
    Resource("webhook-endpoints/<str:endpoint_id>/deliveries", DeliveryListView.as_view()),
    Resource("webhook-endpoints/<str:endpoint_id>/deliveries/<str:delivery_id>", DeliveryView.as_view()),
    Resource("webhook-endpoints/<str:endpoint_id>/deliveries/<str:delivery_id>/replay", DeliveryReplayView.as_view()),
    Resource("events", EventListView.as_view()),
    Resource("events/<str:event_id>", EventView.as_view()),
    Resource("suppressions", SuppressionListView.as_view()),
    Resource("suppressions/import", SuppressionImportView.as_view()),
    Resource("suppressions/export", SuppressionExportView.as_view()),
    Resource("suppressions/<str:suppression_id>", SuppressionView.as_view()),
    Resource("audit", AuditView.as_view()),
]

# What the OpenAPI schema describes: one path for each view.
urlpatterns = [path(CANONICAL + resource.route, resource.view) for resource in RESOURCES]


def everywhere() -> Iterator[URLPattern]:
    """Every path at every place, with a trailing slash and without: the same view, so that no method is redirected."""
    for resource in RESOURCES:
        yield from with_or_without_slash(CANONICAL + resource.route, resource.view)
        for prefix in resource.also:
            yield from with_or_without_slash(prefix + resource.route, resource.as_printed or resource.view)


def with_or_without_slash(route: str, view: Any) -> Iterator[URLPattern]:
    yield path(route, view)
    yield path(f"{route}/", view)
