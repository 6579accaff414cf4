"""`webhook-endpoints` and their deliveries: who may, what is refused and how, and what it costs; the admin's pages."""

from __future__ import annotations

import base64
import datetime as dt
import json
from typing import Any
from uuid import UUID

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import Domain, Organization, TrailEntry, User, WebhookAttempt, WebhookDelivery, WebhookEndpoint
from accounts.webhooks import deliveries, endpoints, outbox, signature
from accounts.webhooks.names import EVENTS

pytestmark = pytest.mark.django_db
URL = "https://example.com/webhook"
PATH = "/api/v1/webhook-endpoints"


@pytest.fixture(autouse=True)
def cast() -> dict[str, User]:
    """Ada administers Ours, Max is a member; Eve administers Theirs; root is staff without an organization."""
    ours, theirs = Organization.objects.create(name="Ours"), Organization.objects.create(name="Theirs")
    Domain.objects.create(name="ours.test", organization=ours, is_trusted=True)
    make = User.objects.create_user
    return {
        "ada": make("ada", "ada@ours.test", "pw", organization=ours, is_organization_admin=True),
        "max": make("max", "max@ours.test", "pw", organization=ours),
        "eve": make("eve", "eve@theirs.test", "pw", organization=theirs, is_organization_admin=True),
        "root": User.objects.create_superuser("root", "root@ours.test", "pw"),
    }


def call(method: str, path: str = "", body: Any = None, user: str = "ada") -> Any:
    headers = {"Authorization": "Basic " + base64.b64encode(f"{user}:pw".encode()).decode()} if user else {}
    text = body if isinstance(body, str) else "" if body is None else json.dumps(body)
    return Client().generic(method, PATH + path, text, content_type="application/json", headers=headers)


def made(user: str = "ada", **values: Any) -> str:
    answer = call("POST", "", {"url": URL, **values}, user)
    assert answer.status_code == 201, answer.content
    return str(answer.json()["id"])


def delivered(endpoint_id: str, count: int = 1, **values: Any) -> list[WebhookDelivery]:
    now, body = timezone.now(), '{"event":"message.sent"}'
    rows = [outbox.delivery(UUID(endpoint_id), "message.sent", body, now) for _ in range(count)]
    for row in rows:
        for name, value in values.items():
            setattr(row, name, value)
    return WebhookDelivery.objects.bulk_create(rows)


def test_an_endpoint_is_made_read_changed_and_removed() -> None:
    answer = call("POST", "", {"url": URL, "events": ["spam.detected", "message.received", "spam.detected"]})
    assert answer.status_code == 201 and answer["Cache-Control"] == "no-store"
    new = answer.json()
    secret = new.pop("secret")
    assert len(signature.parse_secret(secret)) == 32
    assert new["events"] == ["message.received", "spam.detected"] and new["url"] == URL and new["is_active"]
    path = f"/{new['id']}"
    assert call("GET", path).json() == call("GET", path + "/").json() == new
    assert call("GET").json()["items"] == [new]
    assert secret not in call("GET").content.decode()
    changed = call("PATCH", path, {"url": "https://EXAMPLE.net", "is_active": False, "description": "x"})
    assert changed.status_code == 200, changed.content
    assert (changed.json()["url"], changed.json()["is_active"]) == ("https://example.net/", False)
    assert call("DELETE", path).status_code == 204
    assert call("GET", path).status_code == 404
    assert TrailEntry.objects.filter(kind__startswith="webhook_endpoint.", actor="ada").count() == 3


def test_without_events_it_hears_of_all() -> None:
    assert WebhookEndpoint.objects.get(pk=made()).events == list(EVENTS)


def test_a_new_secret_is_shown_once_and_the_one_before_goes_on_for_a_while() -> None:
    path = f"/{made()}/rotate-secret"
    answer = call("POST", path)
    assert answer.status_code == 200 and answer["Cache-Control"] == "no-store"
    endpoint = WebhookEndpoint.objects.get()
    keys = endpoints.secrets_of(endpoint, timezone.now())
    assert keys[0] == signature.parse_secret(answer.json()["secret"]) and len(keys) == 2
    call("POST", path, {"overlap_seconds": 0})
    endpoint.refresh_from_db()
    assert len(endpoints.secrets_of(endpoint, timezone.now())) == 1


def test_a_test_event_is_written_as_any_other() -> None:
    path = f"/{made()}/test"
    plain, named = call("POST", path), call("POST", path, {"event": "message.received"})
    assert plain.status_code == named.status_code == 202
    assert [answer.json()["event"] for answer in (plain, named)] == ["webhook.test", "message.received"]
    payload = json.loads(WebhookDelivery.objects.get(pk=named.json()["id"]).payload)
    assert set(payload["data"]) == {"message_id", "from", "to", "subject", "size_bytes"}


def test_a_delivery_shows_each_request_and_its_answer_and_is_replayed() -> None:
    endpoint_id = made()
    [row] = delivered(endpoint_id, status="failed", next_attempt_at=None, attempts=2, last_result="It answered 500.")
    for status in (None, 500):
        WebhookAttempt.objects.create(
            delivery=row, started_at=timezone.now(), duration_ms=12, url=URL, request_headers={"webhook-id": row.pk},
            response_status=status, response_body="no" if status else "", error="It failed.",
        )  # fmt: skip
    path = f"/{endpoint_id}/deliveries/{row.pk}"
    found = call("GET", path).json()
    assert found["payload"] == {"event": "message.sent"}
    latest, first = found["requests"]
    assert latest["response"] == {"status": 500, "body": "no"} and first["response"] is None
    assert latest["request"] == {"url": URL, "headers": {"webhook-id": row.pk}, "body": '{"event":"message.sent"}'}
    again = call("POST", path + "/replay")
    assert again.status_code == 202
    assert (again.json()["id"], again.json()["status"], again.json()["attempts"]) == (row.pk, "pending", 0)


def test_deliveries_are_filtered() -> None:
    endpoint_id = made()
    delivered(endpoint_id, 2, status="failed")
    delivered(endpoint_id, 1, event="auth.failed")
    deliveries.send_test(WebhookEndpoint.objects.get())
    path = f"/{endpoint_id}/deliveries"
    queries = ("", "status=failed", "status=delivered", "event=auth.failed", "event=webhook.test")
    totals = [call("GET", f"{path}?{query}").json()["total"] for query in (*queries, "status=failed&event=auth.failed")]
    assert totals == [4, 2, 0, 1, 1, 0]
    assert call("GET", f"{path}?status=lost").status_code == 400
    assert call("GET", f"{path}?event=lost").json()["errors"][0]["field"] == "event"


def test_replay_and_test_need_an_endpoint_that_is_on_and_a_delivery_in_nobodys_hands() -> None:
    endpoint_id = made()
    [row] = delivered(endpoint_id, lease="worker", next_attempt_at=timezone.now() + dt.timedelta(minutes=1))
    path = f"/{endpoint_id}/deliveries/{row.pk}/replay"
    assert call("POST", path).status_code == 409
    call("PATCH", f"/{endpoint_id}", {"is_active": False})
    WebhookDelivery.objects.update(lease="")
    assert call("POST", path).status_code == call("POST", f"/{endpoint_id}/test").status_code == 409


@pytest.mark.parametrize(
    ("method", "tail"),
    [
        ("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/rotate-secret"), ("POST", "/test"),
        ("GET", "/deliveries"), ("GET", "/deliveries/{row}"), ("POST", "/deliveries/{row}/replay"),
    ],
)  # fmt: skip
def test_another_tenants_is_not_there_and_a_members_is_forbidden(method: str, tail: str) -> None:
    endpoint_id = made()
    [row] = delivered(endpoint_id)
    path = f"/{endpoint_id}{tail.format(row=row.pk)}"
    body: dict[str, Any] | None = {} if method in ("POST", "PATCH") else None
    statuses = {user: call(method, path, body, user).status_code for user in ("eve", "max", "", "root", "ada")}
    assert (statuses["eve"], statuses["max"], statuses[""]) == (404, 403, 401)
    assert statuses["root"] < 300
    if method != "DELETE":
        assert statuses["ada"] < 300


def test_a_delivery_is_reached_through_its_own_endpoint_alone() -> None:
    mine, theirs = made(), made("eve")
    [row] = delivered(mine)
    assert call("GET", f"/{theirs}/deliveries/{row.pk}", user="eve").status_code == 404


def test_endpoints_of_the_whole_system_are_staffs(cast: dict[str, User]) -> None:
    system = made("root")
    for_ours = made("root", organization_id=cast["ada"].organization_id)
    assert call("GET", f"/{system}").status_code == 404
    assert [item["id"] for item in call("GET").json()["items"]] == [for_ours]
    assert call("GET", user="root").json()["total"] == 2
    assert call("GET", user="max").status_code == 403
    assert call("POST", "", {"url": URL}, "max").status_code == 403
    for wanted in (None, cast["eve"].organization_id):
        refused = call("POST", "", {"url": URL, "organization_id": wanted})
        assert refused.status_code == 400 and refused.json()["errors"][0]["field"] == "organization_id"
    assert call("POST", "", {"url": URL, "organization_id": 10**30}, "root").status_code == 400


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "url"),
        ({"url": ""}, "url"),
        ({"url": None}, "url"),
        ({"url": "x" * 3000}, "url"),
        ({"url": ["https://example.com"]}, "url"),
        ({"url": "http://127.0.0.1/"}, "url"),
        ({"url": "http://2130706433/"}, "url"),
        ({"url": "http://[::ffff:10.0.0.1]/"}, "url"),
        ({"url": "https://user:pw@example.com/"}, "url"),
        ({"url": "ftp://example.com/"}, "url"),
        ({"url": "https://example.com/\ud800"}, "url"),
        ({"url": URL, "events": []}, "events"),
        ({"url": URL, "events": "message.sent"}, "events"),
        ({"url": URL, "events": ["message.lost"]}, "events.0"),
        ({"url": URL, "events": ["message.sent"] * 100}, "events"),
        ({"url": URL, "description": "x" * 201}, "description"),
        ({"url": URL, "description": "a\0b"}, "description"),
        ({"url": URL, "description": 5}, "description"),
        ({"url": 5}, "url"),
        ({"url": URL, "is_active": "perhaps"}, "is_active"),
        ({"url": URL, "organization_id": "one"}, "organization_id"),
    ],
)
def test_a_wrong_body_is_refused_by_field_and_makes_nothing(body: dict[str, Any], field: str) -> None:
    answer = call("POST", "", body)
    assert answer.status_code == 400, answer.content
    assert field in {error["field"] for error in answer.json()["errors"]}, answer.content
    assert not WebhookEndpoint.objects.exists()


@pytest.mark.parametrize("body", ["", "[]", "{", '"x"', "1"])
def test_what_is_no_object_is_refused(body: str) -> None:
    assert call("POST", "", body).status_code == 400


@pytest.mark.parametrize("tail", ["/x", "/1", "/00000000-0000-0000-0000-000000000000", "/%00", "/" + "a" * 500])
def test_an_id_that_there_is_not_is_a_404(tail: str) -> None:
    assert call("GET", tail).status_code == 404
    assert call("GET", f"/{made()}/deliveries{tail}").status_code == 404


def test_an_organization_has_so_many_and_the_next_is_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "MAX_ENDPOINTS", 1)
    made()
    assert call("POST", "", {"url": URL}).status_code == 409


def test_the_environments_endpoint_is_changed_there(settings: Any) -> None:
    settings.SMTP_WEBHOOK_URL = URL
    endpoints.follow_environment()
    path = f"/{WebhookEndpoint.objects.get().pk}"
    refused = call("PATCH", path, {"url": "https://example.net/"}, "root")
    assert refused.status_code == 400 and "SMTP_WEBHOOK_URL" in refused.json()["detail"]
    assert call("PATCH", path, {"is_active": False}, "root").status_code == 200
    assert call("DELETE", path, user="root").status_code == 409


def test_lists_cost_the_same_however_long_they_are(django_assert_max_num_queries: Any) -> None:
    endpoint_id = made()
    for _ in range(2):
        delivered(endpoint_id, 10)
        made()
        with django_assert_max_num_queries(6):
            call("GET")
        with django_assert_max_num_queries(7):
            call("GET", f"/{endpoint_id}/deliveries")


# --- the admin --------------------------------------------------------------------------------------------------------


@pytest.fixture
def browser(cast: dict[str, User]) -> Client:
    client = Client()
    client.force_login(cast["root"])
    return client


def act(browser: Client, model: str, action: str, *pks: str) -> Any:
    """Choose an action, look at its question, and confirm it."""
    data = {"action": action, "_selected_action": pks}
    page = f"/admin/accounts/{model}/"
    asked = browser.post(page, data)
    assert asked.status_code == 200 and "confirmed" in asked.content.decode()
    return browser.post(page, {**data, "confirmed": "yes"}, follow=True)


def test_the_admin_makes_an_endpoint_by_the_rules_of_the_api_and_shows_its_secret_once(browser: Client) -> None:
    page = "/admin/accounts/webhookendpoint/add/"
    assert browser.get(page).status_code == 200
    form = {"url": "http://10.0.0.1/", "events": ["message.sent"], "is_active": "on"}
    assert "not a public one" in browser.post(page, form).content.decode()
    saved = browser.post(page, {**form, "url": URL}, follow=True).content.decode()
    endpoint = WebhookEndpoint.objects.get()
    assert signature.spoken(endpoints.secrets_of(endpoint, timezone.now())[0]) in saved
    change = f"/admin/accounts/webhookendpoint/{endpoint.pk}/change/"
    shown = browser.get(change).content.decode()
    assert "whsec_" not in shown and "Deliveries" in shown
    browser.post(change, {**form, "url": URL, "description": "Ours", "events": ["auth.failed"]})
    endpoint.refresh_from_db()
    assert (endpoint.description, endpoint.events) == ("Ours", ["auth.failed"])


def test_the_admins_actions_on_endpoints(browser: Client) -> None:
    endpoint_id = made()
    act(browser, "webhookendpoint", "send_test", endpoint_id)
    assert WebhookDelivery.objects.count() == 1
    assert "whsec_" in act(browser, "webhookendpoint", "rotate", endpoint_id).content.decode()
    act(browser, "webhookendpoint", "switch_off", endpoint_id)
    assert not WebhookEndpoint.objects.get().is_active
    act(browser, "webhookendpoint", "switch_on", endpoint_id)
    assert WebhookEndpoint.objects.get().is_active


def test_the_admin_shows_a_deliverys_requests_and_sends_it_again(browser: Client) -> None:
    endpoint_id = made()
    [row] = delivered(endpoint_id, status="failed", next_attempt_at=None)
    WebhookAttempt.objects.create(
        delivery=row, started_at=timezone.now(), duration_ms=12, url=URL, request_headers={"webhook-id": row.pk},
        response_status=500, response_body="<script>alert(1)</script>", error="It answered 500.",
    )  # fmt: skip
    shown = browser.get(f"/admin/accounts/webhookdelivery/{row.pk}/change/").content.decode()
    assert "It answered 500." in shown and "&lt;script&gt;" in shown and "<script>alert" not in shown
    assert browser.get(f"/admin/accounts/webhookdelivery/?endpoint__id__exact={endpoint_id}").status_code == 200
    act(browser, "webhookdelivery", "replay", row.pk)
    assert WebhookDelivery.objects.get().status == "pending"


def test_the_admins_lists_cost_the_same_however_long_they_are(
    browser: Client, django_assert_max_num_queries: Any
) -> None:
    for _ in range(2):
        delivered(made(), 10)
        for model in ("webhookendpoint", "webhookdelivery"):
            with django_assert_max_num_queries(9):
                browser.get(f"/admin/accounts/{model}/")
