"""`queue/actions` in the API, and `audit`, which tells of them."""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import TrailEntry, User
from mailflow.models import Event
from queue import actions
from queue.models import Entry, QueueAction
from queue.tests.mail import accepted

PATH = "/api/v1/queue/actions"


def acting(user: User) -> Client:
    """A client that acts with its password, as curl does: a session would need a CSRF token."""
    user.set_password("correct horse")
    user.save()
    words = base64.b64encode(f"{user.username}:correct horse".encode()).decode()
    return Client(headers={"Authorization": f"Basic {words}"})


@pytest.fixture
def root(db: None) -> Client:
    return acting(User.objects.create_superuser("root", "root@example.net"))


def post(client: Client, path: str = PATH, **body: Any) -> Any:
    return client.post(path, body, content_type="application/json")


def test_a_dry_run_tells_the_count_and_a_sample_and_changes_nothing(root: Client) -> None:
    accepted("a@x.example", "b@x.example", "c@y.example")
    answer = post(root, action="hold", filter={"domain": "x.example"}, dry_run=True)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["dry_run"], body["count"], body["is_count_exact"]) == (True, 2, True)
    assert body["description"] == "hold: domain x.example"
    assert {item["recipient"] for item in body["sample"]} == {"a@x.example", "b@x.example"}
    assert {item["sender"] for item in body["sample"]} == {"alice@example.com"}
    assert not QueueAction.objects.exists() and not Entry.objects.filter(Entry.IS_HELD).exists()


def test_a_small_action_is_done_when_the_answer_comes(root: Client) -> None:
    accepted("a@x.example", "b@x.example", "c@y.example")
    answer = post(root, action="hold", filter={"domain": "x.example"}, parameters={"reason": "test"})
    body = answer.json()
    assert (answer.status_code, body["status"], body["done"], body["left"]) == (200, "done", 2, {})
    assert (body["actor"], body["door"], body["message"]) == ("root", "api", "2 done.")
    assert set(Entry.objects.filter(Entry.IS_HELD).values_list("domain", flat=True)) == {"x.example"}
    assert set(Event.objects.filter(kind="held").values_list("actor", flat=True)) == {"root"}
    assert root.get(f"{PATH}/{body['id']}").json() == body
    assert root.get(PATH).json()["items"] == [body]


def test_what_is_left_alone_is_told_by_the_reason(root: Client) -> None:
    accepted("a@x.example", "b@x.example")
    Entry.objects.filter(recipient="a@x.example").update(
        lease="w", next_attempt_at=timezone.now() + dt.timedelta(hours=1)
    )
    body = post(root, action="delete", filter={"all": True}).json()
    assert (body["done"], body["left_alone"], body["left"]) == (1, 1, {"in_hands": 1})
    assert body["message"] == "1 done, 1 left alone (1 being delivered right now)."


def test_a_large_action_is_left_to_a_worker_and_can_be_stopped(root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    accepted("a@x.example", "b@x.example")
    monkeypatch.setattr(actions, "AT_ONCE", 1)
    answer = post(root, action="hold", filter={"all": True})
    assert (answer.status_code, answer.json()["status"], answer.json()["total"]) == (202, "waiting", None)
    place = answer.headers["Location"]
    assert place == f"{PATH}/{answer.json()['id']}"
    assert root.get(place).json()["status"] == "waiting"
    assert root.post(f"{place}/stop").status_code == 200
    taken = actions.take("worker")
    assert taken is not None
    actions.run(taken)
    assert root.get(place).json()["status"] == "stopped"
    assert root.post(f"{place}/stop").status_code == 409
    assert not Entry.objects.filter(Entry.IS_HELD).exists()


WRONG: list[tuple[dict[str, Any], set[str]]] = [
    ({}, {"action", "filter"}),
    ({"action": "fly", "filter": {"all": True}}, {"action"}),
    ({"action": "hold"}, {"filter"}),
    ({"action": "hold", "filter": {}}, {"filter"}),
    ({"action": "hold", "filter": "all"}, {"filter"}),
    ({"action": "hold", "filter": {"domian": "x"}}, {"filter.domian"}),
    ({"action": "hold", "filter": {"held": "x", "older_than": "y"}}, {"filter.held", "filter.older_than"}),
    ({"action": "hold", "filter": {"all": True}, "parameters": []}, {"parameters"}),
    ({"action": "hold", "filter": {"all": True}, "parameters": {"at": "2h"}}, {"parameters.at"}),
    ({"action": "retry", "filter": {"reply": ""}, "parameters": {"at": "x"}}, {"filter.reply", "parameters.at"}),
    ({"action": "reroute", "filter": {"all": True}}, {"parameters.route"}),
    ({"action": "hold", "filter": {"all": True}, "dry_run": "perhaps"}, {"dry_run"}),
]


@pytest.mark.parametrize(("body", "names"), WRONG, ids=[str(row[0]) for row in WRONG])
def test_a_wrong_action_is_refused_by_name(root: Client, body: dict[str, Any], names: set[str]) -> None:
    accepted("a@x.example")
    answer = post(root, **body)
    assert answer.status_code == 400
    assert {error["field"] for error in answer.json()["errors"]} == names
    assert not QueueAction.objects.exists()


def test_actions_and_the_trail_are_for_staff(alice: User, root: Client) -> None:
    accepted("a@x.example", by=alice)
    client = acting(alice)
    done = post(root, action="hold", filter={"all": True}).json()
    for path in (PATH, f"{PATH}/{done['id']}", "/api/v1/audit"):
        assert client.get(path).status_code == 403
        assert Client().get(path).status_code == 401
    assert post(client, action="delete", filter={"all": True}).status_code == 403
    assert client.post(f"{PATH}/{done['id']}/stop").status_code == 403
    assert post(Client(), action="delete", filter={"all": True}).status_code == 401
    assert Entry.objects.filter(Entry.IS_OPEN).exists()


def test_an_action_that_is_not_there_is_a_404(root: Client) -> None:
    for name in ("1", "x", "9" * 30, "1%00"):
        assert root.get(f"{PATH}/{name}").status_code == 404
        assert root.post(f"{PATH}/{name}/stop").status_code == 404


def test_the_lists_cost_the_same_with_one_and_with_thirty(
    root: Client, django_assert_max_num_queries: Callable[..., Any]
) -> None:
    accepted("a@x.example")
    for count in (1, 29):
        for _ in range(count):
            post(root, action="hold", filter={"all": True})
        for path in (PATH, "/api/v1/audit"):
            with django_assert_max_num_queries(4):
                assert len(root.get(f"{path}?page_size=50").json()["items"]) >= count


@pytest.fixture
def trail(db: None) -> None:
    lines = [("queue.hold", "root", "domain x.example"), ("queue.delete", "eve", "all"), ("auth.failed", "eve", "SMTP")]
    for kind, actor, subject in lines:
        TrailEntry.objects.create(
            kind=kind, actor=actor, subject=subject, detail="3 done. Reason: spam.", client_address="192.0.2.7"
        )
    TrailEntry.objects.filter(kind="queue.delete").update(created_at=timezone.now() - dt.timedelta(days=2))


@pytest.mark.parametrize(
    ("query", "kinds"),
    [
        ("", ["auth.failed", "queue.hold", "queue.delete"]),
        ("kind=queue.hold", ["queue.hold"]),
        ("kind=queue.", ["queue.hold", "queue.delete"]),
        ("actor=EVE", ["auth.failed", "queue.delete"]),
        ("subject=x.example", ["queue.hold"]),
        ("q=spam+done&kind=queue.", ["queue.hold", "queue.delete"]),
        ("client_address=192.0.2.8", []),
        ("until={yesterday}", ["queue.delete"]),
        ("since={yesterday}&actor=root", ["queue.hold"]),
        ("page=2&page_size=2", ["queue.delete"]),
    ],
)
def test_the_trail_is_filtered(root: Client, trail: None, query: str, kinds: list[str]) -> None:
    yesterday = (timezone.now() - dt.timedelta(days=1)).date().isoformat()
    body = root.get(f"/api/v1/audit?{query.format(yesterday=yesterday)}").json()
    assert [item["kind"] for item in body["items"]] == kinds


@pytest.mark.parametrize("query", ["since=soon", "until=2025-13-01", "page=0", "limit=x", "kind=a%00"])
def test_a_wrong_query_of_the_trail_is_refused(root: Client, query: str) -> None:
    assert root.get(f"/api/v1/audit?{query}").status_code == 400
