"""The admin pages of the suppression list."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts.models import Organization, TrailEntry, User
from queue.models import Suppression

pytestmark = pytest.mark.django_db
LIST = "/admin/queue/suppression/"


@pytest.fixture
def browser(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("root", "root@example.com", "x"))
    return client


@pytest.fixture
def example() -> Organization:
    return Organization.objects.create(name="Example")


def page(answer: Any) -> str:
    assert answer.status_code == 200
    return str(answer.content.decode())


def test_a_list_of_thirty_needs_no_more_queries_than_a_list_of_one(browser: Client) -> None:
    def entered(number: int) -> None:
        organization = Organization.objects.create(name=f"O{number}")
        Suppression.objects.create(address=f"u{number}@x.example", organization=organization, source_message_id="msg_1")

    entered(0)
    browser.get(LIST)
    with CaptureQueriesContext(connection) as one:
        page(browser.get(LIST))
    for number in range(1, 30):
        entered(number)
    with CaptureQueriesContext(connection) as thirty:
        page(browser.get(LIST))
    assert len(thirty) == len(one)


def test_the_list_tells_scope_words_and_how_long(browser: Client, example: Organization) -> None:
    Suppression.objects.create(address="bob@x.example", words="<b>550</b> no", reason="hard_bounce")
    Suppression.objects.create(
        address="carol@x.example", organization=example, sending_domain="news.example", expires_at=timezone.now()
    )
    shown = page(browser.get(LIST))
    for words in ("everybody", "Example: news.example", "&lt;b&gt;550&lt;/b&gt; no", "Hard bounce", "expired"):
        assert words in shown
    assert "bob@" not in page(browser.get(LIST, {"scope": "domain"}))
    assert "carol@" not in page(browser.get(LIST, {"state": "active"}))
    assert "carol@" not in page(browser.get(LIST, {"scope": "system"}))
    assert "bob@" not in page(browser.get(LIST, {"reason__exact": "manual"}))


def test_a_row_is_added_and_changed_with_a_line_of_the_trail(browser: Client, example: Organization) -> None:
    form: dict[str, Any] = {"address": "Bob@X.example", "organization": example.pk, "reason": "manual", "words": "hm"}
    assert browser.post(f"{LIST}add/", form).status_code == 302
    row = Suppression.objects.get()
    assert (row.address, row.created_by) == ("bob@x.example", "root")
    assert "on the list already" in page(browser.post(f"{LIST}add/", form))
    assert (
        browser.post(f"{LIST}{row.pk}/change/", {**form, "address": "x@y.example", "words": "new"}).status_code == 302
    )
    row.refresh_from_db()
    assert (row.address, row.words) == ("bob@x.example", "new")
    assert [line.kind for line in TrailEntry.objects.order_by("id")] == ["suppression.added", "suppression.changed"]


def test_a_row_for_everybody_can_be_added_once_and_has_no_sending_domain(browser: Client) -> None:
    form = {"address": "bob@x.example", "reason": "manual"}
    assert browser.post(f"{LIST}add/", form).status_code == 302
    assert "on the list already" in page(browser.post(f"{LIST}add/", form))
    assert "belongs to an organization" in page(browser.post(f"{LIST}add/", {**form, "sending_domain": "x.example"}))


def test_removal_asks_first_and_tells_the_count(browser: Client) -> None:
    rows = [Suppression.objects.create(address=f"u{number}@x.example") for number in range(12)]
    form: dict[str, Any] = {"action": "remove", "_selected_action": [row.pk for row in rows[:11]]}
    shown = page(browser.post(LIST, form))
    assert "Remove 11 rows from the suppression list?" in shown and "… and more" in shown
    assert Suppression.objects.count() == 12
    shown = page(browser.post(LIST, {**form, "confirmed": "yes"}, follow=True))
    assert "11 rows removed" in shown and Suppression.objects.count() == 1
    assert TrailEntry.objects.get().kind == "suppression.removed"


# --- CSV --------------------------------------------------------------------------------------------------------------


def upload(browser: Client, text: str, **fields: Any) -> Any:
    file = SimpleUploadedFile("list.csv", text.encode(), "text/csv")
    return browser.post(f"{LIST}import/", {"file": file, "reason": "manual", **fields})


def payload(shown: str) -> str:
    found = re.search(r'name="payload" value="([^"]+)"', shown)
    assert found
    return found[1]


def test_an_import_shows_what_it_would_do_and_does_it_when_told(browser: Client, example: Organization) -> None:
    assert 'name="file"' in page(browser.get(f"{LIST}import/"))
    shown = page(upload(browser, "bob@x.example\ncarol@x.example\n", organization=example.pk))
    assert "2 to add, 0 to change, 0 as they are" in shown and not Suppression.objects.exists()
    answer = browser.post(f"{LIST}import/", {"payload": payload(shown)}, follow=True)
    assert "2 added, 0 changed" in page(answer)
    assert Suppression.objects.filter(organization=example, created_by="root").count() == 2


def test_errors_are_shown_by_line_and_stop_the_import_unless_they_are_left_out(browser: Client) -> None:
    shown = page(upload(browser, "bob@x.example\n<script>\n"))
    assert "1 line cannot be used" in shown and "Line 2:" in shown and "&lt;script&gt;" in shown
    again = page(browser.post(f"{LIST}import/", {"payload": payload(shown)}))
    assert "Nothing was entered yet: 1 line cannot be used." in again and not Suppression.objects.exists()
    assert "list.csv" in again and "Line 2:" in again and "1 to add" in again
    browser.post(f"{LIST}import/", {"payload": payload(again), "skip_invalid": "on"})
    assert Suppression.objects.get().organization is None


def test_a_payload_of_somebody_elses_making_is_refused(browser: Client) -> None:
    answer = browser.post(f"{LIST}import/", {"payload": "e30:1abc:xyz"}, follow=True)
    assert "choose the file again" in page(answer)


def test_a_file_that_cannot_be_read_is_an_error_of_the_field(browser: Client, settings: Any) -> None:
    assert "it holds a NUL" in page(upload(browser, "a\0b"))
    settings.SUPPRESSION_IMPORT_SIZE = 10
    assert "larger than 10 octets" in page(upload(browser, "bob@x.example\n"))


def test_the_export_has_what_the_filters_show(browser: Client) -> None:
    Suppression.objects.create(address="bob@x.example", reason="complaint")
    Suppression.objects.create(address="carol@x.example")
    answer = browser.get(f"{LIST}export/", {"reason__exact": "complaint"})
    text = b"".join(answer.streaming_content).decode()  # type: ignore[attr-defined]
    assert "bob@x.example" in text and "carol@" not in text
    assert browser.get(f"{LIST}export/", {"nonsense__x": "1"}).status_code == 302
    assert f"{LIST}export/?reason__exact=complaint" in page(browser.get(LIST, {"reason__exact": "complaint"}))


def test_who_may_only_look_can_neither_import_nor_remove(client: Client) -> None:
    viewer = User.objects.create_user("v", "v@example.com", "x", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_suppression"))
    client.force_login(viewer)
    row = Suppression.objects.create(address="bob@x.example")
    assert "Import" not in page(client.get(LIST))
    assert client.get(f"{LIST}import/").status_code == 403
    client.post(LIST, {"action": "remove", "_selected_action": [row.pk], "confirmed": "yes"})
    assert client.get(f"{LIST}export/").status_code == 200 and Suppression.objects.exists()
    assert reverse("admin:queue_suppression_changelist") == LIST
