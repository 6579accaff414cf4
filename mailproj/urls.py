"""Every path of the web process."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from mailproj import billing_pages
from mailproj.api.schema_format import ByFormatToo
from mailproj.api.urls import everywhere, with_or_without_slash
from mailproj.errors import only_reads
from mailproj.landing import front_page
from mailproj.metrics import metrics
from mailproj.rate_limits import limited

SCHEMA = "api-schema"

admin.autodiscover()  # here, since only web processes need it (`mailproj.admin_apps`)

_schema = SpectacularAPIView.as_view(
    urlconf="mailproj.api.urls", authentication_classes=[], content_negotiation_class=ByFormatToo
)
# Without DRF's answer to OPTIONS, which the page's template cannot show.
_docs = SpectacularSwaggerView.as_view(url_name=SCHEMA, authentication_classes=[], metadata_class=None)

urlpatterns = [
    path("", limited(only_reads(front_page)), name="front-page"),
    path("admin/", admin.site.urls),
    path("api/v1/schema", _schema),
    path("api/v1/schema/", _schema, name=SCHEMA),
    path("api/v1/docs", _docs),
    path("api/v1/docs/", _docs, name="api-docs"),
    *with_or_without_slash("metrics", limited(only_reads(metrics))),
    *(
        route
        for name, text in (
            ("billing", billing_pages.BACK),
            ("billing/success", billing_pages.SUCCESS),
            ("billing/cancel", billing_pages.CANCELLED),
        )
        for route in with_or_without_slash(name, limited(only_reads(billing_pages.page(text))))
    ),
    *everywhere(),
]

handler400 = "mailproj.errors.bad_request"
handler403 = "mailproj.errors.permission_denied"
handler404 = "mailproj.errors.not_found"
handler500 = "mailproj.errors.server_error"
