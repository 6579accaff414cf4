"""The page that shows secrets, once: in the answer to the request that made them.

They go into no message, which a cookie would keep, and into no session.
"""

from __future__ import annotations

from collections.abc import Sequence

from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.cache import add_never_cache_headers

from accounts.admin.base import Admin

TEMPLATE = "admin/accounts/shown_once.html"


def show_once(
    page: Admin, request: HttpRequest, secrets: Sequence[tuple[str, str]], *, noun: str, words: str, back: str
) -> HttpResponse:
    """Show each secret with what it is of; `words` say what goes on besides, `back` is where the button leads."""
    context = {
        **page.admin_site.each_context(request),
        "title": f"New {noun}{'' if len(secrets) == 1 else 's'}",
        "opts": page.opts,
        "noun": noun,
        "secrets": secrets,
        "words": words,
        "back": back,
    }
    answer = TemplateResponse(request, TEMPLATE, context)
    add_never_cache_headers(answer)
    return answer
