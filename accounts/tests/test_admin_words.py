"""What the admin's pages say."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import Organization, TrailEntry, User, WebhookEndpoint
from accounts.webhooks import endpoints

pytestmark = pytest.mark.django_db

PASSWORD = "correct-horse-7"


@pytest.fixture
def browser(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("root", "root@example.com", PASSWORD))
    return client


def _page(browser: Client, name: str, *arguments: object, **query: str) -> str:
    answer = browser.get(reverse(f"admin:{name}", args=arguments), query)
    assert answer.status_code == 200
    return answer.content.decode()


def test_a_users_pages_speak_of_what_there_is(browser: Client) -> None:
    root = User.objects.get()
    for page in (
        _page(browser, "accounts_user_add"),
        _page(browser, "accounts_user_change", root.pk),
        _page(browser, "auth_user_password_change", root.pk),
    ):
        assert "Single Sign-On" not in page and "LDAP" not in page and "Quota mb" not in page
    assert "Quota (MB)" in _page(browser, "accounts_user_add")


def test_to_show_all_is_offered_where_something_is_left_out(browser: Client) -> None:
    Organization.objects.create(name="Acme")
    assert "Show all" not in _page(browser, "accounts_organization_changelist")
    assert "Show all" in _page(browser, "accounts_organization_changelist", q="Acme")
    assert "Show all" in _page(browser, "accounts_organization_changelist", is_active__exact="1")
    assert "Show all" not in _page(browser, "queue_destination_changelist")


def test_lines_of_the_trail_are_counted_in_words(browser: Client) -> None:
    TrailEntry.objects.create(kind="a.b")
    assert "1 trail entry" in " ".join(_page(browser, "accounts_trailentry_changelist").split())
    TrailEntry.objects.create(kind="a.b")
    assert "2 trail entries" in " ".join(_page(browser, "accounts_trailentry_changelist").split())


def test_webhooks_say_which_events_are_not_sent_yet_and_count_in_words(browser: Client) -> None:
    assert "Spam and viruses are not looked for yet" in _page(browser, "accounts_webhookendpoint_add")
    address = reverse("admin:accounts_webhookendpoint_changelist")
    for number, words in ((1, "to 1 endpoint that is on?"), (2, "to 2 endpoints that are on?")):
        endpoints.create(None, f"https://hooks.example/{number}", ["auth.failed"])
        chosen = [str(pk) for pk in WebhookEndpoint.objects.values_list("pk", flat=True)]
        answer = browser.post(address, {"action": "send_test", "_selected_action": chosen})
        assert words in answer.content.decode()
