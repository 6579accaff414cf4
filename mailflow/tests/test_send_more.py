"""What `send` takes beyond the references' forms: files, raw messages, labels, schedules, templates, batches."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import timedelta
from email import message_from_bytes, policy
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import keys
from accounts.models import DailyUsage, Organization, User
from mailflow import content
from mailflow.handoff import MemoryHandoff
from mailflow.models import Event, MailTemplate, Message, Metadata, Tag

pytestmark = pytest.mark.django_db(transaction=True)

BODY = {"to": "user@example.com", "subject": "Hello", "text_body": "Hello"}
PNG = bytes(range(256))
RAW = (
    b"From: Alice <alice@example.com>\r\nTo: Bob <bob@example.org>, c@example.org\r\nCc: bob@example.org\r\n"
    b"Subject: raw\r\nMessage-ID: <own@example.com>\r\nDate: Thu, 26 Nov 2026 10:00:00 +0000\r\n\r\n"
    b"  As it is.  \r\n.\r\n\xc5\xbe\r\n"
)


@pytest.fixture(autouse=True)
def handed_over(memory_handoff: MemoryHandoff) -> MemoryHandoff:
    return memory_handoff


@pytest.fixture
def key(alice: User) -> str:
    return keys.create("test", alice, daily_limit=100)[1]


def post(key: str, body: Any, path: str = "/api/v1/send", **headers: str) -> Any:
    return Client().post(path, json.dumps(body), content_type="application/json", headers={"X-API-Key": key, **headers})


def encoded(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def fields_of(answer: Any) -> set[str]:
    return {error["field"] for error in answer.json()["errors"]}


def test_files_go_along_as_attachments_and_images_inside_the_html(key: str) -> None:
    body = {
        **BODY,
        "html_body": '<img src="cid:logo">',
        "attachments": [
            {"filename": "faktura č. 1.pdf", "content": encoded(b"%PDF-1.7")},
            {"filename": "logo.png", "content": encoded(PNG), "content_id": "logo"},
        ],
    }
    assert post(key, body).status_code == 202
    read = message_from_bytes(content.read(Message.objects.get().pk), policy=policy.default)
    pdf = next(iter(read.iter_attachments()))
    assert (pdf.get_filename(), pdf.get_content_type()) == ("faktura č. 1.pdf", "application/pdf")
    image = next(part for part in read.walk() if part["Content-ID"] == "<logo>")
    assert image.get_content_type() == "image/png" and image.get_content() == PNG


def test_a_form_brings_its_files_with_it(key: str) -> None:
    form = {
        "to": ["a@example.org", "b@example.org"],
        "subject": "Form",
        "html_body": '<img src="cid:logo.png">',
        "headers": json.dumps({"X-Priority": "1"}),
        "attachments": [SimpleUploadedFile("a.txt", b"one", "text/plain"), SimpleUploadedFile("b.bin", b"two")],
        "inline": SimpleUploadedFile("logo.png", PNG, "image/png"),
    }
    answer = Client().post("/send", form, headers={"X-API-Key": key})
    assert answer.status_code == 202, answer.content
    message = Message.objects.get()
    read = message_from_bytes(content.read(message.pk), policy=policy.default)
    assert message.recipients == ["a@example.org", "b@example.org"] and read["X-Priority"] == "1"
    assert [part.get_filename() for part in read.iter_attachments()] == ["a.txt", "b.bin"]
    assert next(part for part in read.walk() if part["Content-ID"]).get_content() == PNG


@pytest.mark.parametrize("name", ["metadata", "headers", "template_data"])
@pytest.mark.parametrize("text", ["{", "notjson", '{"a": NaN}', "[" * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_a_form_with_json_that_is_none_is_refused(key: str, name: str, text: str) -> None:
    answer = Client().post("/api/v1/send", {**BODY, name: text}, headers={"X-API-Key": key})
    assert answer.status_code == 422 and fields_of(answer) == {name}, answer.json()


@pytest.mark.parametrize("body", [b"garbage", b"", b"--other\r\n\r\nx"])
def test_a_form_that_is_none_is_refused_as_such(key: str, body: bytes) -> None:
    kind = "multipart/form-data; boundary=x"
    answer = Client().generic("POST", "/api/v1/send", body, content_type=kind, headers={"X-API-Key": key})
    assert answer.status_code == 422, answer.content
    if body:
        assert "The form cannot be read" in answer.json()["detail"]


def test_tags_and_metadata_are_kept_for_the_sender(key: str) -> None:
    answer = post(key, {**BODY, "tags": ["invoice", "invoice", "eu"], "metadata": {"order": 17, "vip": True}})
    message_id = answer.json()["email_id"]
    assert set(Tag.objects.values_list("tag", "message_id")) == {("invoice", message_id), ("eu", message_id)}
    assert Metadata.objects.get(pk=message_id).data == {"order": 17, "vip": True}


def test_what_has_no_labels_writes_no_rows_for_them(key: str) -> None:
    assert post(key, BODY).status_code == 202
    assert not Tag.objects.exists() and not Metadata.objects.exists()


@pytest.mark.parametrize("zone", ["+01:00", "Z", ""])
def test_a_time_to_send_at_is_handed_over_and_answered_in_utc(key: str, handed_over: MemoryHandoff, zone: str) -> None:
    at = (timezone.now() + timedelta(days=30)).replace(hour=18, minute=0, second=0, microsecond=0)
    meant = at - timedelta(hours=zone == "+01:00")
    for _ in range(2):  # the second answer is that of a repeated request
        answer = post(key, {**BODY, "scheduled_at": f"{at:%Y-%m-%dT%H:%M:%S}{zone}"}, **{"Idempotency-Key": "one"})
        assert answer.status_code == 202 and answer.json()["scheduled_at"] == f"{meant:%Y-%m-%dT%H:%M:%SZ}"
    assert [accepted.scheduled_at for accepted in handed_over.accepted] == [meant]


@pytest.mark.parametrize(
    ("days", "form", "words"),
    [
        (2, "%Y-%m-%d", "A day alone is no time"), (2, "%Y%m%d", "A day alone is no time"),
        (91, "%Y-%m-%dT%H:%MZ", "At most 90 days ahead"), (-1, "%Y-%m-%dT%H:%MZ", "past"),
        (2, "soon", "A time such as"),
    ],
)  # fmt: skip
def test_what_is_no_time_to_send_at_is_refused_in_words(key: str, days: int, form: str, words: str) -> None:
    answer = post(key, {**BODY, "scheduled_at": f"{timezone.now() + timedelta(days=days):{form}}"})
    assert answer.status_code == 422 and fields_of(answer) == {"scheduled_at"}
    assert words in answer.json()["detail"]


# --- raw messages -----------------------------------------------------------------------------------------------------


def test_a_raw_message_goes_as_it_is_to_those_whom_it_names(key: str) -> None:
    assert post(key, {"raw": encoded(RAW)}).status_code == 202
    message = Message.objects.get()
    assert content.read(message.pk).endswith(RAW)
    assert (message.reverse_path, message.recipients) == ("alice@example.com", ["bob@example.org", "c@example.org"])
    assert (message.internet_message_id, message.body_type) == ("<own@example.com>", "8BITMIME")


def test_whom_it_goes_to_may_be_said_beside_it(key: str) -> None:
    body = {"raw": encoded(RAW), "to": "x@example.org", "bcc": "y@example.org", "sender": "bounces@example.com"}
    assert post(key, body).status_code == 202
    message = Message.objects.get()
    assert (message.reverse_path, message.recipients) == ("bounces@example.com", ["x@example.org", "y@example.org"])


def test_a_bare_message_is_a_body_too(key: str) -> None:
    answer = Client().post(
        "/api/v1/send?to=x@example.org", RAW, content_type="message/rfc822", headers={"X-API-Key": key}
    )
    assert answer.status_code == 202, answer.content
    assert Message.objects.get().recipients == ["x@example.org"]


def test_line_ends_of_other_systems_are_made_those_of_mail(key: str) -> None:
    assert post(key, {"raw": encoded(RAW.replace(b"\r\n", b"\n"))}).status_code == 202
    assert content.read(Message.objects.get().pk).endswith(RAW)


def test_mixed_line_ends_are_mended_where_the_listener_mends_them(key: str, settings: Any) -> None:
    settings.SMTP_BARE_LINE_ENDS = "normalise"
    assert post(key, {"raw": encoded(RAW + b"a\nb\rc\r\n")}).status_code == 202
    assert content.read(Message.objects.get().pk).endswith(RAW + b"a\r\nb\r\nc\r\n")


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (RAW.replace(b"alice@example.com", b"root@other.test"), "raw"),
        (RAW.replace(b"From: ", b"From: root@other.test, "), "raw"),
        (RAW.replace(b"From: ", b"Sender: root@other.test\r\nFrom: "), "raw"),
        (RAW.replace(b"Cc:", b"Bcc:"), "raw"), (RAW.replace(b"From:", b"X-From:"), "raw"),
        (RAW.replace(b"From: ", b"From: a@example.com\r\nFrom: "), "raw"),
        (RAW.replace(b"bob@example.org", b"bob"), "to"),
        (RAW.replace(b"To:", b"X-To:").replace(b"Cc:", b"X-Cc:"), "to"), (b"", "raw"),
        (b"X: " + b"y" * (256 << 10) + b"\r\n" + RAW, "raw"), (RAW + b"a\nb", "raw"),
        (RAW + b"a\rb\r\n", "raw"), (b"Received: x\r\n" * 200 + RAW, "raw"),
    ],
)  # fmt: skip
def test_a_raw_message_that_cannot_be_sent_is_refused_with_the_reason(key: str, raw: bytes, field: str) -> None:
    answer = post(key, {"raw": encoded(raw)})
    assert answer.status_code == 422, answer.content
    assert fields_of(answer) == {field}
    assert not Message.objects.exists() and not DailyUsage.objects.exists()


def test_in_a_batch_too_the_content_that_is_refused_is_the_raw_message(key: str) -> None:
    [result] = post(key, {"messages": [{"raw": encoded(RAW + b"a\rb")}]}, "/api/v1/send/batch").json()["results"]
    assert [error["field"] for error in result["errors"]] == ["raw"]


# --- templates --------------------------------------------------------------------------------------------------------


@pytest.fixture
def template(alice: User) -> MailTemplate:
    assert alice.organization is not None
    return MailTemplate.objects.create(
        organization=alice.organization, name="welcome", subject="Hi {{ name }}", text_body="Dear {{ name }}",
        html_body="<p>{{ name }}</p>",
    )  # fmt: skip


def test_a_template_is_filled_in_by_its_name_or_its_id(key: str, template: MailTemplate) -> None:
    for named in ("welcome", str(template.pk), template.pk):
        body = {"to": "user@example.com", "template": named, "template_data": {"name": "Tom & <Jerry>"}}
        assert post(key, body).status_code == 202
    read = message_from_bytes(content.read(Message.objects.order_by("-pk")[0].pk), policy=policy.default)
    assert read["Subject"] == "Hi Tom & <Jerry>"
    bodies = [part.get_content().strip() for part in read.iter_parts()]
    assert bodies == ["Dear Tom & <Jerry>", "<p>Tom &amp; &lt;Jerry&gt;</p>"]


def test_another_organizations_template_does_not_exist(key: str, template: MailTemplate) -> None:
    MailTemplate.objects.update(organization=Organization.objects.create(name="Other"))
    for named in ("welcome", str(template.pk), template.pk, -1, 10**30):
        assert fields_of(post(key, {"to": "user@example.com", "template": named})) == {"template"}


# --- batches ----------------------------------------------------------------------------------------------------------


def batch(key: str, messages: Sequence[Any], **headers: str) -> Any:
    return post(key, {"messages": messages}, "/api/v1/send/batch", **headers)


def test_a_batch_has_one_result_for_each_message_in_order(key: str) -> None:
    answer = batch(key, [BODY, {**BODY, "to": "nobody"}, {"x": 1}, {**BODY, "subject": "last"}, 5])
    assert answer.status_code == 202
    found = answer.json()
    assert (found["status"], found["queued"], found["refused"]) == ("partly queued", 2, 3)
    assert [result["status"] for result in found["results"]] == ["queued", "refused", "refused", "queued", "refused"]
    assert found["results"][1]["errors"][0]["field"] == "to" and found["results"][1]["code"] == "VALIDATION_ERROR"
    assert Message.objects.get(pk=found["results"][3]["email_id"]).subject == "last"
    assert answer["X-RateLimit-Remaining"] == "98"


def test_500_messages_take_few_commits_and_one_more_is_too_many(alice: User) -> None:
    key = keys.create("many", alice, daily_limit=1000)[1]
    with CaptureQueriesContext(connection) as queries:
        answer = batch(key, [{**BODY, "to": f"u{number}@example.org"} for number in range(500)])
    assert answer.json()["queued"] == 500 == Message.objects.count() == DailyUsage.objects.get().count
    assert len(queries) < 10
    assert fields_of(batch(key, [BODY] * 501)) == {"messages"}


@pytest.mark.parametrize("messages", [[], {}, "x", None])
def test_a_batch_of_nothing_is_refused(key: str, messages: Any) -> None:
    assert fields_of(batch(key, messages)) == {"messages"}


def test_of_a_batch_beyond_the_limit_exactly_what_is_left_is_sent(alice: User) -> None:
    key = keys.create("few", alice, daily_limit=3)[1]
    found = batch(key, [BODY] * 5).json()
    assert (found["queued"], found["refused"]) == (3, 2) and Message.objects.count() == 3
    assert {result["code"] for result in found["results"] if result["status"] == "refused"} == {"RATE_LIMITED"}
    answer = batch(key, [BODY] * 2)
    assert answer.status_code == 429 and 0 < int(answer["Retry-After"]) <= 86_400
    assert answer["Content-Type"] == "application/problem+json" and answer.json()["code"] == "RATE_LIMITED"
    assert (answer.json()["refused"], len(answer.json()["results"])) == (2, 2)
    answer = batch(key, [{"to": "x"}, BODY])
    assert answer.status_code == 422 and answer.json().keys() >= {"error", "detail", "code", "results"}
    assert "Retry-After" not in answer


def test_a_refused_request_leaves_an_event(key: str) -> None:
    post(key, {**BODY, "template": "none"})
    assert Event.objects.filter(kind="refused", summary__startswith="Refused at send").exists()
