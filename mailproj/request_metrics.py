"""django-prometheus's figures of requests, with what it labels kept ready and bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django_prometheus import middleware

if TYPE_CHECKING:
    from django.http import HttpRequest


class PrometheusAfterMiddleware(middleware.PrometheusAfterMiddleware):  # type: ignore[misc]
    """Looks a metric's labels up once, and not at each of a request's ten figures.

    The method of the latency is the client's own word there: each new one would be a series that is kept for ever. So
    it is named as in the other figures.
    """

    def label_metric(self, metric: Any, request: HttpRequest, response: Any = None, **labels: str) -> Any:
        if not labels:
            return metric
        if "method" in labels:
            labels["method"] = self._method(request)
        key = (metric, *labels.values())
        found = _children.get(key)
        if found is None:
            found = _children[key] = metric.labels(**labels)
        return found


_children: dict[tuple[Any, ...], Any] = {}
