"""What one does with filed mail by the API: flags, folders, attachments, removal, `fetch`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from accounts.models import Organization, User
from mailflow.models import FiledMessage, Mailbox
from queue.tests.mail import accepted, client_of, file

pytestmark = pytest.mark.django_db

WITH_FILES = (
    'From: x@y.example\r\nSubject: files\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="b"\r\n'
)
FILES = (
    "--b\r\nContent-Type: text/plain\r\n\r\nbody\r\n"
    "--b\r\nContent-Type: image/png\r\nContent-ID: <logo>\r\nContent-Transfer-Encoding: base64\r\n\r\niVBORw==\r\n"
    "--b\r\nContent-Type: text/html\r\nContent-Disposition: attachment; filename*=utf-8''%C5%BElu%C5%A5.html\r\n\r\n"
    "<script>alert(1)</script>\r\n--b--\r\n"
)


@pytest.fixture(autouse=True)
def _storage(settings: Any, tmp_path: Path) -> None:
    settings.SMTP_STORAGE_TYPE, settings.SMTP_STORAGE_PATH = "maildir", tmp_path


@pytest.fixture
def bob(alice: User) -> User:
    return User.objects.create_user("bob", "bob@example.com", organization=alice.organization)


@pytest.fixture
def root(db: None) -> User:
    return User.objects.create_superuser("root", "root@example.net")


def call(user: User, method: str, path: str, body: Any = None) -> Any:
    text = json.dumps(body) if body is not None else ""
    return client_of(user).generic(method, path, text, content_type="application/json")


def filed_for(user: User, **given: Any) -> FiledMessage:
    return file(accepted(user.email, **given), user)


def inbox(user: User, query: str = "") -> list[str]:
    return [email["id"] for email in call(user, "GET", f"/emails?{query}").json()["emails"]]


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
def test_flags_are_changed_and_each_change_has_a_number(alice: User, prefix: str) -> None:
    filed = filed_for(alice)
    path = f"{prefix}/emails/{filed.message_id}"
    answer = call(alice, "PATCH", path, {"read": True, "flagged": True, "add_flags": ["work"]})
    assert answer.status_code == 200, answer.content
    assert answer.json()["read"] is True and set(answer.json()["flags"]) == {"\\Seen", "\\Flagged", "work"}
    before = FiledMessage.objects.get().modseq
    assert before > filed.modseq and Mailbox.objects.get(name="INBOX").highest_modseq == before
    call(alice, "PATCH", path, {"read": True})
    assert FiledMessage.objects.get().modseq == before, "nothing changed"
    call(alice, "PATCH", path, {"flags": ["\\answered"], "remove_flags": ["work"]})
    assert FiledMessage.objects.get().flags == ["\\Answered"]
    assert inbox(alice, "unread=true") == [filed.message_id] and inbox(alice, "flagged=true") == []


def test_a_list_is_narrowed_by_folder_state_and_text(alice: User) -> None:
    one, two = filed_for(alice, subject="Invoice 17"), filed_for(alice, subject="Other")
    call(alice, "PATCH", f"/emails/{two.message_id}", {"read": True, "folder": "Junk"})
    assert inbox(alice, "folder=Junk") == [two.message_id] == inbox(alice, "unread=false")
    assert inbox(alice, "q=invoice") == [one.message_id] and inbox(alice, "folder=INBOX&q=other") == []


def test_a_moved_message_has_a_new_uid_and_its_file_lies_in_the_new_folder(alice: User, tmp_path: Path) -> None:
    filed = filed_for(alice)
    octets = call(alice, "GET", f"/emails/{filed.message_id}/raw").content
    answer = call(alice, "PATCH", f"/emails/{filed.message_id}", {"folder": "Trash"})
    assert answer.json()["folder"] == "Trash" and answer.json()["uid"] == 1
    assert call(alice, "GET", f"/emails/{filed.message_id}/raw").content == octets
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "maildirfolder"]
    assert len(files) == 1 and ".Trash" in str(files[0])


def test_deleting_moves_to_trash_and_from_there_for_good(alice: User, tmp_path: Path) -> None:
    filed = filed_for(alice)
    alice.refresh_from_db()
    assert alice.used_octets == filed.size_octets
    path = f"/emails/{filed.message_id}"
    assert call(alice, "DELETE", path).status_code == 204
    assert call(alice, "GET", path).json()["folder"] == "Trash"
    assert call(alice, "DELETE", path).status_code == 204
    assert call(alice, "GET", path).status_code == 404
    alice.refresh_from_db()
    assert alice.used_octets == 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "maildirfolder"]


def test_what_is_to_go_for_good_goes_at_once(alice: User) -> None:
    filed = filed_for(alice)
    assert call(alice, "DELETE", f"/emails/{filed.message_id}?permanent=true").status_code == 204
    assert not FiledMessage.objects.exists()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"folder": "Nowhere"}, "folder"), ({"flags": ["\\Recent"]}, "flags"), ({"add_flags": ["a b"]}, "add_flags"),
        ({"read": "perhaps"}, "read"), ({"flags": "x" * 5}, "flags"),
        ({"flags": [1]}, "flags.0"), ({"add_flags": ["x", 5]}, "add_flags.1"), ({"folder": 5}, "folder"),
        ({"add_flags": [f"f{n}" for n in range(51)]}, "flags"),
    ],
)  # fmt: skip
def test_a_wrong_change_is_refused_naming_the_field(alice: User, body: Any, field: str) -> None:
    filed = filed_for(alice)
    answer = call(alice, "PATCH", f"/emails/{filed.message_id}", body)
    assert answer.status_code == 400 and answer.json()["errors"][0]["field"].startswith(field), answer.content
    assert FiledMessage.objects.get().flags == []


def test_attachments_are_listed_and_come_as_downloads(alice: User) -> None:
    filed = filed_for(alice, header_section=WITH_FILES, text=FILES)
    path = f"/emails/{filed.message_id}"
    listed = call(alice, "GET", path).json()["attachments"]
    assert [(one["index"], one["filename"], one["content_type"], one["size_bytes"]) for one in listed] == [
        (0, "", "image/png", 4), (1, "žluť.html", "text/html", 25),
    ]  # fmt: skip
    answer = call(alice, "GET", f"{path}/attachments/1")
    assert answer.content == b"<script>alert(1)</script>" and answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Content-Disposition"].startswith("attachment;") and "sandbox" in answer["Content-Security-Policy"]
    assert call(alice, "GET", f"{path}/attachments/0").content == b"\x89PNG"
    assert call(alice, "GET", f"{path}/attachments/2").status_code == 404


def test_nobody_elses_mail_is_changed(alice: User, bob: User, root: User) -> None:
    stranger = User.objects.create_user("m", "m@other.test", organization=Organization.objects.create(name="Other"))
    filed = filed_for(alice)
    for user in (bob, stranger):
        for method, path, body in (
            ("PATCH", "", {"read": True}), ("DELETE", "", None), ("GET", "/raw", None), ("GET", "/attachments/0", None),
        ):  # fmt: skip
            assert call(user, method, f"/emails/{filed.message_id}{path}", body).status_code == 404
    assert call(bob, "PATCH", f"/emails/{filed.message_id}?user=alice", {"read": True}).status_code == 403
    assert call(root, "PATCH", f"/emails/{filed.message_id}?user=alice", {"read": True}).status_code == 200


def test_staff_say_whose_copy_they_mean(alice: User, bob: User, root: User) -> None:
    message = accepted(alice.email, bob.email)
    for user in (alice, bob):
        file(message, user)
    assert call(root, "PATCH", f"/emails/{message.pk}", {"read": True}).status_code == 400
    assert call(root, "PATCH", f"/emails/{message.pk}?user=bob", {"read": True}).status_code == 200
    assert FiledMessage.objects.get(mailbox__user=alice).flags == []


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
def test_folders_are_listed_with_what_is_in_them(alice: User, prefix: str) -> None:
    filed = filed_for(alice)
    found = call(alice, "GET", f"{prefix}/folders").json()
    assert [one["name"] for one in found["items"]] == ["INBOX", "Sent", "Drafts", "Junk", "Trash"]
    assert (found["total"], found["page"], found["total_pages"]) == (5, 1, 1)
    part = call(alice, "GET", f"{prefix}/folders?page=2&page_size=2").json()
    assert ([one["name"] for one in part["items"]], part["total_pages"]) == (["Drafts", "Junk"], 3)
    assert found["items"][0] == {
        "name": "INBOX", "role": "inbox", "messages": 1, "unread": 1, "size_bytes": filed.size_octets,
    }  # fmt: skip
    call(alice, "PATCH", f"/emails/{filed.message_id}", {"read": True})
    assert call(alice, "GET", "/folders/INBOX").json()["unread"] == 0


def test_the_name_of_a_folder_is_a_text(alice: User) -> None:
    answer = call(alice, "POST", "/folders", {"name": 5})
    assert answer.status_code == 400 and answer.json()["detail"] == "name: Not a valid string."


def test_a_folder_is_made_renamed_with_those_below_and_removed_when_empty(alice: User) -> None:
    for name in ("Work", "Work/2026", "Žluťoučký"):
        assert call(alice, "POST", "/folders", {"name": name}).status_code == 201
    filed = filed_for(alice)
    call(alice, "PATCH", f"/emails/{filed.message_id}", {"folder": "Work/2026"})
    assert call(alice, "PATCH", "/folders/Work", {"name": "Office"}).json()["name"] == "Office"
    assert call(alice, "GET", "/folders/Office/2026").json()["messages"] == 1
    assert call(alice, "DELETE", "/folders/Office").status_code == 400, "there is one below it"
    assert call(alice, "DELETE", "/folders/Office/2026").status_code == 400, "it is not empty"
    call(alice, "DELETE", f"/emails/{filed.message_id}?permanent=1")
    for name in ("Office/2026", "Office", quote("Žluťoučký")):
        assert call(alice, "DELETE", f"/folders/{name}").status_code == 204
    assert call(alice, "GET", "/folders/Office").status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "", {"name": "INBOX"}, 409), ("POST", "", {"name": "inbox"}, 400), ("POST", "", {"name": "a*"}, 400),
        ("POST", "", {"name": "/a"}, 400), ("POST", "", {"name": ""}, 400), ("POST", "", {"name": "x" * 256}, 400),
        ("POST", "", {"name": "a\x00"}, 400), ("POST", "", {}, 400), ("PATCH", "/Trash", {"name": "Bin"}, 400),
        ("DELETE", "/INBOX", None, 400), ("DELETE", "/Nowhere", None, 404), ("PATCH", "/Nowhere", {"name": "x"}, 404),
        ("GET", "/Nowhere", None, 404),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_folder_is_said(alice: User, method: str, path: str, body: Any, status: int) -> None:
    answer = call(alice, method, f"/folders{path}", body)
    assert answer.status_code == status, answer.content
    assert answer.json()["detail"]


# --- fetch ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/fetch", "/api/v1/fetch", "/fetch/"])
def test_fetch_tells_what_came_since_the_last_time(alice: User, path: str) -> None:
    filed = filed_for(alice, subject="New")
    answer = call(alice, "POST", path)
    assert answer.status_code == 200, answer.content
    body = answer.json()
    assert (body["status"], body["emails_fetched"], body["emails"][0]["id"]) == ("success", 1, filed.message_id)
    assert call(alice, "POST", path, {}).json()["emails_fetched"] == 0
    filed_for(alice)
    assert call(alice, "POST", path, {"user_id": alice.pk}).json()["emails_fetched"] == 1


def test_fetch_answers_in_czech_for_whom_asks_so(alice: User) -> None:
    answer = client_of(alice).post("/fetch", headers={"Accept-Language": "cs"})
    assert answer.json()["message"] == "E-maily úspěšně staženy"


def test_fetch_is_about_ones_own_mail_and_for_staff_about_all_or_one_users(alice: User, bob: User, root: User) -> None:
    filed_for(alice)
    filed_for(bob)
    assert call(bob, "POST", "/fetch", {"user_id": "alice"}).status_code == 403
    assert call(root, "POST", "/fetch").json()["emails_fetched"] == 2
    assert call(root, "POST", "/fetch", {"user_id": "alice"}).json()["emails_fetched"] == 1
    assert call(root, "POST", "/fetch", {"user_id": "nobody"}).status_code == 404
    assert call(bob, "POST", "/fetch").json()["emails_fetched"] == 1


def test_lists_cost_the_same_however_long_they_are(alice: User, django_assert_max_num_queries: Any) -> None:
    for _ in range(10):
        filed_for(alice)
    client = client_of(alice)
    for method, path in (("get", "/emails"), ("get", "/folders"), ("post", "/fetch")):
        with django_assert_max_num_queries(14):
            assert getattr(client, method)(path).status_code == 200
