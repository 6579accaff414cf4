"""Wrong input for the references' lines: missing, of a wrong type, too long, unknown, another tenant's, not allowed.

Each row is a request, who makes it, the code, and the field that the answer must name.
"""

from __future__ import annotations

from typing import Any

import pytest

from mailproj.tests.references.world import ADMIN, STRANGER, World
from mailproj.tests.references.wrong import check_problem

pytestmark = pytest.mark.slow

MEMBER = "member"
LONG = "x" * 5000  # in a body
LONG_WORD = "x" * 1000  # in a URL, whose line the web server itself limits
R1_MAIL = {"sender": "from@example.com", "recipient": "to@example.com", "subject": "Test Subject", "body": "x"}
R5_MAIL = {"to": "user@example.com", "subject": "Welcome!", "html_body": "<p>x</p>", "text_body": "x"}
JANE = {"username": "jane2", "email": "jane2@example.com", "password": "SecureP@ssw0rd", "quota_mb": 1000}
CHECKOUT = "/billing/checkout-session"
CANCEL = "/subscriptions/cancel"
STATUS = "/messages/{message}/status"

Row = tuple[str, str, Any, int, str]


def changed(body: dict[str, Any], /, **values: Any) -> dict[str, Any]:
    return {**body, **values}


def without(body: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != name}


SEND: list[Row] = [
    ("POST", "/send", without(R1_MAIL, "recipient"), 422, "to"),
    ("POST", "/send", changed(R1_MAIL, recipient=5), 422, "recipient"),
    ("POST", "/send", changed(R1_MAIL, recipient={"a": "b"}), 422, "recipient"),
    ("POST", "/send", changed(R1_MAIL, recipient="nobody"), 422, "recipient"),
    ("POST", "/send", changed(R1_MAIL, recipient=f"{LONG}@example.com"), 422, "recipient"),
    ("POST", "/send", changed(R1_MAIL, recipient=[]), 422, "to"),
    ("POST", "/send", changed(R1_MAIL, sender="nobody"), 422, "sender"),
    ("POST", "/send", changed(R1_MAIL, sender=["a@example.com"]), 422, "sender"),
    ("POST", "/send", changed(R1_MAIL, subject={"a": 1}), 422, "subject"),
    ("POST", "/send", changed(R1_MAIL, subject="a\r\nBcc: b@example.com"), 422, "subject"),
    ("POST", "/send", changed(R1_MAIL, body=["x"]), 422, "body"),
    ("POST", "/api/v1/send", without(R5_MAIL, "to"), 422, "to"),
    ("POST", "/api/v1/send", changed(R5_MAIL, html_body=["<p>x</p>"]), 422, "html_body"),
    ("POST", "/api/v1/send", changed(R5_MAIL, html_body=5.5), 422, "html_body"),
    ("POST", "/api/v1/send", changed(R5_MAIL, subject=7), 422, "subject"),
    ("POST", "/api/v1/send", changed(R5_MAIL, text_body={}), 422, "text_body"),
    ("POST", "/api/v1/send", changed(R5_MAIL, headers="X-Priority: 1"), 422, "headers"),
    ("POST", "/api/v1/send", changed(R5_MAIL, headers={"X-Priority": "1\r\nX-More: 2"}), 422, "headers.X-Priority"),
    ("POST", "/api/v1/send", changed(R5_MAIL, headers={"DKIM-Signature": "x"}), 422, "headers.DKIM-Signature"),
    ("POST", "/api/v1/send", changed(R5_MAIL, headers={"a b": "x"}), 422, "headers.a b"),
]
CONFIG: list[Row] = [
    ("PUT", "/api/config", {"max_workers": "many"}, 400, "max_workers"),
    ("PUT", "/api/config", {"max_workers": 0}, 400, "max_workers"),
    ("PUT", "/api/config", {"pool_size": 10**9}, 400, "pool_size"),
    ("PUT", "/api/config", {"timeout": [60]}, 400, "timeout"),
    ("PUT", "/api/config", {"timeout": -1}, 400, "timeout"),
    ("PUT", "/api/config", {"max_connections": 1.5}, 400, "max_connections"),
    ("PUT", "/api/config", {"enabled": "perhaps"}, 400, "enabled"),
    ("PUT", "/api/config", {"workers": 8}, 400, "workers"),
    ("PUT", "/api/config?service=pop3", {"max_workers": 8}, 400, "service"),
    ("GET", "/api/config?service=pop3", None, 400, "service"),
    ("POST", "/api/restart", {"service": "web"}, 400, "service"),
    ("GET", "/api/stats?service=pop3", None, 400, "service"),
]
EMAILS: list[Row] = [
    ("GET", "/emails?limit=many", None, 400, "limit"),
    ("GET", "/emails?limit=-1", None, 400, "limit"),
    ("GET", "/emails?offset=x", None, 400, "offset"),
    ("GET", "/emails/uuid-here", None, 404, ""),
    ("GET", "/emails/%00", None, 404, ""),
    ("GET", f"/emails/{LONG_WORD}", None, 404, ""),
    ("POST", "/fetch", {"user_id": "uuid-here"}, 404, ""),
    ("POST", "/fetch", {"user_id": 10**30}, 404, ""),
    ("POST", "/fetch", {"user_id": LONG}, 404, ""),
    ("POST", "/fetch", {"user_id": ["user"]}, 400, "user_id"),
]
DOMAINS: list[Row] = [
    ("POST", "/domains", {}, 400, "name"),
    ("POST", "/domains", {"name": ""}, 400, "name"),
    ("POST", "/domains", {"name": 5}, 400, "name"),
    ("POST", "/domains", {"name": ["shop.example"]}, 400, "name"),
    ("POST", "/domains", {"name": "no domain"}, 400, "name"),
    ("POST", "/domains", {"name": f"{LONG}.example"}, 400, "name"),
    ("PATCH", "/domains/{domain}", {"is_active": "perhaps"}, 400, "is_active"),
    ("PATCH", "/domains/{domain}", {"is_active": None}, 400, "is_active"),
    ("GET", "/domains?page=0", None, 400, "page"),
    ("GET", "/domains?page=two", None, 400, "page"),
    ("GET", "/domains?page_size=0", None, 400, "page_size"),
    ("GET", "/domains?page_size=100000", None, 400, "page_size"),
    *(
        (method, f"/domains/{number}{path}", body, 404, "")
        for number in ("999999999", "9" * 30, "one")
        for method, path, body in [
            ("GET", "", None), ("POST", "/verify", None), ("GET", "/dns-records", None),
            ("PATCH", "", {"is_active": True}), ("DELETE", "", None),
        ]
    ),
    ("GET", "/api/domains/no%20domain/exists", None, 400, "name"),
]  # fmt: skip
MESSAGES: list[Row] = [
    ("GET", "/messages?status=lost", None, 400, "status"),
    ("GET", "/messages?domain_id=one", None, 400, "domain_id"),
    ("GET", "/messages?domain_id=999999999", None, 400, "domain_id"),
    ("GET", "/messages?date_from=yesterday", None, 400, "date_from"),
    ("GET", "/messages?date_to=2025-13-01", None, 400, "date_to"),
    ("GET", "/messages?page=-1", None, 400, "page"),
    ("GET", "/messages?page_size=1.5", None, 400, "page_size"),
    ("GET", "/messages/search", None, 400, "q"),
    ("GET", "/messages/search?q=", None, 400, "q"),
    ("GET", f"/messages/search?q={'x' * 201}", None, 400, "q"),
    ("GET", "/messages/search?q=%00", None, 400, "q"),
    ("GET", "/messages/stats?since=lately", None, 400, "since"),
    ("GET", "/messages/recent?limit=all", None, 400, "limit"),
    ("GET", "/messages/recent?limit=0", None, 400, "limit"),
    ("GET", "/messages/123", None, 404, ""),
    ("GET", "/messages/%00", None, 404, ""),
    ("DELETE", "/messages/123", None, 404, ""),
    ("GET", "/messages/domain/999999999", None, 404, ""),
    ("GET", "/messages/domain/one", None, 404, ""),
    ("GET", "/messages/thread/thread-id-123", None, 404, ""),
    ("GET", "/messages/thread/%00", None, 404, ""),
    ("PATCH", "/messages/123/status?new_status=delivered", None, 404, ""),
    ("PATCH", STATUS, None, 400, "new_status"),
    ("PATCH", f"{STATUS}?new_status=lost", None, 400, "new_status"),
    ("PATCH", f"{STATUS}?new_status=delivered&forwarded_to=nobody", None, 400, "forwarded_to"),
    ("PATCH", f"{STATUS}?new_status=delivered&forwarded_to={LONG_WORD}@example.com", None, 400, "forwarded_to"),
    ("PATCH", "/messages/{queued}/status?new_status=delivered", None, 409, ""),
]
BILLING: list[Row] = [
    ("POST", CHECKOUT, {}, 400, "price_id"),
    ("POST", CHECKOUT, {"price_id": ""}, 400, "price_id"),
    ("POST", CHECKOUT, {"price_id": 5.5}, 400, "price_id"),
    ("POST", CHECKOUT, {"price_id": ["price_1234567890"]}, 400, "price_id"),
    ("POST", CHECKOUT, {"price_id": f"price_{LONG}"}, 400, "price_id"),
    ("POST", CHECKOUT, {"price_id": "price_unknown"}, 400, "price_id"),
    ("PATCH", CANCEL, {"cancel_at_period_end": "perhaps"}, 400, "cancel_at_period_end"),
    ("PATCH", CANCEL, {"cancel_at_period_end": [True]}, 400, "cancel_at_period_end"),
    ("POST", "/webhooks/stripe", {"id": "evt_1"}, 400, "Stripe-Signature"),
]
USERS: list[Row] = [
    ("GET", "/api/users?limit=many", None, 400, "limit"),
    ("GET", "/api/users?limit=0", None, 400, "limit"),
    ("GET", "/api/users?limit=1001", None, 400, "limit"),
    ("GET", "/api/users?offset=-1", None, 400, "offset"),
    ("GET", "/api/users/nobody", None, 404, ""),
    ("GET", f"/api/users/{LONG_WORD}", None, 404, ""),
    ("PUT", "/api/users/nobody", {"quota_mb": 2000}, 404, ""),
    ("DELETE", "/api/users/nobody", None, 404, ""),
    ("POST", "/api/users", without(JANE, "username"), 400, "username"),
    ("POST", "/api/users", without(JANE, "email"), 400, "email"),
    ("POST", "/api/users", without(JANE, "password"), 400, "password"),
    ("POST", "/api/users", changed(JANE, username=["jane2"]), 400, "username"),
    ("POST", "/api/users", changed(JANE, username=LONG), 400, "username"),
    ("POST", "/api/users", changed(JANE, username="ja/ne"), 400, "username"),
    ("POST", "/api/users", changed(JANE, email="jane2"), 400, "email"),
    ("POST", "/api/users", changed(JANE, email=f"{LONG}@example.com"), 400, "email"),
    ("POST", "/api/users", changed(JANE, password="short"), 400, "password"),
    ("POST", "/api/users", changed(JANE, password=12345678901), 400, "password"),
    ("POST", "/api/users", changed(JANE, password=LONG), 400, "password"),
    ("POST", "/api/users", changed(JANE, quota_mb="much"), 400, "quota_mb"),
    ("POST", "/api/users", changed(JANE, quota_mb=-1), 400, "quota_mb"),
    ("POST", "/api/users", changed(JANE, quota_mb=10**12), 400, "quota_mb"),
    ("POST", "/api/users", changed(JANE, username="user"), 409, ""),
    ("PUT", "/api/users/user", {"quota_mb": "much"}, 400, "quota_mb"),
    ("PUT", "/api/users/user", {"email": "user"}, 400, "email"),
    ("PUT", "/api/users/user", {"enabled": "perhaps"}, 400, "enabled"),
]
QUEUE: list[Row] = [
    ("GET", "/api/queue?status=lost", None, 400, "status"),
    ("GET", "/api/queue?limit=x", None, 400, "limit"),
    ("GET", "/api/queue/msg_abc123", None, 404, ""),
    ("POST", "/api/queue/msg_abc123/retry", None, 404, ""),
    ("DELETE", "/api/queue/msg_abc123", None, 404, ""),
    ("POST", "/api/queue/{message}/retry", None, 404, ""),
    ("POST", "/api/queue/%00/retry", None, 404, ""),
]
WRONG = [*SEND, *CONFIG, *EMAILS, *DOMAINS, *MESSAGES, *BILLING, *USERS, *QUEUE]

# What a user may not do. The member and `john` are of one organization, the stranger is the administrator of another.
FORBIDDEN: list[tuple[str, str, Any, str, int]] = [
    *(
        (method, path, body, MEMBER, 403)
        for method, path, body in [
            ("GET", "/api/config", None), ("PUT", "/api/config", {"max_workers": 8}), ("POST", "/api/restart", None),
            ("POST", "/domains", {"name": "mine.example"}), ("POST", "/domains/{domain}/verify", None),
            ("PATCH", "/domains/{domain}", {"is_active": True}), ("DELETE", "/domains/{domain}", None),
            ("PATCH", f"{STATUS}?new_status=failed", None),
            ("POST", CHECKOUT, {"price_id": "price_1234567890"}), ("GET", "/billing/customer-portal", None),
            ("PATCH", CANCEL, {"cancel_at_period_end": True}), ("PATCH", "/subscriptions/resume", None),
            ("GET", "/api/users", None), ("GET", "/api/users/john", None), ("POST", "/api/users", JANE),
            ("PUT", "/api/users/john", {"quota_mb": 2000}), ("PUT", "/api/users/user", {"quota_mb": 2000}),
            ("DELETE", "/api/users/john", None), ("GET", "/api/queue?status=retry", None),
            ("POST", "/fetch", {"user_id": "john"}),
        ]
    ),
    *(
        (method, path, body, STRANGER, 404)
        for method, path, body in [
            ("GET", "/domains/{domain}", None), ("POST", "/domains/{domain}/verify", None),
            ("GET", "/domains/{domain}/dns-records", None), ("PATCH", "/domains/{domain}", {"is_active": False}),
            ("DELETE", "/domains/{domain}", None), ("GET", "/messages/domain/{domain}", None),
            ("GET", "/messages/{message}", None), ("DELETE", "/messages/{message}", None),
            ("GET", "/messages/{message}/timeline", None), ("GET", "/messages/{message}/raw", None),
            ("GET", "/messages/thread/{thread}", None), ("GET", "/emails/{message}", None),
            ("POST", "/fetch", {"user_id": "user"}), ("GET", "/api/users/user", None),
            ("PUT", "/api/users/user", {"quota_mb": 1}), ("DELETE", "/api/users/user", None),
        ]
    ),
    ("GET", "/messages?domain_id={domain}", None, STRANGER, 400),
    ("PATCH", f"{STATUS}?new_status=failed", None, STRANGER, 404),
    ("POST", "/api/queue/{queued}/retry", None, MEMBER, 404),  # a colleague's, which they do not see
    ("DELETE", "/api/queue/{queued}", None, MEMBER, 404),
    ("GET", "/messages/{others_message}", None, MEMBER, 404),
    ("GET", "/emails/{others_message}", None, MEMBER, 404),
    ("POST", "/send", changed(R1_MAIL, sender="stranger@other.example"), MEMBER, 422),
    ("POST", "/send", changed(R1_MAIL, sender="boss@foreign.example"), MEMBER, 422),
    ("POST", "/send", changed(R1_MAIL, sender="john@example.com"), STRANGER, 422),
]  # fmt: skip


@pytest.fixture(scope="module")
def ids(world: World) -> dict[str, object]:
    """The ids that rows name."""
    world.with_user("john")
    return {
        "domain": world.domain_id(),
        "message": world.message,
        "thread": world.ask("GET", f"/api/v1/messages/{world.message}")["thread_id"],
        "others_message": world.others_message,
        "queued": world.retrying(),
    }


def name_of(row: tuple[Any, ...]) -> str:
    method, path, body, *rest = row
    words = "" if body is None else str(body)
    shown = f"{method} {path} {words}".replace(LONG, "x…").replace(LONG_WORD, "x…").replace("\r\n", "␍␊")
    return f"{shown[:150]} {rest[0] if isinstance(rest[0], str) else ''}".encode("ascii", "replace").decode()


@pytest.mark.parametrize("row", WRONG, ids=name_of)
def test_wrong_input_is_refused_and_its_field_named(world: World, ids: dict[str, object], row: Row) -> None:
    method, path, body, status, field = row
    answer = world.system.request(method, path.format(**ids), body, auth=("admin", "password"))
    problem = check_problem(answer, status)
    named = [error["field"].split(".") for error in problem.get("errors", [])]
    assert not field or any(field in (".".join(parts), parts[0]) for parts in named), problem.get("errors")


@pytest.mark.parametrize("row", FORBIDDEN, ids=name_of)
def test_what_somebody_may_not_is_refused(
    world: World, ids: dict[str, object], row: tuple[str, str, Any, str, int]
) -> None:
    method, path, body, who, status = row
    name, _, password = (world.member if who == MEMBER else who).partition(":")
    answer = world.system.request(method, path.format(**ids), body, auth=(name, password))
    check_problem(answer, status)


def test_what_was_refused_changed_nothing(world: World, ids: dict[str, object]) -> None:
    for path in ("/domains/{domain}", "/messages/{message}", "/api/queue/{queued}", "/api/users/john"):
        assert world.ask("GET", path.format(**ids), user=ADMIN)
    assert world.system.request("GET", "/api/users/jane2", auth=("admin", "password")).status == 404
