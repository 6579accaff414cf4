"""Every path of the web process."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from mailproj.api.urls import everywhere, with_or_without_slash
from mailproj.landing import front_page
from mailproj.metrics import metrics

SCHEMA = "api-schema"

urlpatterns = [
    path("", front_page, name="front-page"),
    path("admin/", admin.site.urls),
    path(
        "api/v1/schema/",
        SpectacularAPIView.as_view(urlconf="mailproj.api.urls", authentication_classes=[]),
        name=SCHEMA,
    ),
    path("api/v1/docs/", SpectacularSwaggerView.as_view(url_name=SCHEMA, authentication_classes=[]), name="api-docs"),
    *with_or_without_slash("metrics", metrics),
    *everywhere(),
]

handler400 = "mailproj.errors.bad_request"
handler403 = "mailproj.errors.permission_denied"
handler404 = "mailproj.errors.not_found"
handler500 = "mailproj.errors.server_error"
