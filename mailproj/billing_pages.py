"""Where Stripe sends people back by default: three pages that change nothing.

Nothing is believed that a URL says: a subscription begins when Stripe's signed message comes.
"""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

SUCCESS = ("Thank you", "The payment was made. The subscription begins as soon as Stripe has told us, mostly at once.")
CANCELLED = (
    "Nothing was paid",
    "The payment was broken off, and nothing has changed. It can be begun again at any time.",
)
BACK = ("Back from billing", "Changes that were made there hold as soon as Stripe has told us, mostly at once.")


def page(text: tuple[str, str]) -> Callable[[HttpRequest], HttpResponse]:
    """Return the view that shows a title and its words."""

    def view(request: HttpRequest) -> HttpResponse:
        return render(request, "billing/returned.html", {"title": text[0], "words": text[1]})

    return view
