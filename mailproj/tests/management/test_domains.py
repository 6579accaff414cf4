"""Domains and aliases in the API."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.conf import LazySettings

from accounts.models import Domain, Organization, TrailEntry
from accounts.tests.zone import Zone, serving
from mailproj.tests.management.asking import V1, ask, fields, problem

pytestmark = pytest.mark.django_db


# --- domains ---


@pytest.fixture
def zone(settings: LazySettings) -> Iterator[Zone]:
    with serving(Zone()) as running:
        settings.DNS_SERVERS = [running.address]
        yield running


def test_an_administrator_makes_a_domain_that_is_pending_until_it_is_verified(zone: Zone) -> None:
    made = ask("POST", "/domains", {"name": "Straße.Example."}, user="acme-boss").json()
    assert (made["name"], made["status"], made["is_usable"]) == ("xn--strae-oqa.example", "pending", False)
    assert made["organization_id"] == Organization.objects.get(name="acme").pk
    checked = ask("POST", f"/domains/{made['id']}/verify", user="acme-boss").json()
    assert checked["status"] == "failed" and checked["last_checked_at"] is not None
    problem(ask("PATCH", f"/domains/{made['id']}", {"is_trusted": True}, user="acme-boss"), 403)
    assert ask("PATCH", f"/domains/{made['id']}", {"is_trusted": True}).json()["is_usable"] is True


def test_staff_say_whose_domain_it_is() -> None:
    blue = Organization.objects.get(name="blue").pk
    assert fields(ask("POST", "/domains", {"name": "n.example"})) == {"organization_id"}
    made = ask("POST", "/domains", {"name": "n.example", "organization_id": blue, "is_trusted": True}).json()
    assert made["organization_id"] == blue and made["is_usable"]
    acme_boss = ask("POST", "/domains", {"name": "m.example", "organization_id": blue}, user="acme-boss")
    assert fields(acme_boss) == {"organization_id"}
    problem(ask("POST", "/domains", {"name": "m.example", "is_trusted": True}, user="acme-boss"), 403)


def test_domains_are_listed_by_status() -> None:
    Domain.objects.filter(name="acme.example").update(status="failed")
    assert [item["name"] for item in ask("GET", "/domains?status=failed").json()["items"]] == ["acme.example"]


def test_a_domain_with_mailboxes_cannot_be_given_up() -> None:
    domain = Domain.objects.get(name="acme.example")
    assert "3 mailboxes" in problem(ask("DELETE", f"/domains/{domain.pk}", user="acme-boss"), 409)["detail"]


def test_whether_a_domain_is_local_tells_of_pending_ones_to_their_owners_alone() -> None:
    Domain.objects.create(name="pending.example", organization=Organization.objects.get(name="acme"))
    for name, user, exists in (
        ("pending.example", "acme-john", True),
        ("pending.example", "blue-john", False),
        ("PENDING.example", "root", True),
        ("blue.example", "acme-john", True),  # any sending host learns it at RCPT
        ("gmail.example", "root", False),
    ):
        for path in (f"/api/domains/{name}/exists", f"{V1}/domains/{name}/exists/", f"/domains/{name}/exists"):
            assert ask("GET", path, user=user).json() == {"exists": exists, "domain": name.lower()}


# --- aliases ---


def test_an_alias_is_made_changed_and_removed() -> None:
    body = {"address": "Info@ACME.example", "targets": ["a@b.example", "c@d.example"]}
    made = ask("POST", f"{V1}/aliases", body, user="acme-boss").json()
    assert (made["address"], made["targets"], made["announcement"], made["is_active"]) == (
        "info@acme.example", ["a@b.example", "c@d.example"], "silent", True,
    )  # fmt: skip
    path = f"{V1}/aliases/{made['id']}"
    assert fields(ask("PATCH", path, {"announcement": "moved"}, user="acme-boss")) == {"announcement"}
    change = {"announcement": "moved", "targets": "a@b.example", "is_active": False}
    assert ask("PATCH", path, change, user="acme-boss").json()["targets"] == ["a@b.example"]
    assert ask("DELETE", path, user="acme-boss").status_code == 204
    kinds = TrailEntry.objects.filter(subject="info@acme.example").order_by("pk").values_list("kind", flat=True)
    assert list(kinds) == ["alias.created", "alias.changed", "alias.deleted"]


def test_a_catch_all_is_an_alias_named_by_an_asterisk() -> None:
    domain = Domain.objects.get(name="acme.example").pk
    body = {"domain_id": domain, "local_part": "*", "targets": "acme-jane@acme.example"}
    assert ask("POST", f"{V1}/aliases", body, user="acme-boss").json()["address"] == "*@acme.example"
    problem(ask("POST", f"{V1}/aliases", {"address": "*@acme.example", "targets": "x@y.example"}), 409)


@pytest.mark.parametrize("address", ["SALES@acme.example", "acme-jane@acme.example"])
def test_an_address_that_is_taken_is_a_conflict(address: str) -> None:
    problem(ask("POST", f"{V1}/aliases", {"address": address, "targets": "a@b.example"}), 409)
