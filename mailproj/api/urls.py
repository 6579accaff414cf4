"""The API's paths below /api/v1, each with the other places at which the references print it (contract §1.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from django.http import HttpResponseBase
from django.urls import URLPattern, path

import accounts.api.schema  # noqa: F401  (registers our authentication with the schema)
from mailflow.api.emails import EmailListView, EmailView
from mailflow.api.events import EventListView, EventView
from mailflow.api.send import SendView
from mailproj.api.config import ConfigView, RestartView
from mailproj.api.health import HealthView
from queue.api.entries import QueueListView, QueueRetryView, QueueView
from queue.api.messages import MessageListView, MessageRawView, MessageTimelineView, MessageView
from queue.api.stats import StatsView

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
    Resource("health", HealthView.as_view(), also=(ROOT, API)),
    Resource("stats", StatsView.as_view(), also=(ROOT, API)),
    Resource("config", ConfigView.as_view(), also=(API,)),
    Resource("restart", RestartView.as_view(), also=(API,)),
    Resource("queue", QueueListView.as_view(), also=(API,), as_printed=QueueListView.as_view(as_printed=True)),
    Resource("queue/<str:message_id>", QueueView.as_view(), also=(API,)),
    Resource("queue/<str:message_id>/retry", QueueRetryView.as_view(), also=(API,)),
    Resource("messages", MessageListView.as_view(), also=(ROOT,)),
    Resource("messages/<str:message_id>", MessageView.as_view(), also=(ROOT,)),
    Resource("messages/<str:message_id>/timeline", MessageTimelineView.as_view(), also=(ROOT,)),
    Resource("messages/<str:message_id>/raw", MessageRawView.as_view(), also=(ROOT,)),
    Resource("emails", EmailListView.as_view(), also=(ROOT,), as_printed=EmailListView.as_view(as_printed=True)),
    Resource("emails/<str:message_id>", EmailView.as_view(), also=(ROOT,)),
    Resource("events", EventListView.as_view()),
    Resource("events/<str:event_id>", EventView.as_view()),
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
