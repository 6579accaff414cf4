"""The queue's pages in the admin: filters, actions with their questions, the queue by domain, progress."""

from __future__ import annotations

import datetime as dt
import html
import json
import re
from collections.abc import Callable
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts.models import TrailEntry, User
from mailflow.models import Event, Message
from queue import actions, control, overview, selection
from queue.admin import entry_filters
from queue.admin.entries import EntryAdmin
from queue.control import Action, Order
from queue.models import Entry, QueueAction
from queue.suppress import Hit

Accept = Callable[..., list[int]]
LIST = "admin:queue_entry_changelist"


@pytest.fixture(autouse=True)
def _counted_anew() -> None:
    overview.forget()


@pytest.fixture
def browser(client: Client, db: None) -> Client:
    client.force_login(User.objects.create_superuser("root", "root@example.com", "x"))
    return client


@pytest.fixture
def message(accept: Accept, settings: Any) -> Message:
    settings.DELIVERY_MODE = "live"  # another way is for nothing of the sandbox
    accept("anna@x.example", "bob@y.example")
    return Message.objects.get()


def listed(browser: Client, **query: str) -> set[str]:
    answer = browser.get(reverse(LIST), query)
    assert answer.status_code == 200
    return {entry.recipient.partition("@")[0] for entry in answer.context["cl"].result_list}


def asked(browser: Client, action: str, *, across: bool = False, **query: str) -> str:
    """Choose an action in the list; return the page that asks."""
    form = {"action": action, "_selected_action": [entry.pk for entry in Entry.objects.all()]}
    form["select_across"] = ["1" if across else "0"]
    answer = browser.post(reverse(LIST, query=query) if query else reverse(LIST), form)
    assert answer.status_code == 200
    return answer.content.decode()


def confirmed(browser: Client, page: str, **fields: str) -> str:
    """Fill in the page that asks, and send it; return the page that follows."""
    hidden = dict(re.findall(r'<input type="hidden" name="(action|filter|back)" value="(.*?)">', page))
    values = {name: html.unescape(value) for name, value in hidden.items()}
    answer = browser.post(reverse("admin:queue_entry_act"), {**values, **fields}, follow=True)
    assert answer.status_code == 200
    return answer.content.decode()


@pytest.fixture
def mixed(accept: Accept) -> None:
    accept("held@x.example", "free@x.example", "late@y.example", "gone@z.example", "had@z.example")
    control.carry_out(Order(Action.HOLD, "anna", "spam"), Entry.objects.filter(recipient__startswith="held"))
    at = timezone.now() + dt.timedelta(hours=1)
    Entry.objects.filter(recipient__startswith="late").update(scheduled_at=at, next_attempt_at=at)
    control.remove(Entry.objects.filter(recipient__startswith="gone"), actor="root")
    Entry.objects.filter(recipient__startswith="had").update(
        status="delivered", next_attempt_at=None, finished_at=timezone.now()
    )


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({}, "held free late"),
        ({"status__exact": "all"}, "held free late gone had"),
        ({"status__exact": "pending"}, "held free late"),
        ({"status__exact": "failed"}, "gone"),
        ({"status__exact": "delivered"}, "had"),
        ({"held": "true"}, "held"),
        ({"held": "false"}, "free late"),
        ({"scheduled": "true"}, "late"),
        ({"domain": "x.example"}, "held free"),
        ({"domain": "no domain"}, ""),
        ({"since": "1h"}, "held free late"),
        ({"q": "y.example"}, "late"),
        ({"q": "free@x.example"}, "free"),
        ({"q": "trace"}, "held free late"),
        ({"q": "nothing of it"}, ""),
    ],
    ids=str,
)
def test_the_list_is_filtered(browser: Client, mixed: None, query: dict[str, str], names: str) -> None:
    assert listed(browser, **query) == set(names.split())


def test_a_message_id_finds_what_has_ended_too(browser: Client, mixed: None) -> None:
    assert len(listed(browser, q=Message.objects.get().pk)) == 5


def test_the_list_says_who_holds_what_and_why(browser: Client, mixed: None) -> None:
    page = browser.get(reverse(LIST)).content.decode()
    assert "On hold" in page and "Scheduled" in page
    assert "by anna: spam" in page


@pytest.mark.parametrize(
    ("action", "fields", "done"),
    [
        ("hold", {"reason": "storm"}, "Hold: 2 done."),
        ("retry", {}, "Retry now: 2 done."),
        ("retry", {"at": "2h"}, ": 2 done."),
        ("reroute", {"route": "relay.example.com"}, "Reroute to relay.example.com: 2 done."),
        ("expire", {"max_attempts": "9"}, "At most 9 attempts: 2 done."),
        ("fail", {"dsn": "on"}, "Fail with a report to the sender: 2 done."),
        ("fail", {}, "Fail without a report: 2 done."),
        ("delete", {}, "Delete: 2 done."),
    ],
    ids=str,
)
def test_an_action_asks_with_the_count_and_does_it_when_told(
    browser: Client, message: Message, action: str, fields: dict[str, str], done: str
) -> None:
    before = list(Entry.objects.values())
    page = asked(browser, action)
    assert " 2 queue entries?" in page and "anna@x.example" in page
    assert list(Entry.objects.values()) == before
    assert done in html.unescape(confirmed(browser, page, **fields))
    assert set(Event.objects.exclude(actor="").values_list("actor", flat=True)) == {"root"}
    assert TrailEntry.objects.get(kind=f"queue.{action}").actor == "root"


def test_a_wrong_parameter_is_told_beside_its_field_and_nothing_is_done(browser: Client, message: Message) -> None:
    page = confirmed(browser, asked(browser, "retry"), at="yesterday")
    assert "A time such as 2026-11-27T10:00Z" in page and "Retry 2 queue entries?" in page
    page = confirmed(browser, asked(browser, "reroute"), route="no host")
    assert "is no host" in html.unescape(page)
    assert not QueueAction.objects.exists()


def test_what_is_left_alone_is_told(browser: Client, message: Message) -> None:
    leased = Entry.objects.earliest("pk")
    Entry.objects.filter(pk=leased.pk).update(lease="w", next_attempt_at=timezone.now() + dt.timedelta(minutes=1))
    page = confirmed(browser, asked(browser, "retry"))
    assert (
        "Retry now: 1 done, 1 left alone (1 with a worker already: being delivered, or waiting there for their turn)."
        in page
    )


def test_all_that_the_list_shows_is_taken_by_its_conditions(browser: Client, mixed: None) -> None:
    page = asked(browser, "delete", across=True, domain="x.example", held="true")
    assert "Delete 1 queue entry?" in page and "domain x.example, held" in page
    confirmed(browser, page)
    assert listed(browser) == {"free", "late"}


def test_what_the_list_shows_of_the_ended_cannot_be_acted_on(browser: Client, mixed: None) -> None:
    assert "None of the chosen queue entries is open" in asked(browser, "delete", across=True, status__exact="failed")
    form = {"action": "delete", "_selected_action": ["1"], "select_across": ["1"]}
    answer = browser.post(reverse(LIST, query={"status__exact": "delivered"}), form, follow=True)
    assert "has ended, or is no selection" in answer.content.decode()


@pytest.fixture
def chosen_otherwise(mixed: None, accept: Accept) -> None:
    """Entries of which each filter of the list shows some and leaves out others."""
    accept("sim@w.example", "simheld@w.example", "old@x.example")
    Entry.objects.update(is_sandbox=False)
    Entry.objects.filter(recipient__startswith="sim").update(is_sandbox=True)
    Entry.objects.filter(recipient__startswith="simheld").update(held_at=timezone.now(), next_attempt_at=None)
    Entry.objects.filter(recipient__startswith="old").update(status="retry", attempts=1)


def selected(**query: str) -> set[str] | None:
    """Return whom an action on all that the list shows would be done to."""
    chosen = entry_filters.selection_of(RequestFactory().get("/", query))
    return None if chosen is None else {one.recipient.partition("@")[0] for one in chosen.open_entries()}


def test_every_filter_of_the_list_and_each_pair_is_read_for_an_action_on_all_of_it(
    browser: Client, chosen_otherwise: None
) -> None:
    shown = browser.get(reverse(LIST)).context["cl"].filter_specs
    assert [type(one) for one in shown] == EntryAdmin.list_filter
    choices = [
        [{one.parameter_name: str(value)} for value, _ in one.lookup_choices]
        for one in [*shown, SimpleNamespace(parameter_name="q", lookup_choices=[("x.example", ""), ("trace", "")])]
    ]
    assert all(choices) and [{"sandbox": "waiting"}] in choices
    queries = [one for group in choices for one in group]
    queries += [{**one, **other} for a, b in combinations(choices, 2) for one in a for other in b]
    open_ones = {"held", "free", "late", "sim", "simheld", "old"}
    for query in queries:
        meant = selected(**query)
        assert meant is None or meant == listed(browser, **query) & open_ones, query
    assert selected(sandbox="waiting") == {"sim"}
    assert selected(q=Message.objects.latest("pk").pk) == {"sim", "simheld", "old"}
    assert selected(message__id__exact=Message.objects.latest("pk").pk) == {"sim", "simheld", "old"}


@pytest.mark.parametrize(
    "query", [{"route": ""}, {"o": "1"}, {"p": "1"}, {"since": "ever"}], ids=str
)  # fmt: skip
def test_what_leaves_nothing_out_of_the_list_is_no_condition(chosen_otherwise: None, query: dict[str, str]) -> None:
    assert selected(**query) == {"held", "free", "late", "sim", "simheld", "old"}


@pytest.mark.parametrize(
    "query", [{"attempts__gte": "1"}, {"sandbox": "waiting", "held": "true"}, {"no": "x"}], ids=str
)
def test_all_that_a_list_shows_by_something_that_is_no_condition_is_refused(
    browser: Client, chosen_otherwise: None, query: dict[str, str]
) -> None:
    assert selected(**query) is None


def test_the_row_of_the_suppression_list_that_kept_mail_back_is_a_link(browser: Client, message: Message) -> None:
    hit = Hit(384, "complaint", "<b>no</b> (row 5, x)", timezone.now(), message.pk, "of Example")
    told = f"Not sent: {hit.told('anna@x.example')}."
    Entry.objects.filter(recipient__startswith="anna").update(status="failed", last_reply=told)
    page = browser.get(reverse("admin:mailflow_message_change", args=[message.pk])).content.decode()
    row, source = reverse("admin:queue_suppression_change", args=[384]), quote(message.pk)
    assert f'<a href="{row}" class="text-link">row 384</a>, complaint, from message <a href=' in page
    assert f'/{source}/change/" class="text-link">{message.pk}</a>)' in page and "<b>no" not in page


def test_a_filter_leads_to_the_question(browser: Client, mixed: None) -> None:
    act = reverse("admin:queue_entry_act")
    assert "Count, and go on" in browser.get(act).content.decode()
    page = browser.get(act, {"action": "hold", "domain": "x.example, y.example", "held": "false"}).content.decode()
    assert "Hold 2 queue entries?" in page
    assert "domain x.example or y.example, not held" in page
    back = html.unescape(re.findall(r'href="[^"?]*(\?[^"]*edit=1[^"]*)"', page)[0])
    again = browser.get(act + back).content.decode()
    assert 'value="x.example, y.example"' in again
    assert "Hold: 2 done." in confirmed(browser, page)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"action": "hold"}, "At least one condition is needed"),
        ({"action": "fly", "held": "true"}, "Select a valid choice"),
        ({"action": "hold", "domain": "no domain"}, "is no domain"),
        ({"action": "hold", "older_than": "long"}, "A span such as"),
        ({"action": "hold", "all": "true", "held": "true"}, "cannot be given together"),
    ],
)
def test_a_wrong_filter_is_told_beside_its_field(
    browser: Client, mixed: None, query: dict[str, str], words: str
) -> None:
    page = browser.get(reverse("admin:queue_entry_act"), query).content.decode()
    assert words in html.unescape(page) and "Count, and go on" in page


@pytest.mark.parametrize(
    "form", [{}, {"action": "hold"}, {"action": "hold", "filter": "{"}, {"action": "hold", "filter": "[1]"},
             {"action": "hold", "filter": "{}"}, {"action": "x", "filter": '{"all": true}'}], ids=str,
)  # fmt: skip
def test_a_form_that_is_not_ours_does_nothing(browser: Client, message: Message, form: dict[str, str]) -> None:
    answer = browser.post(reverse("admin:queue_entry_act"), form, follow=True)
    assert "nothing was done" in answer.content.decode()
    assert not QueueAction.objects.exists()


def test_nobody_is_led_elsewhere_after_an_action(browser: Client, message: Message) -> None:
    for back in ("https://evil.example/", "//evil.example/?x=1", "message://evil.example", "message:", "id:/../x"):
        form = {"action": "hold", "filter": json.dumps({"all": True}), "back": back}
        answer = browser.post(reverse("admin:queue_entry_act"), form)
        assert answer.headers["Location"].partition("?")[0] == reverse(LIST)


def offered(browser: Client, page: str) -> dict[str, str]:
    """Return the buttons of a page of a message or an entry, with where they lead."""
    shown = browser.get(page).content.decode()
    found = re.findall(r'<a href="([^"]*(?:/act/\?|/reschedule/)[^"]*)" class="border[^>]*>([^<]*)</a>', shown)
    return {title: html.unescape(address) for address, title in found}


ENDING = ["Fail", "Delete"]


@pytest.mark.parametrize(
    ("changed", "state", "titles"),
    [
        ({}, "Pending", ["Retry now", "Hold", *ENDING]),
        ({"status": "retry", "attempts": 1}, "Waiting to retry", ["Retry now", "Hold", *ENDING]),
        ({"held_at": timezone.now(), "hold_reason": "anna: spam"}, "On hold", ["Release", *ENDING]),
        ({"scheduled_at": timezone.now() + dt.timedelta(hours=1)}, "Scheduled", ["Hold", *ENDING]),
        ({"scheduled_at": timezone.now() - dt.timedelta(hours=1)}, "Scheduled", ["Retry now", "Hold", *ENDING]),
        ({"status": "bounced", "finished_at": timezone.now(), "next_attempt_at": None}, "Bounced", []),
    ],
    ids=["pending", "retry", "held", "scheduled", "scheduled for a time that came", "bounced"],
)
def test_the_pages_of_message_and_entry_name_the_state_as_the_list_does_and_offer_what_applies(
    browser: Client, accept: Accept, changed: dict[str, Any], state: str, titles: list[str]
) -> None:
    (pk,) = accept("anna@x.example")
    Entry.objects.update(**changed)
    entry = Entry.objects.get()
    of_entry = reverse("admin:queue_entry_change", args=[pk])
    of_message = reverse("admin:mailflow_message_change", args=[entry.message_id])
    later = ["Send now", "Reschedule"] if state == "Scheduled" and "Retry now" not in titles else []
    assert list(offered(browser, of_entry)) == titles
    assert list(offered(browser, of_message)) == [*later, *titles]
    for page in (of_entry, of_message, reverse(LIST, query={"status__exact": "all"})):
        label = re.compile(rf"<span[^>]*>\s*(?:<[^>]*>\s*)*{state}\s*</", re.DOTALL)
        assert label.search(browser.get(page).content.decode()), page
    if titles:
        assert "t waits for" in browser.get(of_entry).content.decode()
    if state == "On hold":
        assert "by anna: spam" in browser.get(of_entry).content.decode()


def test_an_action_from_an_entrys_page_leads_back_to_it(browser: Client, message: Message) -> None:
    page = reverse("admin:queue_entry_change", args=[Entry.objects.earliest("pk").pk])
    question = browser.get(offered(browser, page)["Hold"]).content.decode()
    assert "Hold 1 queue entry?" in question
    after = confirmed(browser, question, reason="look at it")
    assert "Hold: 1 done." in after and "on hold since" in after and "root: look at it" in after


def test_a_scheduled_message_is_sent_now_or_put_at_another_time(browser: Client, message: Message) -> None:
    at = timezone.now() + dt.timedelta(hours=1)
    Entry.objects.update(scheduled_at=at, next_attempt_at=at)
    buttons = offered(browser, reverse("admin:mailflow_message_change", args=[message.pk]))
    page = browser.get(buttons["Reschedule"]).content.decode()
    assert "to 2 recipients?" in page and f"{at:%Y-%m-%d %H:%M:%S}" in page
    for wrong in ("", "yesterday", "2020-01-01", "900d"):
        answer = browser.post(buttons["Reschedule"], {"at": wrong})
        assert answer.status_code == 200 and "text-red-700" in answer.content.decode()
    assert set(Entry.objects.values_list("scheduled_at", flat=True)) == {at}
    answer = browser.post(buttons["Reschedule"], {"at": "3h"}, follow=True)
    assert "for 2 recipients." in answer.content.decode() and "What happened, and why" in answer.content.decode()
    assert Entry.objects.filter(next_attempt_at__gt=at + dt.timedelta(hours=1)).count() == 2
    assert 'value="now"' in browser.get(buttons["Send now"]).content.decode()
    browser.post(buttons["Send now"], {"at": "now"})
    assert Entry.objects.filter(next_attempt_at__lte=timezone.now()).count() == 2
    Entry.objects.update(status="retry", attempts=1)
    assert "there is nothing to do" in browser.get(buttons["Send now"]).content.decode()
    answer = browser.post(buttons["Send now"], {"at": "now"}, follow=True)
    assert "It cannot be rescheduled. It has left" in answer.content.decode()


def test_the_message_pages_buttons_ask_for_that_message_alone(
    browser: Client, message: Message, accept: Accept
) -> None:
    (other,) = accept("carl@z.example")
    page = reverse("admin:mailflow_message_change", args=[quote(message.pk)])
    question = browser.get(offered(browser, page)["Delete"]).content.decode()
    assert "Delete 2 queue entries?" in question and f'href="{page}"' in question
    assert "What happened, and why" in confirmed(browser, question)  # it leads back
    assert Entry.objects.get(pk=other).status == "pending"
    assert Entry.objects.filter(status="failed").count() == 2


@pytest.fixture
def clerk(client: Client, db: None) -> Client:
    """Staff who may only look."""
    user = User.objects.create_user("clerk", "clerk@example.com", "x", is_staff=True)
    names = ["view_entry", "view_message", "view_attempt", "view_queueaction"]
    user.user_permissions.set(Permission.objects.filter(codename__in=names))
    client.force_login(user)
    return client


def test_who_may_only_look_has_no_actions(clerk: Client, message: Message) -> None:
    page = clerk.get(reverse("admin:mailflow_message_change", args=[message.pk])).content.decode()
    assert "action=delete" not in page
    assert clerk.get(reverse("admin:queue_entry_domains")).status_code == 200
    assert "action=hold" not in clerk.get(reverse("admin:queue_entry_domains")).content.decode()
    assert clerk.get(reverse("admin:queue_entry_change", args=[Entry.objects.earliest("pk").pk])).status_code == 200
    assert clerk.get(reverse("admin:queue_entry_act")).status_code == 403
    assert clerk.post(reverse("admin:mailflow_message_reschedule", args=[message.pk])).status_code == 403
    form = {"action": "delete", "filter": json.dumps({"all": True})}
    assert clerk.post(reverse("admin:queue_entry_act"), form).status_code == 403
    action = actions.request(Order(Action.HOLD, "root"), selection.kept({}), door="api")
    assert clerk.get(reverse("admin:queue_queueaction_change", args=[action.pk])).status_code == 200
    assert clerk.post(reverse("admin:queue_queueaction_stop", args=[action.pk])).status_code == 403
    assert Entry.objects.filter(Entry.IS_OPEN).count() == 2


def test_staff_without_the_permission_see_no_page_of_the_queue(client: Client, message: Message) -> None:
    client.force_login(User.objects.create_user("nobody", "nobody@example.com", "x", is_staff=True))
    for name in (LIST, "admin:queue_entry_domains", "admin:queue_entry_act", "admin:queue_queueaction_changelist"):
        assert client.get(reverse(name)).status_code == 403


def test_a_large_action_leads_to_its_progress_and_can_be_stopped(
    browser: Client, message: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "AT_ONCE", 1)
    page = asked(browser, "hold")
    assert "A worker does it in batches" in page
    shown = confirmed(browser, page)
    assert "not begun" in shown and 'http-equiv="refresh"' in shown
    action = QueueAction.objects.get()
    stop = reverse("admin:queue_queueaction_stop", args=[action.pk])
    assert browser.get(stop).status_code == 405
    assert "It ends after the batch under way" in browser.post(stop, follow=True).content.decode()
    taken = actions.take("w")
    assert taken is not None and actions.run(taken).status == "stopped"
    ended = browser.get(reverse("admin:queue_queueaction_change", args=[action.pk])).content.decode()
    assert 'http-equiv="refresh"' not in ended and "0 of 2" in ended
    assert "It has ended already." in browser.post(stop, follow=True).content.decode()
    assert "hold: entry" in browser.get(reverse("admin:queue_queueaction_changelist")).content.decode()


def test_the_domains_have_bars_figures_and_what_they_said(browser: Client, mixed: None) -> None:
    Entry.objects.filter(recipient__startswith="free").update(status="retry", attempts=1, last_reply="450 <b>Grey</b>")
    page = browser.get(reverse("admin:queue_entry_domains")).content.decode()
    assert "0 wait for the first attempt, 1 to be retried, 1 on hold; 1 due" in page
    assert "450 &lt;b&gt;Grey&lt;/b&gt;" in page
    assert f"{reverse(LIST)}?domain=x.example" in page
    assert "action=release&amp;held=true&amp;domain=x.example" in page


@pytest.mark.parametrize("name", ["admin:queue_entry_domains", "admin:queue_worker_changelist"])
def test_a_page_that_refreshes_itself_can_be_stopped(browser: Client, name: str) -> None:
    page = browser.get(reverse(name)).content.decode()
    assert 'http-equiv="refresh"' in page and 'href="?refresh=off"' in page
    page = browser.get(reverse(name), {"refresh": "off"}).content.decode()
    assert 'http-equiv="refresh"' not in page and "refresh again" in page


def heading(page: str) -> str:
    """Return what stands on top of a page."""
    (found,) = re.findall(r"<h1.*?</h1>", page, re.DOTALL)
    return " ".join(re.sub(r"<span class=\"material[^>]*>.*?</span>|<[^>]*>", " ", found).split())


def test_each_page_has_its_own_heading_and_objects_are_called_as_they_are(browser: Client, message: Message) -> None:
    def at(name: str, *args: object) -> str:
        return heading(browser.get(reverse(name, args=args)).content.decode())

    assert at("admin:queue_entry_domains").endswith("Queue entries Queue by domain")
    assert at("admin:queue_entry_act").endswith("Queue entries Act on the queue")
    assert heading(asked(browser, "hold")).endswith("Queue entries Hold")
    assert at(LIST).startswith("Queue Queue entries")
    assert at("admin:queue_worker_changelist").endswith("Workers")
    assert "Workers Workers" not in at("admin:queue_worker_changelist")
    assert at("admin:mailflow_message_change", message.pk).endswith(f" {message.pk}")
    assert at("admin:mailflow_message_reschedule", message.pk).endswith("Reschedule")


def test_an_empty_list_advises_nothing_that_cannot_be_done(browser: Client) -> None:
    assert "rows come by themselves" in browser.get(reverse("admin:mailflow_message_changelist")).content.decode()
    for name in (LIST, "admin:mailflow_message_changelist", "admin:accounts_alias_changelist"):
        assert "Create a new item" not in browser.get(reverse(name)).content.decode()
    page = browser.get(reverse("admin:mailflow_message_changelist"), {"q": "nothing of it"}).content.decode()
    assert "Nothing fits the filters and the search." in page


def test_an_empty_queue_has_a_page(browser: Client) -> None:
    assert "The queue is empty." in browser.get(reverse("admin:queue_entry_domains")).content.decode()


@pytest.mark.parametrize("name", [LIST, "admin:queue_entry_domains", "admin:queue_queueaction_changelist"])
def test_a_page_costs_the_same_queries_for_one_entry_and_for_thirty(browser: Client, accept: Accept, name: str) -> None:
    counts = []
    for number in (1, 29):
        for _ in range(number):
            accept(f"r{number}@x{_}.example")
            control.carry_out(Order(Action.HOLD, "root"), Entry.objects.all())
            actions.perform(Order(Action.HOLD, "root"), selection.kept({}), door="api")
        browser.get(reverse(name))
        overview.forget()
        with CaptureQueriesContext(connection) as captured:
            assert browser.get(reverse(name)).status_code == 200
        counts.append(len(captured))
    assert counts[0] == counts[1]


def test_the_domains_are_counted_once_for_all_who_look(browser: Client, message: Message) -> None:
    browser.get(reverse("admin:queue_entry_domains"))
    with CaptureQueriesContext(connection) as captured:
        browser.get(reverse("admin:queue_entry_domains"))
    assert not [query for query in captured if "queue_entry" in query["sql"]]
