"""The running system that the references' examples are tried on, and what each of them presumes to be there."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from accounts.tests.stripe_stand_in import SECRET, StripeStandIn, signature, stripe_stand_in
from accounts.tests.webhook_receiver import Receiver, receiving
from accounts.tests.zone import Zone, serving
from mailproj.ports import free_port
from mailproj.tests.curl_lines import Answered, curl
from mailproj.tests.references.example import Example
from mailproj.tests.starting import run
from mailproj.tests.whole_system import KEY, System, database_settings, plan, wait_until

ADMIN = "admin:password"
MEMBER_PASSWORD = "MyP@ssw0rd"
STRANGER = f"stranger:{MEMBER_PASSWORD}"
DIAL_UP = "dialup.example"
PRICE = "price_1234567890"

# What no request makes: a plan that is sold, R4's user `username` with the password `password`, a domain whose host
# comes for its mail, and another tenant.
CAST = f"""
from accounts.models import Domain, Organization, Plan, User
example = Organization.objects.get(name="Example")
Plan.objects.create(name="Pro", stripe_price_id="{PRICE}", max_domains=100)
User.objects.create_user("username", "username@example.com", "password", organization=example,
                         is_organization_admin=True)
Domain.objects.create(name="{DIAL_UP}", organization=example, is_trusted=True, delivery="dial_up")
other = Organization.objects.create(name="Other")
Domain.objects.create(name="other.example", organization=other, is_trusted=True)
User.objects.create_user("stranger", "stranger@other.example", "{MEMBER_PASSWORD}", organization=other,
                         is_organization_admin=True)
"""


@dataclass
class World:
    """The demo as `make run` starts it, but delivering; Stripe, DNS and the receiver of webhooks are the test's.

    `ports` says which port stands for one that a reference prints.
    """

    system: System
    stripe: StripeStandIn
    zone: Zone
    hooks: Receiver
    ports: Mapping[int, int]
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def replay(self, example: Example, *, user: str = ADMIN) -> Answered:
        """Run the line as it is printed, but for the words that stand for what exists here."""
        line = self.line_of(example)
        has_credentials = example.is_open or "-u " in line or "X-API-Key" in line
        return curl(line, self.ports, user="" if has_credentials else user)

    def line_of(self, example: Example) -> str:
        """Make what the example presumes, and return its line for that."""
        line = example.line
        for printed, here in example.given(self).items():
            assert printed in line, printed
            line = line.replace(printed, here)
        return line

    def ask(self, method: str, path: str, body: object = None, *, user: str = ADMIN) -> Any:
        """Do something that no example is about; return the answer's JSON."""
        name, _, password = user.partition(":")
        answer = self.system.request(method, path, body, auth=(name, password))
        assert answer.status < 400, answer
        return answer.json if answer.octets else None

    # --- messages ---

    def send(self, to: str, *, user: str = ADMIN, **more: Any) -> str:
        body = {"to": to, "subject": "An important test", "text_body": "Hello.", **more}
        found: str = self.ask("POST", "/api/v1/send", body, user=user)["email_id"]
        return found

    def status_of(self, message_id: str) -> str:
        return str(self.ask("GET", f"/api/v1/messages/{message_id}")["status"])

    def delivered(self, to: str = "user@example.com", **more: Any) -> str:
        """Return a message that lies in a mailbox, and is nobody else's."""
        message_id = self.send(to, **more)
        wait_until(lambda: self.status_of(message_id) == "delivered")
        return message_id

    @cached_property
    def message(self) -> str:
        """The same, for all who only look at it."""
        return self.delivered()

    @cached_property
    def others_message(self) -> str:
        return self.delivered("stranger@other.example", user=STRANGER)

    def retrying(self) -> str:
        """Return a message that was deferred once and waits: a key for tests sends it to the simulated internet."""
        body = {"to": "defer+9@sim.test", "subject": "Test Email", "text_body": "Hello."}
        message_id: str = self.system.request("POST", "/api/v1/send", body, key=KEY).json["email_id"]
        wait_until(lambda: self.ask("GET", f"/api/v1/queue/{message_id}")["status"] == "retry")
        return message_id

    # --- accounts ---

    @property
    def member(self) -> str:
        return f"user:{self.system.mailbox_password()}"

    def without_user(self, username: str) -> None:
        auth = ("admin", "password")
        assert self.system.request("DELETE", f"/api/v1/users/{username}", auth=auth).status in (200, 404)

    def with_user(self, username: str = "john", password: str = MEMBER_PASSWORD, **more: Any) -> int:
        """Make the account anew."""
        self.without_user(username)
        body = {"username": username, "email": f"{username}@example.com", "password": password, **more}
        return int(self.ask("POST", "/api/v1/users", body)["id"])

    def domain_id(self, name: str = "example.com") -> int:
        items = self.ask("GET", "/api/v1/domains?page_size=100")["items"]
        return next(int(item["id"]) for item in items if item["name"] == name)

    def new_domain(self) -> int:
        return int(self.ask("POST", "/api/v1/domains", {"name": f"shop{next(self._numbers)}.example"})["id"])

    # --- Stripe ---

    def tell(self, kind: str, subject: dict[str, Any]) -> None:
        """Say something as Stripe does."""
        body, signed = self.event(kind, subject)
        line = f"curl -X POST http://localhost:8000/webhooks/stripe -H 'Stripe-Signature: {signed}' -d '{body}'"
        answer = curl(line.replace(" -d", " -H 'Content-Type: application/json' -d"), self.ports)
        assert answer.status == 200, answer

    def event(self, kind: str, subject: dict[str, Any]) -> tuple[str, str]:
        """Return an event's body and signature."""
        told = {
            "id": f"evt_{next(self._numbers)}", "object": "event", "type": kind, "created": int(time.time()),
            "data": {"object": subject},
        }  # fmt: skip
        body = json.dumps(told)
        return body, signature(body.encode())

    def checkout(self) -> dict[str, Any]:
        organization = self.ask("GET", "/api/v1/users/admin")["organization_id"]
        return {
            "id": "cs_1", "object": "checkout.session", "customer": "cus_1", "subscription": "sub_1",
            "client_reference_id": str(organization), "metadata": {},
        }  # fmt: skip

    def subscription(self, *, ends: bool = False, status: str = "active") -> dict[str, Any]:
        now = int(time.time())
        item = {"price": {"id": PRICE}, "current_period_end": now + 86400}
        return {
            "id": "sub_1", "object": "subscription", "customer": "cus_1", "status": status, "created": now,
            "cancel_at_period_end": ends, "items": {"data": [item]},
        }  # fmt: skip

    def subscribed(self, *, ends: bool = False) -> None:
        """The organization has paid; `ends`: it has cancelled at the period's end. Stripe obeys the next request."""
        self.tell("checkout.session.completed", self.checkout())
        self.tell("customer.subscription.updated", self.subscription(ends=ends))
        self.stripe.answers["/v1/subscriptions/sub_1"] = (200, self.subscription(ends=not ends))

    def unsubscribed(self) -> None:
        self.tell("customer.subscription.updated", self.subscription(status="canceled"))


@contextmanager
def running(folder: Path) -> Iterator[World]:
    """Start the world, on ports of its own for each that a reference prints."""
    with ExitStack() as stack:
        stripe = stack.enter_context(stripe_stand_in())
        zone = stack.enter_context(serving(Zone()))
        hooks = stack.enter_context(receiving())
        r2_port, r4_port, odmr_port = free_port(), free_port(), free_port()
        system = plan(
            folder,
            ADMIN_PASSWORD="password",
            DELIVERY_MODE="live",
            HTTP_EXTRA_PORTS=f"{r2_port},{r4_port}",
            ODMR_PORT=str(odmr_port),
            SWEEP_INTERVAL_SECONDS="1",
            DNS_SERVERS=f"{zone.address[0]}:{zone.address[1]}",
            STRIPE_API_KEY="sk_test_stand_in",
            STRIPE_API_BASE=stripe.url,
            STRIPE_WEBHOOK_SECRET=SECRET,
            SMTP_WEBHOOK_URL=hooks.url,
            SMTP_WEBHOOK_EVENTS="message.received,spam.detected",
            WEBHOOK_ALLOWED_NETWORKS="127.0.0.0/8",
            **database_settings(),
        )
        ports = {
            8000: system.http_port, 8001: system.http_port, 8003: r2_port, 8080: r4_port, 2525: system.smtp_port,
            2366: odmr_port, 8081: int(system.variables["SMTP_METRICS_PORT"]),
        }  # fmt: skip
        system.start()
        try:
            made = run(["manage.py", "shell", "-c", CAST], system.variables)
            assert made.returncode == 0, made.stderr
            yield World(system, stripe, zone, hooks, ports)
        finally:
            status = system.stop()
        assert status == 0
