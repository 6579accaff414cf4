"""The API's limits: who is counted, what the answer says, and what happens while Redis is away."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.test import Client

from accounts import credentials, keys
from accounts.models import Organization, TrailEntry, User, WebhookDelivery
from accounts.webhooks import endpoints, outbox
from mailflow.limits import rules, threads
from mailflow.limits.threads import ThreadLimits
from mailflow.tests.redis_server import RedisServer, running_redis

OUTSIDE = "203.0.113.7"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis() as running:
        yield running


@pytest.fixture
def shared(server: RedisServer, settings: Any) -> Iterator[None]:
    """A Redis of one's own, and limits that begin anew."""
    settings.REDIS_URL = server.url
    threads._of_process.cache_clear()
    threads.current()._client.flushall()
    yield
    threads._of_process.cache_clear()


@pytest.fixture
def user(db: None) -> User:
    credentials.remembered.clear()
    organization = Organization.objects.create(name="Example")
    return User.objects.create_user("alice", "alice@example.com", "correct horse", organization=organization)


@pytest.fixture
def key(user: User) -> str:
    return keys.create("test", user, daily_limit=5)[1]


def basic(word: str = "correct horse") -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'alice:{word}'.encode()).decode()}"}


def get(path: str = "/api/v1/messages", address: str = OUTSIDE, **headers: str) -> Any:
    return Client(REMOTE_ADDR=address).get(path, headers=headers)


@pytest.mark.django_db
def test_a_key_has_so_many_requests_a_minute_and_hears_what_is_left(key: str, shared: None, settings: Any) -> None:
    settings.API_RATE_LIMIT_KEY_REQUESTS = 3
    answers = [get(**{"X-API-Key": key}) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer["X-RateLimit-Remaining"] for answer in answers] == ["2", "1", "0", "0"]
    assert answers[0]["RateLimit-Policy"] == '"60s";q=3;w=60' and answers[0]["RateLimit"].startswith('"60s";r=2;t=')
    last = answers[3]
    assert 0 < int(last["Retry-After"]) <= 60 and last.json()["code"] == "RATE_LIMITED"
    assert "At most 3 requests a minute" in last.json()["detail"] and key not in last.json()["detail"]


@pytest.mark.django_db(transaction=True)
def test_an_answer_of_send_tells_of_the_minute_and_of_the_day(key: str, shared: None) -> None:
    answer = Client(REMOTE_ADDR=OUTSIDE).post("/api/v1/send", "{}", "application/json", headers={"X-API-Key": key})
    assert answer.status_code == 422 and answer["X-RateLimit-Limit"] == "5"
    assert answer["RateLimit-Policy"] == '"60s";q=600;w=60, "day";q=5;w=86400'
    assert '"day";r=5;t=' in answer["RateLimit"]


@pytest.mark.django_db
def test_users_and_strangers_are_counted_apart(user: User, shared: None, settings: Any) -> None:
    settings.API_RATE_LIMIT_USER_REQUESTS, settings.API_RATE_LIMIT_ADDRESS_REQUESTS = 1, 2
    assert [get(**basic()).status_code for _ in range(2)] == [200, 429]
    assert [get("/api/v1/health").status_code in (200, 503) for _ in range(2)] == [True, True]
    assert get("/api/v1/health").status_code == 429
    assert get("/api/v1/health", address="203.0.113.8").status_code != 429


@pytest.mark.django_db
def test_whom_staff_exempted_is_not_counted_and_reads_the_limit_all_the_same(
    key: str, shared: None, settings: Any
) -> None:
    settings.API_RATE_LIMIT_KEY_REQUESTS = 2
    for _ in range(3):
        answer = get(address="127.0.0.1", **{"X-API-Key": key})
        assert answer.status_code == 200
        assert (answer["X-RateLimit-Limit"], answer["X-RateLimit-Remaining"]) == ("2", "2")
        assert (answer["RateLimit-Policy"], answer["RateLimit"]) == ('"60s";q=2;w=60', '"60s";r=2;t=60')


@pytest.mark.django_db
@pytest.mark.parametrize("address", [OUTSIDE, "127.0.0.1"])
def test_every_answer_of_the_api_tells_of_the_limits(user: User, shared: None, address: str) -> None:
    narrow, ordinary = _lacks_scope(user), basic()
    for path, headers, status in (
        ("/api/v1/messages", {}, 401), ("/api/v1/messages", narrow, 403), ("/api/v1/queue", ordinary, 403),
        ("/api/v1/messages", ordinary, 200), ("/api/v1/messages/none", ordinary, 404), ("/api/v1/send", ordinary, 405),
        ("/nothing", {}, 404), ("/api/v1/docs/", {}, 200), ("/api/v1/schema/", {}, 200), ("/health", {}, None),
        ("/metrics", {}, None), ("/", {}, None),
    ):  # fmt: skip
        answer = get(path, address, **headers)
        assert status in (None, answer.status_code), path
        assert int(answer["X-RateLimit-Limit"]) in (120, 600) and int(answer["X-RateLimit-Reset"]) > 1_700_000_000, path
        assert answer["RateLimit-Policy"].startswith('"60s";q=') and '"60s";r=' in answer["RateLimit"], path
    too_long = Client(REMOTE_ADDR=address).post("/api/v1/restart", "x" * 300_000, "application/json")
    assert too_long.status_code == 413 and "RateLimit" in too_long


@pytest.mark.django_db
def test_the_answer_after_wrong_passwords_tells_of_that_limit(user: User, shared: None, settings: Any) -> None:
    settings.SMTP_RATE_LIMIT_AUTH_FAILURES = 1
    answer = [get(**basic("wrong")) for _ in range(2)][-1]
    assert answer.status_code == 429
    assert (answer["X-RateLimit-Limit"], answer["X-RateLimit-Remaining"]) == ("1", "0")
    assert answer["RateLimit-Policy"] == '"3600s";q=1;w=3600, "60s";q=120;w=60'


@pytest.mark.django_db
def test_a_limit_that_is_off_is_not_told_of(settings: Any) -> None:
    settings.API_RATE_LIMIT_ADDRESS_REQUESTS = 0
    assert "RateLimit" not in get("/nothing", "127.0.0.1") and "X-RateLimit-Limit" not in get("/nothing")


@pytest.mark.django_db
def test_wrong_passwords_are_counted_and_then_none_is_looked_at(user: User, shared: None, settings: Any) -> None:
    settings.SMTP_RATE_LIMIT_AUTH_FAILURES = 2
    assert [get(**basic("wrong")).status_code for _ in range(3)] == [401, 401, 429]
    assert get(**basic()).status_code == 429, "the right one neither, from this address"
    assert get(address="203.0.113.9", **basic()).status_code == 200


@pytest.mark.django_db
def test_of_two_limits_the_one_that_lasts_longer_is_told(user: User, shared: None, settings: Any) -> None:
    settings.SMTP_RATE_LIMIT_AUTH_FAILURES, settings.API_RATE_LIMIT_ADDRESS_REQUESTS = 2, 3
    answers = [get(**basic("wrong")) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [401, 401, 429, 429, 429, 429]
    assert {"failed AUTH an hour" in answer.json()["detail"] for answer in answers[2:]} == {True}
    assert all(int(answer["Retry-After"]) > 60 for answer in answers[2:])


@pytest.mark.django_db
def test_a_name_has_so_many_wrong_passwords_from_wherever_they_come(user: User, shared: None, settings: Any) -> None:
    settings.SMTP_RATE_LIMIT_USER_NAME_AUTH_FAILURES = 2
    answers = [get(address=f"203.0.{number}.7", **basic("wrong")) for number in range(3)]
    assert [answer.status_code for answer in answers] == [401, 401, 429]
    assert "At most 2 failed AUTH an hour are taken" in answers[2].json()["detail"]
    assert TrailEntry.objects.filter(kind="auth.failed").count() == 2
    assert get(address="203.0.9.7", **basic()).status_code == 429
    assert get(address="127.0.0.1", **basic()).status_code == 200, "whom staff exempted is not kept out"


@pytest.mark.django_db
def test_a_wrong_key_is_a_failed_login_whose_text_is_not_kept(user: User, shared: None, settings: Any) -> None:
    settings.SMTP_RATE_LIMIT_AUTH_FAILURES = 2
    endpoints.create(None, "https://example.com/", ["auth.failed"])
    outbox.forget()
    wrong, good = "sk_live_" + "5ecret" * 6, keys.create("good", user, daily_limit=5)[1]
    answers = [get(**{"X-API-Key": text}) for text in (wrong, "no key at all", wrong)]
    assert [answer.status_code for answer in answers] == [401, 401, 429]
    assert get(**basic()).status_code == 429, "wrong keys and wrong passwords count together"
    assert get(**{"X-API-Key": good}).status_code == 200, "one old key stops no others"
    trail = TrailEntry.objects.filter(kind="auth.failed")
    assert list(trail.values_list("actor", "subject", "client_address")) == [("", "X-API-Key", OUTSIDE)] * 2
    told = WebhookDelivery.objects.values_list("payload", flat=True)
    assert len(told) == 2 and all("API key is not known" in payload for payload in told)
    assert "5ecret" not in str([*told, *trail.values()])


def _lacks_scope(user: User) -> dict[str, str]:
    return {"X-API-Key": keys.create("narrow", user, daily_limit=5, scopes=["send"])[1]}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("path", "credentials_of", "status", "setting"),
    [
        ("/api/v1/messages", lambda _: {}, 401, "ADDRESS"), ("/send", lambda _: {"X-API-Key": "x"}, 401, "ADDRESS"),
        ("/api/v1/messages", lambda _: {"Authorization": "Basic ?"}, 401, "ADDRESS"),
        ("/api/v1/messages", lambda _: basic("wrong"), 401, "ADDRESS"), ("/api/v1/messages", _lacks_scope, 403, "KEY"),
        ("/api/v1/queue", lambda _: basic(), 403, "USER"), ("/nothing", lambda _: {}, 404, "ADDRESS"),
        ("/api/v1/messages", lambda _: {"Accept": "image/png"}, 406, "ADDRESS"), ("/", lambda _: {}, 200, "ADDRESS"),
        ("/metrics", lambda _: {}, 403, "ADDRESS"), ("/api/v1/docs/", lambda _: {}, 200, "ADDRESS"),
    ],
)  # fmt: skip
def test_who_is_refused_is_counted_too(
    user: User, shared: None, settings: Any, monkeypatch: pytest.MonkeyPatch,
    path: str, credentials_of: Callable[[User], dict[str, str]], status: int, setting: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("mailproj.health.run_checks", list)
    for name in ("KEY", "USER", "ADDRESS"):
        setattr(settings, f"API_RATE_LIMIT_{name}_REQUESTS", 2 if name == setting else 1)
    headers = credentials_of(user)
    answers = [get(path, **headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [status, status, 429]
    assert [answer["X-RateLimit-Remaining"] for answer in answers] == ["1", "0", "0"]
    last = answers[2]
    assert last.json()["code"] == "RATE_LIMITED" and 0 < int(last["Retry-After"]) <= 60
    assert get(path, "203.0.113.8", **headers).status_code == (status if setting == "ADDRESS" else 429)


def _log_in(word: str, address: str = OUTSIDE) -> int:
    form = {"username": "root", "password": word}
    return Client(REMOTE_ADDR=address).post("/admin/login/?next=/admin/", form).status_code


@pytest.mark.django_db
def test_wrong_passwords_in_the_admins_form_count_with_the_others(user: User, shared: None, settings: Any) -> None:
    settings.SMTP_RATE_LIMIT_AUTH_FAILURES = settings.SMTP_RATE_LIMIT_USER_NAME_AUTH_FAILURES = 2
    User.objects.create_superuser("root", "root@example.com", "correct horse")
    assert _log_in("correct horse") == 302
    assert [_log_in(word) for word in ("wrong", "wrong", "wrong", "correct horse")] == [200] * 4
    trail = TrailEntry.objects.filter(kind="auth.failed")
    assert list(trail.values_list("actor", "subject", "client_address")) == [("root", "Admin", OUTSIDE)] * 2
    assert get(**basic()).status_code == 429, "from that address"
    assert _log_in("correct horse", "198.51.100.9") == 200, "for that name"
    assert _log_in("correct horse", "127.0.0.1") == 302, "whom staff exempted is not kept out"


@pytest.mark.django_db
def test_the_admin_is_not_counted(shared: None, settings: Any) -> None:
    settings.API_RATE_LIMIT_ADDRESS_REQUESTS = 1
    assert [get("/admin/login/").status_code for _ in range(3)] == [200] * 3
    assert "RateLimit" not in get("/admin/login/")


@pytest.mark.django_db
def test_processes_share_one_limit(user: User, shared: None, server: RedisServer, settings: Any) -> None:
    settings.API_RATE_LIMIT_KEY_REQUESTS = 50
    rule = rules.api_from_settings().key_requests
    processes = [ThreadLimits(server.url) for _ in range(4)]

    def one(number: int) -> bool:
        budget = processes[number % 4].take(rule, "k")
        return budget is not None and budget.allowed

    with ThreadPoolExecutor(8) as pool:
        allowed = sum(pool.map(one, range(200)))
    assert 45 <= allowed <= 50, "never more; a process may keep the rest of its last block"


def test_without_redis_each_process_counts_by_itself_and_shares_again_later(settings: Any) -> None:
    settings.API_RATE_LIMIT_KEY_REQUESTS = 3
    rule = rules.api_from_settings().key_requests
    with running_redis() as server:
        limits = ThreadLimits(server.url)
        server.kill()
        found = [limits.take(rule, "k") for _ in range(4)]
        assert [budget.allowed for budget in found if budget] == [True, True, True, False]
        assert [budget.remaining for budget in found if budget] == [2, 1, 0, 0]
        server.start()
        limits._breaker._tried_at = 0.0  # the pause has passed
        other = limits.take(rule, "another")
        assert other is not None and other.allowed and not limits._breaker.is_open
        assert limits.take(rule, "k").allowed is False  # type: ignore[union-attr]  # what was spent alone is charged


def test_a_limit_of_nothing_is_none(settings: Any) -> None:
    settings.API_RATE_LIMIT_KEY_REQUESTS = 0
    assert ThreadLimits("redis://127.0.0.1:1").take(rules.api_from_settings().key_requests, "k") is None
