"""R3, SMTPy: its thirty curl lines, about domains, messages and billing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from mailproj.tests.references.example import ADDRESS, MESSAGE_ID, PAGE, TIME, Example, check
from mailproj.tests.references.world import PRICE, World
from mailproj.tests.whole_system import wait_until

pytestmark = pytest.mark.slow

DOMAIN = {
    "id": int, "name": str, "organization_id": int, "status": ("pending", "verified", "failed"), "is_active": bool,
    "mx_record_verified": bool, "spf_record_verified": bool, "dkim_record_verified": bool,
    "dmarc_record_verified": bool, "dkim_public_key": (str, None), "verification_token": str, "created_at": TIME,
    "updated_at": TIME,
}  # fmt: skip
MESSAGE = {
    "id": MESSAGE_ID, "message_id": MESSAGE_ID, "thread_id": (str, None), "domain_id": (int, None),
    "sender_email": str, "recipient_email": ADDRESS, "forwarded_to": (str, None), "subject": str, "body_preview": str,
    "status": ("pending", "processing", "delivered", "failed", "bounced", "rejected"), "error_message": (str, None),
    "size_bytes": int, "has_attachments": bool, "created_at": TIME, "updated_at": TIME,
}  # fmt: skip
MESSAGES = {**PAGE, "items": [MESSAGE]}
STATISTICS = {
    "total_messages": int, "delivered_messages": int, "failed_messages": int, "pending_messages": int,
    "total_size_bytes": int,
}  # fmt: skip
SUBSCRIPTION = {
    "id": "sub_1", "status": "active", "plan": {"name": "Pro"}, "current_period_end": TIME,
    "cancel_at_period_end": bool,
}  # fmt: skip
STRIPES_PAGE = {"session_id": str, "url": str}


def the_domain(world: World) -> Mapping[str, str]:
    return {"/domains/1": f"/domains/{world.domain_id()}"}


def a_domain(world: World) -> Mapping[str, str]:
    return {"/domains/1": f"/domains/{world.new_domain()}"}


def the_message(world: World) -> Mapping[str, str]:
    return {"/messages/123": f"/messages/{world.message}"}


def a_message(world: World) -> Mapping[str, str]:
    return {"/messages/123": f"/messages/{world.delivered()}"}


def some_message(world: World) -> Mapping[str, str]:
    assert world.message
    return {}


def a_thread(world: World) -> Mapping[str, str]:
    return {"thread-id-123": world.ask("GET", f"/api/v1/messages/{world.message}")["thread_id"]}


def mail_of_the_domain(world: World) -> Mapping[str, str]:
    assert world.message
    return {"domain/1?": f"domain/{world.domain_id()}?"}


def mail_of_the_filter(world: World) -> Mapping[str, str]:
    """Mail of this year to the domain, from the address that is asked for."""
    world.delivered("to@example.com", sender="user@example.com", user=world.member)
    return {"domain_id=1&": f"domain_id={world.domain_id()}&"}


def mail_of_this_year(world: World) -> Mapping[str, str]:
    year = world.ask("GET", f"/api/v1/messages/{world.message}")["created_at"][:4]
    return {"date_from=2025": f"date_from={year}", "date_to=2025": f"date_to={year}"}


def mail_of_the_sender(world: World) -> Mapping[str, str]:
    world.delivered("to@example.com", sender="user@example.com", user=world.member)
    return {}


def no_subscription(world: World) -> Mapping[str, str]:
    world.unsubscribed()
    return {}


def a_subscription(world: World) -> Mapping[str, str]:
    world.subscribed()
    return {}


def a_cancelled_subscription(world: World) -> Mapping[str, str]:
    world.subscribed(ends=True)
    return {}


def stripes_event(world: World) -> Mapping[str, str]:
    body, signed = world.event("checkout.session.completed", world.checkout())
    return {"t=...": signed, "{...stripe event data...}": body}


CREATE_DOMAIN = r"""curl -X POST "http://localhost:8000/domains" \
  -H "Content-Type: application/json" \
  -d '{"name": "example.com"}'"""

HEALTH = [
    Example("GET /", "curl http://localhost:8000/", {"status": "healthy"}, is_open=True),
    Example(
        "GET /health",
        "curl http://localhost:8000/health",
        {"status": "healthy", "version": str, "checks": {"database": {"status": "ok"}, "redis": {"status": "ok"}}},
        is_open=True,
    ),
]
DOMAINS = [
    Example(
        "POST /domains",
        CREATE_DOMAIN,
        {**DOMAIN, "status": "pending"},
        status=201,
        given=lambda world: {"example.com": f"new{world.new_domain()}.example"},
    ),
    Example("GET /domains", 'curl "http://localhost:8000/domains"', {**PAGE, "items": [DOMAIN]}),
    Example(
        "GET /domains, pagination",
        'curl "http://localhost:8000/domains?page=1&page_size=10"',
        {**PAGE, "items": [DOMAIN], "page": 1, "page_size": 10},
    ),
    Example("GET /domains/{id}", 'curl "http://localhost:8000/domains/1"', DOMAIN, given=the_domain),
    Example(
        "POST /domains/{id}/verify", 'curl -X POST "http://localhost:8000/domains/1/verify"', DOMAIN, given=a_domain
    ),
    Example(
        "GET /domains/{id}/dns-records",
        'curl "http://localhost:8000/domains/1/dns-records"',
        {"records": [{"purpose": str, "type": str, "name": str, "value": str}], "zone": str},
        given=the_domain,
    ),
    Example(
        "PATCH /domains/{id}",
        r"""curl -X PATCH "http://localhost:8000/domains/1" \
  -H "Content-Type: application/json" \
  -d '{"is_active": true}'""",
        {**DOMAIN, "is_active": True},
        given=the_domain,
    ),
    Example("DELETE /domains/{id}", 'curl -X DELETE "http://localhost:8000/domains/1"', status=204, given=a_domain),
]
OF_MESSAGES = [
    Example("GET /messages", 'curl "http://localhost:8000/messages"', MESSAGES, given=some_message),
    Example(
        "GET /messages, filters",
        'curl "http://localhost:8000/messages?status=delivered&domain_id=1&page=1&page_size=20"',
        {**MESSAGES, "items": [{**MESSAGE, "status": "delivered"}], "page": 1, "page_size": 20},
        given=mail_of_the_filter,
    ),
    Example(
        "GET /messages, date range",
        'curl "http://localhost:8000/messages?date_from=2025-01-01&date_to=2025-12-31"',
        MESSAGES,
        given=mail_of_this_year,
    ),
    Example(
        "GET /messages, sender",
        'curl "http://localhost:8000/messages?sender_email=user@example.com"',
        {**MESSAGES, "items": [{**MESSAGE, "sender_email": "user@example.com"}]},
        given=mail_of_the_sender,
    ),
    Example(
        "GET /messages/search",
        'curl "http://localhost:8000/messages/search?q=important"',
        {**MESSAGES, "items": [{**MESSAGE, "subject": "An important test"}]},
        given=some_message,
    ),
    Example("GET /messages/stats", 'curl "http://localhost:8000/messages/stats"', STATISTICS),
    Example("GET /messages/stats, since", 'curl "http://localhost:8000/messages/stats?since=2025-01-01"', STATISTICS),
    Example(
        "GET /messages/recent", 'curl "http://localhost:8000/messages/recent?limit=5"', MESSAGES, given=some_message
    ),
    Example("GET /messages/{id}", 'curl "http://localhost:8000/messages/123"', MESSAGE, given=the_message),
    Example(
        "GET /messages/domain/{id}",
        'curl "http://localhost:8000/messages/domain/1?page=1&page_size=20"',
        {**MESSAGES, "page": 1, "page_size": 20},
        given=mail_of_the_domain,
    ),
    Example(
        "GET /messages/thread/{thread_id}",
        'curl "http://localhost:8000/messages/thread/thread-id-123"',
        MESSAGES,
        given=a_thread,
    ),
    Example(
        "PATCH /messages/{id}/status",
        'curl -X PATCH "http://localhost:8000/messages/123/status?new_status=delivered&forwarded_to=user@example.com"',
        {**MESSAGE, "status": "delivered", "forwarded_to": "user@example.com"},
        given=a_message,
    ),
    Example(
        "DELETE /messages/{id}", 'curl -X DELETE "http://localhost:8000/messages/123"', status=204, given=a_message
    ),
]
BILLING = [
    Example(
        "POST /billing/checkout-session",
        r"""curl -X POST "http://localhost:8000/billing/checkout-session" \
  -H "Content-Type: application/json" \
  -d '{"price_id": "price_1234567890"}'""",
        STRIPES_PAGE,
        given=no_subscription,
    ),
    Example(
        "GET /billing/customer-portal",
        'curl "http://localhost:8000/billing/customer-portal"',
        STRIPES_PAGE,
        given=a_subscription,
    ),
    Example(
        "GET /subscriptions/me", 'curl "http://localhost:8000/subscriptions/me"', SUBSCRIPTION, given=a_subscription
    ),
    Example(
        "PATCH /subscriptions/cancel",
        r"""curl -X PATCH "http://localhost:8000/subscriptions/cancel" \
  -H "Content-Type: application/json" \
  -d '{"cancel_at_period_end": true}'""",
        {**SUBSCRIPTION, "cancel_at_period_end": True},
        given=a_subscription,
    ),
    Example(
        "PATCH /subscriptions/resume",
        'curl -X PATCH "http://localhost:8000/subscriptions/resume"',
        {**SUBSCRIPTION, "cancel_at_period_end": False},
        given=a_cancelled_subscription,
    ),
    Example(
        "GET /billing/organization",
        'curl "http://localhost:8000/billing/organization"',
        {
            "organization_id": int, "organization_name": "Example", "stripe_customer_id": "cus_1",
            "subscription": SUBSCRIPTION, "usage": {"domains": int, "mailboxes": int, "messages_today": int},
        },
        given=a_subscription,
    ),
    Example(
        "POST /webhooks/stripe",
        r"""curl -X POST "http://localhost:8000/webhooks/stripe" \
  -H "Content-Type: application/json" \
  -H "Stripe-Signature: t=..." \
  -d '{...stripe event data...}'""",
        {"received": True},
        given=stripes_event,
        is_open=True,
    ),
]  # fmt: skip
LINES = [*HEALTH, *DOMAINS, *OF_MESSAGES, *BILLING]


@pytest.mark.parametrize("example", LINES, ids=str)
def test_r3_line(world: World, example: Example) -> None:
    answer = world.replay(example)
    assert answer.status == example.status, answer
    if example.answer is None:
        assert answer.octets == b""
    else:
        check(answer.json, example.answer)


def line(name: str) -> Example:
    return next(example for example in LINES if example.name == name)


def test_r3_a_domain_that_is_there_is_not_created_again(world: World) -> None:
    again = Example("again", CREATE_DOMAIN)
    answer = world.replay(again)
    assert (answer.status, answer.json["code"]) == (409, "CONFLICT")


def test_r3_a_domain_whose_records_are_published_is_verified(world: World) -> None:
    domain_id = world.new_domain()
    verify = f"/api/v1/domains/{domain_id}/verify"
    before = world.ask("POST", verify)
    assert before["status"] == "failed" and not before["mx_record_verified"]
    publish(world, domain_id)
    after = world.ask("POST", verify)
    assert (after["status"], after["is_usable"], len(after["dkim_public_key"]) > 300) == ("verified", True, True)
    for kind in ("mx", "spf", "dkim", "dmarc"):
        assert after[f"{kind}_record_verified"] is True
    assert {record["status"] for record in after["records"]} == {"ok"} and all(r["found"] for r in after["records"])


def publish(world: World, domain_id: int) -> None:
    """Put into the test's DNS what `dns-records` says, as a person pastes it into a zone."""
    for written in world.ask("GET", f"/api/v1/domains/{domain_id}/dns-records")["zone"].splitlines():
        owner, _, rest = written.partition(" IN ")
        kind, _, data = rest.partition(" ")
        world.zone.records.setdefault((owner.split()[0].rstrip("."), kind), []).append(data)


def test_r3_a_deleted_domain_and_a_deleted_message_are_gone(world: World) -> None:
    for path in (f"/domains/{world.new_domain()}", f"/messages/{world.delivered()}"):
        world.ask("DELETE", path)
        assert world.system.request("GET", path, auth=("admin", "password")).status == 404


def test_r3_stripe_is_asked_for_what_the_lines_say(world: World) -> None:
    def asked(name: str) -> tuple[str, str, Mapping[str, Any]]:
        before = len(world.stripe.asked)
        world.replay(line(name))
        [(method, path, form, _)] = world.stripe.asked[before:]
        return method, path, form

    method, path, form = asked("POST /billing/checkout-session")
    assert (method, path, form["line_items[0][price]"]) == ("POST", "/v1/checkout/sessions", PRICE)
    _, path, form = asked("GET /billing/customer-portal")
    assert (path, form["customer"]) == ("/v1/billing_portal/sessions", "cus_1")
    _, path, form = asked("PATCH /subscriptions/cancel")
    assert (path, form) == ("/v1/subscriptions/sub_1", {"cancel_at_period_end": "true"})
    _, path, form = asked("PATCH /subscriptions/resume")
    assert (path, form) == ("/v1/subscriptions/sub_1", {"cancel_at_period_end": "false"})


def test_r3_an_event_of_stripes_changes_the_subscription(world: World) -> None:
    world.subscribed()
    world.unsubscribed()
    wait_until(lambda: world.ask("GET", "/subscriptions/me")["status"] == "canceled")
