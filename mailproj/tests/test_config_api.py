"""`config` and `restart`: who may, what is taken, what is refused, what is kept and who is told."""

from __future__ import annotations

import datetime as dt
import html
import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from accounts import credentials, keys
from accounts.models import Domain, Organization, TrailEntry, User
from mailflow import bell, runtime
from mailflow.models import Event, Message, RestartRequest, RuntimeSetting
from mailflow.runtime_fields import NAMES

pytestmark = pytest.mark.django_db

CONFIG = ["/api/config", "/api/config/", "/api/v1/config", "/api/v1/config/"]
RESTART = ["/api/restart", "/api/restart/", "/api/v1/restart", "/api/v1/restart/"]
R1 = {"max_workers": 8, "pool_size": 20, "timeout": 60}
R2 = {**R1, "max_connections": 100}
Api = Callable[..., Any]


@pytest.fixture(autouse=True)
def _nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    credentials.remembered.clear()
    runtime._kept.forget()
    monkeypatch.setattr(bell, "RING_SECONDS", 0.1)
    yield
    runtime._kept.forget()


@pytest.fixture
def root() -> User:
    return User.objects.create_superuser("root", "root@example.net", "correct horse")


@pytest.fixture
def alice() -> User:
    organization = Organization.objects.create(name="Example")
    Domain.objects.create(name="example.com", organization=organization, is_trusted=True)
    return User.objects.create_user("alice", "alice@example.com", "correct horse", organization=organization)


def ask(method: str, path: str, body: object = None, *, user: str = "root", **headers: str) -> Any:
    if user:
        headers["Authorization"] = f"Basic {b64encode(f'{user}:correct horse'.encode()).decode()}"
    text = body if isinstance(body, (str, bytes)) else "" if body is None else json.dumps(body)
    return Client().generic(method, path, text, content_type="application/json", headers=headers)


def put(body: object, query: str = "", **options: str) -> Any:
    return ask("PUT", f"/api/v1/config{query}", body, **options)


# --- reading ---


@pytest.mark.parametrize("path", CONFIG)
def test_the_config_is_told_at_every_path_with_where_each_value_comes_from(root: User, path: str) -> None:
    body = ask("GET", path).json()
    assert body.keys() == {*NAMES, "services"}
    assert (body["max_workers"], body["pool_size"], body["timeout"], body["enabled"]) == (50, 10, 300, True)
    assert body["services"].keys() == {"smtp", "imap"}
    for service in body["services"].values():
        assert service.keys() == set(NAMES)
        assert all(value["source"] == "environment" and value["set_by"] is None for value in service.values())
    assert body["services"]["smtp"]["max_connections"]["variable"] == "SMTP_MAX_CONNECTIONS"


@pytest.mark.parametrize(("service", "connections"), [("smtp", 100), ("imap", 50)])
def test_one_service_may_be_asked_for_alone(root: User, service: str, connections: int) -> None:
    body = ask("GET", f"/api/config?service={service}").json()
    assert body.keys() == {*NAMES, "services"} and list(body["services"]) == [service]
    assert body["max_connections"] == connections


def test_the_answer_costs_a_fixed_number_of_queries(
    root: User, django_assert_max_num_queries: Callable[..., Any]
) -> None:
    ask("GET", "/api/config")  # the password is checked once
    put(R2)
    with django_assert_max_num_queries(2):
        ask("GET", "/api/config")


# --- who may ---


@pytest.mark.parametrize(("method", "path"), [("GET", CONFIG[0]), ("PUT", CONFIG[0]), ("POST", RESTART[0])])
def test_only_administrators_may(root: User, alice: User, method: str, path: str) -> None:
    clerk = User.objects.create_user("clerk", "clerk@example.com", "correct horse", is_staff=True)
    assert ask(method, path, {}, user="").status_code == 401
    assert ask(method, path, {}, user="alice").status_code == 403
    assert ask(method, path, {}, user="clerk").status_code == 403
    assert not RuntimeSetting.objects.exists() and not RestartRequest.objects.exists()
    clerk.user_permissions.add(Permission.objects.get(codename="change_runtimesetting"))
    assert ask(method, path, {}, user="clerk").status_code == 200
    assert ask(method, path, {}, user="root").status_code == 200


def test_a_permission_without_staff_is_not_enough(alice: User) -> None:
    alice.user_permissions.add(Permission.objects.get(codename="change_runtimesetting"))
    assert put(R1, user="alice").status_code == 403


def test_a_session_needs_its_csrf_token(root: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(root)
    assert client.put("/api/config", R1, content_type="application/json").status_code == 403
    assert client.post("/api/restart").status_code == 403
    assert not RuntimeSetting.objects.exists() and not RestartRequest.objects.exists()


# --- setting ---


@pytest.mark.parametrize(("path", "body"), [*((path, R1) for path in CONFIG), ("/api/config", R2)])
def test_the_references_examples_set_what_they_name(root: User, path: str, body: dict[str, int]) -> None:
    answer = ask("PUT", path, body)
    assert answer.status_code == 200
    assert {name: answer.json()[name] for name in body} == body
    assert ask("GET", "/api/config").json() == answer.json()
    told = answer.json()["services"]["smtp"]
    assert (told["max_workers"]["source"], told["max_workers"]["set_by"]) == ("set", "root")
    set_at = dt.datetime.fromisoformat(told["max_workers"]["set_at"])
    assert abs(set_at - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=1)
    assert told["enabled"]["source"] == "environment"


def test_without_a_service_both_are_changed_and_with_one_only_that(root: User) -> None:
    put({"timeout": 60})
    put({"timeout": 45, "enabled": False}, "?service=imap")
    smtp, imap = (ask("GET", f"/api/config?service={service}").json() for service in ("smtp", "imap"))
    assert (smtp["timeout"], smtp["enabled"]) == (60, True)
    assert (imap["timeout"], imap["enabled"]) == (45, False)


def test_a_partial_body_leaves_the_rest_and_an_empty_one_leaves_all(root: User) -> None:
    put(R1)
    assert put({"pool_size": 3}).json()["max_workers"] == 8
    before = list(RuntimeSetting.objects.values_list())
    assert put({}).status_code == 200
    assert list(RuntimeSetting.objects.values_list()) == before


def test_null_gives_the_environments_value_back(root: User) -> None:
    put(R1)
    answer = put({"max_workers": None}).json()
    assert (answer["max_workers"], answer["timeout"]) == (50, 60)
    assert answer["services"]["smtp"]["max_workers"]["source"] == "environment"


def test_a_set_value_goes_before_the_environments(root: User, settings: Any) -> None:
    put({"max_workers": 8})
    settings.SMTP_MAX_WORKERS = settings.SMTP_POOL_SIZE = 77
    body = ask("GET", "/api/config").json()
    assert (body["max_workers"], body["pool_size"]) == (8, 77)


def test_the_idle_timeout_is_the_timeout_until_it_is_set_itself(root: User) -> None:
    told = put({"timeout": 60}, "?service=smtp").json()
    assert told["idle_timeout"] == 60 and told["services"]["smtp"]["idle_timeout"]["source"] == "set"
    assert put({"idle_timeout": 90}, "?service=smtp").json()["timeout"] == 60
    assert ask("GET", "/api/config").json()["idle_timeout"] == 90


def test_an_idle_timeout_of_the_environment_follows_nobody(root: User, settings: Any) -> None:
    settings.SMTP_IDLE_TIMEOUT = 45
    told = put({"timeout": 60}, "?service=smtp").json()
    assert (told["timeout"], told["idle_timeout"]) == (60, 45)
    assert told["services"]["smtp"]["idle_timeout"]["source"] == "environment"


WRONG: list[tuple[str, object]] = [
    ("max_workers", 0), ("max_workers", 1001), ("max_workers", -1), ("max_workers", 1.5), ("max_workers", 8.0),
    ("max_workers", "8"), ("max_workers", True), ("max_workers", []), ("max_workers", {}), ("max_workers", 10**400),
    ("pool_size", 0), ("pool_size", 101), ("timeout", 0), ("timeout", 0.09), ("timeout", 86401), ("timeout", "1m"),
    ("timeout", False), ("timeout", 1e308), ("max_connections", 0), ("max_connections", 100_001),
    ("idle_timeout", 0), ("idle_timeout", -5), ("enabled", 1), ("enabled", 0), ("enabled", "false"), ("enabled", ""),
    ("hostname", "x"), ("services", {}), ("", 1), ("\ud800", 1), ("x" * 5000, 1), ("max_workers\0", 1),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG, ids=[f"{name[:20]!a}={str(value)[:20]}" for name, value in WRONG])
def test_a_wrong_value_or_name_is_refused_naming_it_and_nothing_is_half_done(
    root: User, name: str, value: object
) -> None:
    answer = put({"pool_size": 7, name: value})
    assert answer.status_code == 400 and answer["Content-Type"] == "application/problem+json"
    (error,) = answer.json()["errors"]
    assert error["field"] == name.replace("\ud800", "?").replace("\0", "\ufffd")[:59] + ("…" if len(name) > 60 else "")
    assert len(error["message"]) < 200
    assert not RuntimeSetting.objects.exists() and not TrailEntry.objects.exists()


def test_every_wrong_field_is_named(root: User) -> None:
    answer = put({"max_workers": 0, "colour": "red", "enabled": None, "timeout": "x"})
    assert {error["field"] for error in answer.json()["errors"]} == {"max_workers", "colour", "timeout"}
    assert "from 1 to 1000" in answer.json()["detail"]


@pytest.mark.parametrize("body", ["", "[]", "null", "3", '"x"', "{", b"\xff\xfe", '{"timeout": NaN}', "[1]"])
def test_a_body_that_is_no_object_is_refused(root: User, body: str | bytes) -> None:
    status = put(body).status_code
    assert status == (200 if body == "" else 400)  # no body changes nothing, as {} does
    assert not RuntimeSetting.objects.exists()


@pytest.mark.parametrize("query", ["?service=pop3", "?service=", "?service=SMTP", "?service=smtp%00"])
def test_an_unknown_service_is_refused(root: User, query: str) -> None:
    assert ask("GET", f"/api/config{query}").status_code == 400
    assert put(R1, query).json()["errors"][0]["field"] == "service"
    assert ask("POST", f"/api/restart{query}").status_code == 400
    assert not RuntimeSetting.objects.exists() and not RestartRequest.objects.exists()


# --- the trail ---


def test_each_change_is_in_the_trail_with_who_what_and_from_where(root: User) -> None:
    put({"max_workers": 8}, "?service=smtp")
    put({"max_workers": 9, "enabled": False}, "?service=smtp")
    put({"max_workers": 9}, "?service=smtp")  # nothing new
    put({"max_workers": None}, "?service=smtp")
    lines = TrailEntry.objects.filter(kind="config.changed").order_by("pk")
    assert [(line.subject, line.detail) for line in lines] == [
        ("smtp max_workers", "the environment’s → 8"),
        ("smtp enabled", "the environment’s → false"),
        ("smtp max_workers", "8 → 9"),
        ("smtp max_workers", "9 → the environment’s"),
    ]
    assert {(line.actor, line.client_address) for line in lines} == {("root", "127.0.0.1")}


def test_a_key_is_named_beside_its_user(root: User) -> None:
    text = keys.create("ops", root, daily_limit=1, scopes=["admin"])[1]
    assert ask("PUT", "/api/config", R1, user="", **{"X-API-Key": text}).status_code == 200
    assert ask("GET", "/api/config").json()["services"]["imap"]["timeout"]["set_by"] == "root by key ops"


# --- restart ---


@pytest.mark.parametrize("path", RESTART)
def test_a_restart_answers_as_printed_and_is_on_disk(root: User, path: str) -> None:
    answer = ask("POST", path)
    assert answer.status_code == 200
    assert answer.json() == {"status": "restarted", "message": "SMTP server was restarted successfully"}
    request = RestartRequest.objects.get()
    assert (request.service, request.generation, request.requested_by) == ("smtp", 1, "root")
    line = TrailEntry.objects.get(kind="restart.requested")
    assert (line.subject, line.actor, line.client_address) == ("smtp", "root", "127.0.0.1")


def test_the_restart_is_told_in_czech_to_whom_asks_so(root: User) -> None:
    answer = ask("POST", "/api/restart", **{"Accept-Language": "cs"})
    assert answer.json() == {"status": "restarted", "message": "SMTP server byl úspěšně restartován"}


def test_each_request_has_the_next_generation_of_its_service(root: User) -> None:
    ask("POST", "/api/restart")
    ask("POST", "/api/restart", {"service": "smtp"})
    ask("POST", "/api/restart?service=worker")
    ask("POST", "/api/restart", {"service": "worker"})
    ask("POST", "/api/restart?service=worker", {"service": "smtp"})  # the query wins
    assert dict(RestartRequest.objects.values_list("service", "generation")) == {"smtp": 2, "worker": 3}


@pytest.mark.parametrize("body", [{"service": "imap"}, {"service": None}, {"service": []}, {"service": "\ud800"}, [1]])
def test_what_cannot_be_restarted_is_refused(root: User, body: object) -> None:
    assert ask("POST", "/api/restart", body).status_code == 400
    assert not RestartRequest.objects.exists()


@pytest.mark.parametrize(("method", "path"), [("GET", "/api/restart"), ("POST", "/api/config"), ("DELETE", CONFIG[0])])
def test_other_methods_are_refused(root: User, method: str, path: str) -> None:
    assert ask(method, path).status_code == 405


def test_the_schema_describes_both(client: Client) -> None:
    paths = client.get("/api/v1/schema/?format=json").json()["paths"]
    assert paths["/api/v1/config"].keys() == {"get", "put"} and paths["/api/v1/restart"].keys() == {"post"}


# --- what it does to HTTP's own door ---

MAIL = {"to": "user@example.com", "subject": "Hello", "text_body": "Hello."}


@pytest.mark.django_db(transaction=True)
def test_switched_off_send_answers_503_says_why_and_leaves_an_event(alice: User, root: User) -> None:
    put({"enabled": False}, "?service=smtp")
    answer = ask("POST", "/api/v1/send", MAIL, user="alice")
    assert answer.status_code == 503 and int(answer["Retry-After"]) > 0
    assert answer["Content-Type"] == "application/problem+json"
    assert "switched the service off" in answer.json()["detail"]
    event = Event.objects.get(kind="refused")
    assert event.actor == "alice" and "switched the service off" in event.summary and event.reply == "503 UNAVAILABLE"
    assert not Message.objects.exists()
    put({"enabled": True}, "?service=smtp")
    assert ask("POST", "/api/v1/send", MAIL, user="alice").status_code == 202


@pytest.mark.django_db(transaction=True)
def test_imap_switched_off_does_not_touch_send(alice: User, root: User) -> None:
    put({"enabled": False}, "?service=imap")
    assert ask("POST", "/api/v1/send", MAIL, user="alice").status_code == 202


@pytest.mark.django_db(transaction=True)
def test_switched_off_is_said_by_health_the_front_page_and_the_dashboard(root: User, client: Client) -> None:
    client.force_login(root)
    browser = {"Accept": "text/html"}
    pages = [client.get(path, headers=browser).content.decode() for path in ("/", "/admin/")]
    assert client.get("/health").json()["features"]["reception"] is True
    assert not any("No new mail is taken" in page for page in pages)
    put({"enabled": False}, "?service=smtp")
    assert client.get("/health").json()["features"]["reception"] is False
    for path in ("/", "/admin/"):
        assert "No new mail is taken" in client.get(path, headers=browser).content.decode()


# --- the admin's page ---


@pytest.fixture
def browser(root: User, client: Client) -> Client:
    client.force_login(root)
    return client


PAGE = "admin:mailflow_runtimesetting_changelist"


def form_of(page: Any) -> dict[str, str]:
    """What a browser would send back of a page that nobody has typed on."""
    sent = {}
    for form in page.context["config_forms"]:
        for bound in form:
            sent[bound.html_name] = sent[bound.html_initial_name] = str(bound.initial or "")
    return sent


def answered(question: Any) -> dict[str, str]:
    """What a browser sends of the page that asks, once its button is pressed."""
    found = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', question.content.decode())
    return {name: html.unescape(value) for name, value in found}


def test_the_page_tells_a_default_from_what_the_environment_says(browser: Client, settings: LazySettings) -> None:
    settings.GIVEN_VARIABLES = frozenset({"SMTP_POOL_SIZE", "SMTP_TIMEOUT"})
    text = " ".join(re.sub(r"<[^>]*>", " ", browser.get(reverse(PAGE)).content.decode()).split())
    assert "environment SMTP_POOL_SIZE" in text and "environment SMTP_TIMEOUT" in text
    assert "default SMTP_MAX_WORKERS is not set" in text and "as timeout SMTP_IDLE_TIMEOUT is not set" in text
    assert "over all listeners together" in text and "Nothing obeys these values yet" in text


def test_the_page_tells_every_value_and_where_it_comes_from(browser: Client) -> None:
    put({"max_workers": 8, "enabled": False}, "?service=smtp")
    text = browser.get(reverse(PAGE)).content.decode()
    assert "SMTP_MAX_CONNECTIONS" in text and "IMAP_IDLE_TIMEOUT" in text
    assert 'value="8"' in text and "root" in text and "never asked for" in text


def test_a_value_is_set_and_taken_back_on_the_page(browser: Client) -> None:
    sent = form_of(browser.get(reverse(PAGE)))
    changed = {**sent, "smtp-max_workers": "12", "imap-timeout": "2.5", "smtp-enabled": "false"}
    question = browser.post(reverse(PAGE), changed)
    assert "Take no new mail?" in question.content.decode() and not RuntimeSetting.objects.exists()
    answer = browser.post(reverse(PAGE), answered(question))
    assert answer.status_code == 302
    assert set(RuntimeSetting.objects.values_list("service", "name", "value")) == {
        ("smtp", "max_workers", 12), ("imap", "timeout", 2.5), ("smtp", "enabled", False),
    }  # fmt: skip
    assert TrailEntry.objects.filter(kind="config.changed", actor="root").count() == 3
    sent = form_of(browser.get(reverse(PAGE)))
    assert browser.post(reverse(PAGE), {**sent, "smtp-max_workers": ""}).status_code == 302
    assert not RuntimeSetting.objects.filter(name="max_workers").exists() and RuntimeSetting.objects.count() == 2


@pytest.mark.parametrize("wrong", ["0", "1001", "x", "1.5", "true", "nan", "9" * 31])
def test_a_wrong_value_on_the_page_is_named_and_nothing_is_half_done(browser: Client, wrong: str) -> None:
    sent = form_of(browser.get(reverse(PAGE)))
    page = browser.post(reverse(PAGE), {**sent, "smtp-max_workers": wrong, "imap-pool_size": "3"})
    assert page.status_code == 200 and page.context["config_forms"][0].errors.keys() == {"max_workers"}
    assert not RuntimeSetting.objects.exists()


def test_a_page_opened_earlier_undoes_nobody_elses_change(browser: Client) -> None:
    sent = form_of(browser.get(reverse(PAGE)))
    put({"pool_size": 3}, "?service=smtp")
    browser.post(reverse(PAGE), {**sent, "smtp-max_workers": "12"})
    assert dict(RuntimeSetting.objects.values_list("name", "value")) == {"pool_size": 3, "max_workers": 12}


def test_a_restart_is_asked_for_by_a_button(browser: Client) -> None:
    address = reverse("admin:mailflow_runtimesetting_restart")
    assert browser.get(address).status_code == 405
    browser.post(address, {"service": "imap", "confirmed": "yes"})
    question = browser.post(address, {"service": "worker"})
    assert "Restart: " in question.content.decode() and not RestartRequest.objects.exists()
    browser.post(address, answered(question))
    assert RestartRequest.objects.get().service == "worker"
    assert "last asked for by" in browser.get(reverse(PAGE)).content.decode()


def test_whoever_may_only_look_changes_nothing(client: Client) -> None:
    clerk = User.objects.create_user("clerk", "clerk@example.com", "correct horse", is_staff=True)
    client.force_login(clerk)
    assert client.get(reverse(PAGE)).status_code == 403
    clerk.user_permissions.add(Permission.objects.get(codename="view_runtimesetting"))
    page = client.get(reverse(PAGE))
    assert page.status_code == 200 and b"<button" not in page.content.split(b"Restart</h2>")[1].split(b"</section>")[0]
    assert client.post(reverse(PAGE), {"smtp-max_workers": "3"}).status_code == 403
    assert client.post(reverse("admin:mailflow_runtimesetting_restart"), {"service": "smtp"}).status_code == 403
    assert not RuntimeSetting.objects.exists() and not RestartRequest.objects.exists()
