"""Paths, headers, errors and limits that every request meets."""

from __future__ import annotations

import http.client
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.conf import LazySettings
from django.contrib.staticfiles import finders
from django.test import Client, RequestFactory
from pytest_django.live_server_helper import LiveServer

from accounts import keys
from accounts.models import User
from mailflow.models import Message
from mailproj import errors
from mailproj.api.urls import RESOURCES, everywhere

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def test_every_path_is_there_with_a_slash_and_without() -> None:
    routes = {str(pattern.pattern) for pattern in everywhere()}
    bare = {route for route in routes if not route.endswith("/")}
    assert routes == bare | {f"{route}/" for route in bare}
    assert {f"api/v1/{resource.route}" for resource in RESOURCES} < bare
    assert {"send", "api/send", "health", "api/stats", "api/queue/<str:message_id>/retry", "messages", "emails"} < bare


@pytest.mark.django_db
def test_an_unknown_path_is_a_problem_for_programs_and_a_page_for_browsers() -> None:
    for path, headers in (("/api/v1/nothing", BROWSER), ("/nothing", {}), ("/api/nothing", {})):
        answer = Client(headers=headers).get(path)
        assert answer.status_code == 404 and answer["Content-Type"] == "application/problem+json"
        assert answer.json().keys() >= {"type", "title", "status", "error", "detail", "code"}
    assert Client(headers=BROWSER).get("/nothing")["Content-Type"].startswith("text/html")


@pytest.mark.django_db
@pytest.mark.parametrize("accept", ["*/*", "text/html", "application/yaml", "application/vnd.oai.openapi"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/"), ("DELETE", "/"), ("PUT", "/metrics"), ("POST", "/metrics/"), ("POST", "/api/v1/schema/"),
        ("DELETE", "/api/v1/schema"), ("PATCH", "/api/v1/docs/"), ("POST", "/api/v1/docs"), ("PUT", "/health"),
    ],
)  # fmt: skip
def test_a_wrong_method_is_answered_in_the_one_shape(method: str, path: str, accept: str) -> None:
    """Whatever the view answers otherwise, and without a token of a form."""
    answer = Client(enforce_csrf_checks=True).generic(method, path, headers={"Accept": accept})
    if answer.status_code == 405:
        assert "GET" in answer["Allow"] and answer.json()["code"] == "METHOD_NOT_ALLOWED"
    else:
        assert answer.status_code == 406 and accept != "*/*" and path.startswith(("/api/", "/health"))
    assert answer["Content-Type"] == "application/problem+json" and answer.json()["status"] == answer.status_code


def test_a_missing_token_is_a_problem_for_programs_and_a_page_for_browsers(rf: RequestFactory) -> None:
    answer = errors.no_csrf_token(rf.post("/api/v1/anything"), "no token")
    assert answer.status_code == 403 and answer["Content-Type"] == "application/problem+json"
    page = Client(enforce_csrf_checks=True, headers=BROWSER).post("/admin/login/", {"username": "x"})
    assert page.status_code == 403 and page["Content-Type"].startswith("text/html")


@pytest.mark.django_db
def test_staff_without_a_permission_read_so_on_a_page_of_the_admins(client: Client) -> None:
    client.force_login(User.objects.create_user("clerk", "clerk@example.com", "x", is_staff=True))
    for path in ("/admin/queue/entry/", "/admin/queue/entry/domains/", "/admin/accounts/user/"):
        answer = client.get(path, headers=BROWSER)
        page = answer.content.decode()
        assert answer.status_code == 403 and "clerk" in page and "has no permission" in page
        assert 'href="/admin/"' in page and "unfold" in page


@pytest.mark.django_db
def test_no_path_of_the_api_is_redirected_to_another_slash() -> None:
    for path in ("/api/v1/schema", "/api/v1/docs", "/metrics"):
        for method in ("GET", "HEAD", "OPTIONS", "POST"):
            answers = [Client().generic(method, text) for text in (path, f"{path}/")]
            assert answers[0].status_code == answers[1].status_code, (method, path)
            assert answers[0].status_code in (200, 405), (method, path)


@pytest.mark.django_db
def test_a_view_that_breaks_outside_the_api_is_answered_without_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("hunter2")

    monkeypatch.setattr("mailproj.health.run_checks", fail)
    client = Client(raise_request_exception=False)
    answer = client.get("/")
    assert answer.status_code == 500 and answer.json()["code"] == "INTERNAL_ERROR" and b"hunter2" not in answer.content
    assert answer.json()["request_id"] == answer["X-Request-ID"]


@pytest.mark.django_db
def test_the_version_header_is_on_every_answer_of_the_api() -> None:
    for path in ("/health", "/api/v1/nothing", "/api/v1/messages", "/metrics", "/"):
        assert Client().get(path)["X-API-Version"] == "1.0"
    assert "X-API-Version" not in Client().get("/admin/login/")


@pytest.mark.django_db
def test_a_request_id_that_could_hurt_a_log_is_replaced() -> None:
    for offered in ("x", "a b c d e f g h", "x" * 100, "<script>alert(1)</script>"):
        assert Client(headers={"X-Request-ID": offered}).get("/health")["X-Request-ID"].startswith("req_")


@pytest.mark.django_db
def test_a_session_needs_a_csrf_token_to_change_anything(admin_user: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)
    answer = client.post("/api/v1/send", json.dumps({}), content_type="application/json")
    assert answer.status_code == 403 and "CSRF" in answer.json()["detail"]


@pytest.mark.django_db
def test_a_program_without_a_cookie_has_no_session_and_a_page_has(admin_user: User) -> None:
    client = Client()
    _, key = keys.create("reader", admin_user, daily_limit=5)
    assert not hasattr(client.get("/api/v1/messages", headers={"X-API-Key": key}).wsgi_request, "session")
    assert hasattr(client.get("/admin/login/").wsgi_request, "session")
    assert client.cookies and hasattr(client.get("/api/v1/messages").wsgi_request, "session")
    assert hasattr(Client().get("/admin/login/", SCRIPT_NAME="/mail").wsgi_request, "session")  # behind a prefix


@pytest.mark.django_db
def test_a_body_of_another_type_is_refused(admin_user: User) -> None:
    _, text = keys.create("k", admin_user, daily_limit=5)
    post: Callable[..., Any] = Client(headers={"X-API-Key": text}).post
    answer = post("/api/v1/send", "to=a@example.com", content_type="application/x-www-form-urlencoded")
    assert answer.status_code == 415 and answer.json()["code"] == "UNSUPPORTED_MEDIA_TYPE"


@pytest.mark.django_db
def test_the_schema_is_openapi_3_1_and_names_each_view_once() -> None:
    schema = Client().get("/api/v1/schema/", headers={"Accept": "application/json"}).json()
    assert schema["openapi"].startswith("3.1")
    assert set(schema["paths"]) == {
        "/api/v1/" + re.sub(r"<\w+:(\w+)>", r"{\1}", resource.route) for resource in RESOURCES
    }
    assert set(schema["components"]["securitySchemes"]) == {"apiKey", "basic", "session"}
    assert schema["paths"]["/api/v1/send"]["post"]["requestBody"]


class References(HTMLParser):
    """What a browser would fetch for a page: attributes that name it, and what its scripts and styles name in words."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        names = ("src", "href", "srcset", "action", "data", "poster", "style")
        self.found += [value for name, value in attributes if name in names and value]

    def handle_data(self, text: str) -> None:  # scripts and styles too
        self.found += re.findall(r"(?:https?:)?//[\w.-]+\.[a-z]{2,}[^\s\"')]*", text)


@pytest.mark.django_db
def test_the_docs_need_nothing_from_elsewhere() -> None:
    page = Client().get("/api/v1/docs/").content.decode()
    references = References()
    references.feed(page)
    kinds = {one.rpartition(".")[2] for one in references.found}
    assert {"js", "css", "png"} <= kinds, "the page's script, style and icon are among them"
    for one in references.found:
        assert not urlsplit(one).netloc and not urlsplit(one).scheme, one
        assert finders.find(one.removeprefix("/static/")), f"{one} is not among the files that this host serves"
    assert '"validatorUrl": null' in page, "else the script shows a badge of validator.swagger.io"
    schema = re.search(r'url: "([^"]+)"', page)
    assert schema is not None and Client().get(schema[1]).status_code == 200


@pytest.mark.django_db
def test_the_docs_style_names_nothing_elsewhere() -> None:
    page = Client().get("/api/v1/docs/").content.decode()
    for path in re.findall(r'href="/static/([^"]+\.css)"', page):
        found = finders.find(path)
        assert found is not None
        named = re.findall(r"url\(\s*[\"']?([^\"')]+)|@import\s+[\"']([^\"']+)", Path(found).read_text())
        for one in (first or second for first, second in named):
            assert not urlsplit(one).netloc, one


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("path", "length", "limit"),
    [
        ("/api/v1/restart", "5000", "4096"), ("/api/v1/restart", "99999999999", "4096"),
        ("/api/v1/send", "9000", "8192"), ("/send/", "9000", "8192"), ("/api/v1/send/batch", "9000", "8192"),
    ],
)  # fmt: skip
def test_a_body_that_is_too_large_is_refused_before_it_is_read(
    live_server: LiveServer, settings: LazySettings, path: str, length: str, limit: str
) -> None:
    settings.MAX_REQUEST_SIZE, settings.SEND_MAX_REQUEST_SIZE = 4096, 8192
    connection = http.client.HTTPConnection(urlsplit(live_server.url).netloc, timeout=20)
    connection.putrequest("POST", path)
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", length)
    connection.endheaders()  # and not one octet of the body
    answer = connection.getresponse()
    body: dict[str, Any] = json.loads(answer.read())
    connection.close()
    assert answer.status == 413 and body["code"] == "REQUEST_TOO_LARGE" and limit in body["detail"]


@pytest.mark.django_db
def test_a_body_at_the_limit_is_taken(settings: LazySettings) -> None:
    settings.SEND_MAX_REQUEST_SIZE = 10
    post: Callable[..., Any] = Client().post
    assert post("/api/v1/send", "x" * 10, content_type="application/json").status_code == 401
    assert post("/api/v1/send", "x" * 11, content_type="application/json").status_code == 413


@pytest.mark.django_db
@pytest.mark.parametrize("body", ["{", "[1]", '"x"', "null", "{}", '{"address": 1, "name": "", "to": 1}'])
def test_a_body_that_cannot_be_used_is_422_at_send_and_400_everywhere_else(admin_user: User, body: str) -> None:
    """Contract §1.2: R5's code at R5's path, R4's at all others."""
    _, key = keys.create("k", admin_user, daily_limit=500, scopes=["admin"])
    client = Client(headers={"X-API-Key": key})
    found: dict[int, set[str]] = {}
    for resource in RESOURCES:
        path = "/api/v1/" + re.sub(r"<\w+:\w+>", "1", resource.route)
        for method in ("POST", "PUT", "PATCH"):
            answer = client.generic(method, path, body, "application/json")
            assert answer.status_code != 500, (method, path)
            found.setdefault(answer.status_code, set()).add(resource.route)
    assert found.get(422, set()) == {"send", "send/batch"}
    assert {"suppressions", "domains", "api-keys", "templates"} <= found[400]


def in_chunks(path: str, source: Any, **headers: str) -> Any:
    """Post what a server has read out of chunks; it says that the stream has an end of its own."""
    meta: dict[str, Any] = {"wsgi.input": source, "wsgi.input_terminated": True, "CONTENT_TYPE": "application/json"}
    return Client(headers={"Transfer-Encoding": "chunked", **headers}).generic("POST", path, **meta)


@pytest.mark.django_db(transaction=True)
def test_a_body_in_chunks_is_read_like_any_other(admin_user: User) -> None:
    _, key = keys.create("k", admin_user, daily_limit=5)
    text = {"to": "a@example.net", "sender": "a@example.com", "subject": "x" * 500, "text_body": "y" * 2_000_000}
    answer = in_chunks("/api/v1/send", io.BytesIO(json.dumps(text).encode()), **{"X-API-Key": key})
    assert answer.status_code == 202, answer.json()
    assert Message.objects.get().subject == "x" * 500


@pytest.mark.django_db
@pytest.mark.parametrize(("path", "limit"), [("/api/v1/restart", 4096), ("/send", 8192), ("/admin/login/", 4096)])
def test_a_body_in_chunks_is_read_no_further_than_its_limit(settings: LazySettings, path: str, limit: int) -> None:
    settings.MAX_REQUEST_SIZE, settings.SEND_MAX_REQUEST_SIZE = 4096, 8192
    source = io.BytesIO(b"x" * 1_000_000)
    answer = in_chunks(path, source)
    assert answer.status_code == 413 and answer.json()["code"] == "REQUEST_TOO_LARGE"
    assert str(limit) in answer.json()["detail"] and source.tell() == limit + 1
    assert in_chunks(path, io.BytesIO(b"x" * limit)).status_code != 413


@pytest.mark.django_db
def test_a_body_in_chunks_that_breaks_off_is_refused() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise ValueError("no such chunk")

    answer = in_chunks("/api/v1/send", Broken())
    assert answer.status_code == 400 and "chunks" in answer.json()["detail"]


@pytest.mark.django_db(transaction=True)
def test_where_the_server_reads_no_chunks_a_length_is_asked_for(live_server: LiveServer) -> None:
    connection = http.client.HTTPConnection(urlsplit(live_server.url).netloc, timeout=20)
    connection.request("POST", "/api/v1/send", iter([b"{}"]), {"Content-Type": "application/json"}, encode_chunked=True)
    answer = connection.getresponse()
    body: dict[str, Any] = json.loads(answer.read())
    connection.close()
    assert answer.status == 411 and body["code"] == "LENGTH_REQUIRED"


@pytest.mark.django_db
def test_a_host_name_that_is_not_ours_is_named_with_the_setting() -> None:
    for headers in ({}, BROWSER):
        answer = Client(headers=headers).get("/admin/", SERVER_NAME="192.0.2.7", HTTP_HOST="192.0.2.7:8000")
        assert answer.status_code == 400
        assert "'192.0.2.7:8000'" in answer.content.decode() and "ALLOWED_HOSTS" in answer.content.decode()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("path", "words"), [("", "Back from"), ("/success", "Thank you"), ("/cancel", "Nothing was paid")]
)
def test_who_comes_back_from_stripe_finds_a_page(path: str, words: str) -> None:
    for tail in ("", "/", "?session_id=cs_test_1"):
        answer = Client(headers=BROWSER).get(f"/billing{path}{tail}")
        assert answer.status_code == 200 and words in answer.content.decode()
    assert Client(headers=BROWSER).post(f"/billing{path}").status_code == 405
