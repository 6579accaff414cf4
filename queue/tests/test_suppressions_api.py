"""`suppressions` over HTTP: who sees and changes what, the list's conditions, CSV in and out."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.http import StreamingHttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import Organization, TrailEntry, User
from queue.models import Suppression
from queue.tests.mail import client_of

PATH = "/api/v1/suppressions"


@pytest.fixture
def alice(alice: User) -> User:
    """An administrator of her organization."""
    alice.is_organization_admin = True
    alice.save()
    return alice


@pytest.fixture
def root(db: None) -> User:
    return User.objects.create_superuser("root", "root@example.net")


@pytest.fixture
def other(db: None) -> Suppression:
    """A row of another tenant."""
    organization = Organization.objects.create(name="Other")
    return Suppression.objects.create(address="theirs@x.example", organization=organization)


def send(client: Client, method: str, path: str, body: Any = None) -> Any:
    return client.generic(method, path, json.dumps(body) if body is not None else "", content_type="application/json")


def add(user: User, **body: Any) -> Any:
    return send(client_of(user), "POST", PATH, body)


def listed(user: User, query: str = "") -> list[str]:
    return [item["address"] for item in client_of(user).get(f"{PATH}?{query}").json()["items"]]


def test_an_address_is_entered_seen_changed_and_removed(alice: User) -> None:
    answer = add(alice, address="Bob@X.Example", words="asked by phone")
    assert answer.status_code == 201
    item = answer.json()
    assert item["address"] == "bob@x.example" and item["scope"] == "organization" and item["is_active"] is True
    assert item["organization_id"] == alice.organization_id and item["created_by"] == "alice"
    assert (item["reason"], item["hits"], item["last_hit_at"], item["source_message_id"]) == ("manual", 0, None, None)
    client, path = client_of(alice), f"{PATH}/{item['id']}"
    assert client.get(path).json() == item
    until = "2027-01-31T12:00:00Z"
    changed = send(client, "PATCH", path, {"reason": "unsubscribe", "expires_at": until}).json()
    assert (changed["reason"], changed["expires_at"], changed["words"]) == ("unsubscribe", until, "asked by phone")
    assert send(client, "DELETE", path + "/").status_code == 204
    assert client.get(path).status_code == 404
    assert [line.kind for line in TrailEntry.objects.order_by("id")] == [
        "suppression.added", "suppression.changed", "suppression.removed",
    ]  # fmt: skip


def test_an_address_that_is_on_the_list_is_a_conflict_until_it_has_expired(alice: User) -> None:
    add(alice, address="bob@x.example")
    answer = add(alice, address="BOB@x.example")
    row = Suppression.objects.get()
    assert answer.status_code == 409 and str(row.pk) in answer.json()["detail"]
    assert add(alice, address="bob@x.example", sending_domain="News.example").json()["scope"] == "domain"
    Suppression.objects.update(expires_at=timezone.now())
    assert add(alice, address="bob@x.example").status_code == 201


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "address"),
        ({"address": "bob"}, "address"),
        ({"address": "a\0@x.example"}, "address"),
        ({"address": "bob@x.example", "reason": "because"}, "reason"),
        ({"address": "bob@x.example", "sending_domain": "ne ws"}, "sending_domain"),
        ({"address": "bob@x.example", "expires_at": "soon"}, "expires_at"),
        ({"address": "bob@x.example", "organization_id": 999}, "organization_id"),
        ({"address": "bob@x.example", "organization_id": None}, "organization_id"),
        ({"address": "bob@x.example", "hits": 7}, "hits"),
        ({"address": "bob@x.example", "words": 7}, "words"),
    ],
)
def test_a_wrong_field_is_named(alice: User, body: dict[str, Any], field: str) -> None:
    answer = add(alice, **body)
    assert answer.status_code == 400
    assert {error["field"] for error in answer.json()["errors"]} == {field}
    assert not Suppression.objects.exists()


def test_a_field_that_stays_cannot_be_changed(alice: User) -> None:
    item = add(alice, address="bob@x.example").json()
    answer = send(client_of(alice), "PATCH", f"{PATH}/{item['id']}", {"address": "carol@x.example"})
    assert answer.status_code == 400 and answer.json()["errors"][0]["field"] == "address"


def test_another_tenants_row_is_as_if_it_were_not_there(alice: User, other: Suppression) -> None:
    client = client_of(alice)
    everybodys = Suppression.objects.create(address="all@x.example")
    assert listed(alice) == []
    for pk in (other.pk, everybodys.pk, "nonsense", 2**64):
        for method in ("GET", "PATCH", "DELETE"):
            assert send(client, method, f"{PATH}/{pk}", {}).status_code == 404, (pk, method)
    assert listed(alice, f"organization_id={other.organization_id}") == []
    assert b"theirs" not in exported(client.get(f"{PATH}/export"))


def test_members_look_and_administrators_change(alice: User) -> None:
    item = add(alice, address="bob@x.example").json()
    member = User.objects.create_user("mem", "mem@example.com", "x", organization=alice.organization)
    assert listed(member) == ["bob@x.example"]
    client = client_of(member)
    assert add(member, address="carol@x.example").status_code == 403
    assert send(client, "DELETE", f"{PATH}/{item['id']}").status_code == 403
    assert client.post(f"{PATH}/import", "x@x.example", content_type="text/csv").status_code == 403
    outsider = User.objects.create_user("out", "out@example.net", "x", is_organization_admin=True)
    assert listed(outsider) == [] and add(outsider, address="a@x.example").status_code == 403
    assert Client().get(PATH).status_code == 401


def test_staff_see_all_and_enter_for_everybody_or_any_organization(root: User, other: Suppression) -> None:
    assert add(root, address="bob@x.example").json()["scope"] == "system"
    assert add(root, address="bob@x.example", organization_id=other.organization_id).json()["scope"] == "organization"
    assert add(root, address="bob@x.example").status_code == 409
    assert sorted(listed(root)) == ["bob@x.example", "bob@x.example", "theirs@x.example"]
    answer = add(root, address="carol@x.example", sending_domain="news.example")
    assert answer.status_code == 400 and answer.json()["errors"][0]["field"] == "sending_domain"


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("address=BOB@x.example", ["bob@x.example"]),
        ("q=Y.EXAMPLE", ["carol@y.example"]),
        ("reason=complaint", ["carol@y.example"]),
        ("state=active", ["bob@x.example"]),
        ("state=expired", ["carol@y.example"]),
        ("sending_domain=news.example", ["carol@y.example"]),
        ("source_message_id=msg_1", ["bob@x.example"]),
        ("q=nobody", []),
    ],
)
def test_the_list_is_narrowed(alice: User, query: str, found: list[str]) -> None:
    own = {"organization": alice.organization}
    Suppression.objects.create(address="bob@x.example", source_message_id="msg_1", **own)
    Suppression.objects.create(
        address="carol@y.example", reason="complaint", sending_domain="news.example",
        expires_at=timezone.now() - dt.timedelta(hours=1), **own,
    )  # fmt: skip
    assert listed(alice, query) == found


def test_a_condition_without_sense_is_named(alice: User) -> None:
    answer = client_of(alice).get(f"{PATH}?state=odd")
    assert answer.status_code == 400 and answer.json()["errors"][0]["field"] == "state"


def test_the_list_is_in_r3s_envelope_and_costs_the_same_however_long_it_is(alice: User) -> None:
    client = client_of(alice)

    def queries(count: int) -> int:
        with CaptureQueriesContext(connection) as asked:
            body = client.get(f"{PATH}?page_size=50").json()
        assert (len(body["items"]), body["total"], body["page"], body["total_pages"]) == (count, count, 1, 1)
        return len(asked)

    Suppression.objects.create(address="a@x.example", organization=alice.organization)
    first = queries(1)
    Suppression.objects.bulk_create(
        [Suppression(address=f"u{number}@x.example", organization=alice.organization) for number in range(29)]
    )
    assert queries(30) == first


# --- CSV --------------------------------------------------------------------------------------------------------------


def exported(answer: Any) -> bytes:
    assert isinstance(answer, StreamingHttpResponse) and answer["Content-Type"] == "text/csv; charset=utf-8"
    return b"".join(answer)


def load(user: User, text: str, query: str = "") -> Any:
    return client_of(user).post(f"{PATH}/import?{query}", text, content_type="text/csv")


def test_a_file_is_imported_and_what_is_exported_can_be_imported_again(alice: User) -> None:
    answer = load(alice, "address,reason\nbob@x.example,complaint\ncarol@x.example,\n")
    assert answer.status_code == 200
    assert answer.json() == {
        "dry_run": False, "added": 2, "updated": 0, "unchanged": 0, "repeated": 0, "problem_count": 0, "problems": [],
    }  # fmt: skip
    answer = client_of(alice).get(f"{PATH}/export?reason=complaint")
    assert answer["Content-Disposition"].startswith('attachment; filename="suppressions-')
    text = exported(answer).decode()
    assert "bob@x.example,complaint,Example" in text and "carol" not in text
    assert load(alice, text).json()["unchanged"] == 1


def test_a_file_may_come_by_a_form(alice: User) -> None:
    upload = SimpleUploadedFile("list.csv", b"bob@x.example\n", "text/csv")
    assert client_of(alice).post(f"{PATH}/import", {"file": upload}).json()["added"] == 1
    answer = client_of(alice).post(f"{PATH}/import", {"other": "x"})
    assert answer.status_code == 415 and "field `file`" in answer.json()["detail"]


def test_a_file_without_a_line_is_empty(alice: User) -> None:
    client, path = client_of(alice), f"{PATH}/import"
    bare = client.generic("POST", path, b"", CONTENT_TYPE="text/csv; charset=utf-8", CONTENT_LENGTH="0")
    for answer in (bare, client.post(path, {"file": SimpleUploadedFile("list.csv", b"", "text/csv")})):
        assert answer.status_code == 400 and answer.json()["detail"] == "file: The file is empty."


def test_a_file_with_errors_enters_nothing_unless_they_are_to_be_left_out(alice: User) -> None:
    text = "bob@x.example\nnonsense\n"
    answer = load(alice, text)
    assert answer.status_code == 400 and not Suppression.objects.exists()
    assert answer.json()["errors"] == [
        {"field": "line 2", "message": "'nonsense' is no address: the address has no @."}
    ]
    body = load(alice, text, "dry_run=true").json()
    assert (body["dry_run"], body["added"], body["problem_count"]) == (True, 1, 1)
    assert body["problems"][0]["line"] == 2 and not Suppression.objects.exists()
    assert load(alice, text, "skip_invalid=true").json()["added"] == 1
    assert load(alice, "a\0b").json()["errors"][0]["field"] == "file"
    assert load(alice, text, "dry_run=maybe").status_code == 400


def test_a_tenants_file_stays_in_the_tenants_list(alice: User, other: Suppression) -> None:
    load(alice, "address,organization\nbob@x.example,Other\n")
    assert Suppression.objects.get(address="bob@x.example").organization == alice.organization
    assert load(alice, "c@x.example\n", f"organization_id={other.organization_id}").status_code == 400


def test_a_file_may_be_larger_than_other_bodies_but_not_too_large(alice: User, settings: Any) -> None:
    settings.MAX_REQUEST_SIZE, settings.SUPPRESSION_IMPORT_SIZE = 1024, 5000
    text = "".join(f"u{number:03}@x.example\n" for number in range(200))
    assert 1024 < len(text) < 5000 and load(alice, text).json()["added"] == 200
    assert load(alice, text * 2).status_code == 413
    assert load(alice, text * 5).status_code == 413
    assert add(alice, address="bob@x.example", words="x" * 1100).status_code == 413
