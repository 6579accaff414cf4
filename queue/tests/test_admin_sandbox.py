"""The admin's page of the sandbox: what waits, time to pass after a question, back to real time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from accounts.models import User
from mailflow.models import Message
from queue.models import Entry, SandboxClock
from queue.simulation import clock

Accept = Callable[..., list[int]]
pytestmark = pytest.mark.django_db(transaction=True)

PAGE = "admin:queue_sandboxclock_changelist"
ADVANCE = "admin:queue_sandboxclock_advance"
RESET = "admin:queue_sandboxclock_reset"


@pytest.fixture
def browser(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("root", "root@example.org", "x"))
    return client


def text(browser: Client, name: str = PAGE) -> str:
    answer = browser.get(reverse(name))
    assert answer.status_code == 200
    return answer.content.decode()


def test_the_page_tells_the_clock_and_the_addresses(browser: Client, accept: Accept) -> None:
    accept("defer+3@sim.test")
    page = text(browser)
    assert "real time" in page and "bounced@sim.test" in page and "tls-broken@sim.test" in page
    assert ">1</a>" in page


def test_time_passes_after_a_question_that_tells_the_count(browser: Client, accept: Accept) -> None:
    accept("defer+3@sim.test", "captured@foreign.example", sender=None)
    asked = browser.post(reverse(ADVANCE), {"span": "5d"}).content.decode()
    assert "Let 5d pass" in asked and "2 of 2 waiting entries become due" in asked
    assert clock.ahead() == clock.REAL_TIME
    told = browser.post(reverse(ADVANCE), {"span": "5d", "confirmed": "yes"}, follow=True).content.decode()
    assert "5d passed: 5 attempts, 1 delivered, 1 captured, 3 deferred." in told
    assert "ahead of real time" in told
    assert set(Entry.objects.values_list("status", flat=True)) == {"delivered"}
    assert SandboxClock.objects.get().changed_by == "root"


def test_a_message_page_says_what_was_simulated(browser: Client, accept: Accept) -> None:
    accept("defer+2@sim.test", sender=None)
    browser.post(reverse(ADVANCE), {"span": "1d", "confirmed": "yes"})
    page = browser.get(reverse("admin:mailflow_message_change", args=[Message.objects.get().pk])).content.decode()
    assert "Delivered in the simulated internet: nothing left this machine." in page
    assert page.count("simulated time") >= 2
    assert "By SMTP in the simulated internet, over TLS" in page
    assert "Captured by the sandbox" not in page


def test_the_queue_tells_what_waits_by_the_sandboxs_clock(browser: Client, accept: Accept) -> None:
    accept("full@sim.test", sender=None)
    browser.post(reverse(ADVANCE), {"span": "10m", "confirmed": "yes"})
    page = browser.get(reverse("admin:queue_entry_changelist"), {"sandbox": "waiting"}).content.decode()
    assert "full@sim.test" in page and "simulated time<br>" in page


def test_a_reset_asks_too_and_takes_what_waits_along(browser: Client, accept: Accept) -> None:
    accept("full@sim.test", sender=None)
    clock.move_to(clock.now() + dt.timedelta(days=3), actor="test")
    asked = browser.post(reverse(RESET)).content.decode()
    assert "Go back to real time?" in asked and "1 waiting entry comes along" in asked and clock.ahead()
    told = browser.post(reverse(RESET), {"confirmed": "yes"}, follow=True).content.decode()
    assert "1 waiting entry came along." in told and clock.ahead() == clock.REAL_TIME


@pytest.mark.parametrize("span", ["", "soon", "0d", "9999999d", "<b>"])
def test_a_span_that_is_none_is_refused_in_words(browser: Client, span: str) -> None:
    told = browser.post(reverse(ADVANCE), {"span": span, "confirmed": "yes"}, follow=True).content.decode()
    assert "is no span of time" in told or "is not between" in told
    assert "'<b>'" not in told
    assert clock.ahead() == clock.REAL_TIME


def test_only_who_may_change_it_lets_time_pass(client: Client) -> None:
    viewer = User.objects.create_user("viewer", "viewer@example.org", "x", is_staff=True)
    client.force_login(viewer)
    assert client.get(reverse(PAGE)).status_code == 403
    viewer.user_permissions.add(Permission.objects.get(codename="view_sandboxclock"))
    assert "Let time pass" not in text(client)
    for name in (ADVANCE, RESET):
        assert client.post(reverse(name), {"span": "1d", "confirmed": "yes"}).status_code == 403
        assert client.get(reverse(name)).status_code == 405
    assert clock.ahead() == clock.REAL_TIME


@pytest.mark.parametrize("model", ["queue_attempt", "mailflow_event"])
def test_lists_tell_simulated_time_from_real_time(browser: Client, accept: Accept, model: str) -> None:
    accept("ok@sim.test", sender=None)
    browser.post(reverse(ADVANCE), {"span": "1h", "confirmed": "yes"})
    address = reverse(f"admin:{model}_changelist")
    assert b"simulated time" not in browser.get(address).content
    accept("ok@sim.test", sender=None)
    browser.post(reverse(ADVANCE), {"span": "1h", "confirmed": "yes"})
    assert browser.get(address).content.count(b"simulated time") == 1
