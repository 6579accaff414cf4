"""`manage.py queue`: what it prints, what it does, and how it says no."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from accounts.models import TrailEntry
from mailflow.models import Event, Message
from queue import control, overview
from queue.control import Action, Order, batches
from queue.management.commands import queue as command
from queue.models import Entry, QueueAction
from queue.tests.mail import accepted

Accept = Callable[..., list[int]]


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("queue", *arguments, stdout=out)
    return out.getvalue()


def run_json(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json"))


@pytest.fixture
def mail(db: None, settings: Any) -> Message:
    settings.DELIVERY_MODE = "live"  # another way is for nothing of the sandbox
    accepted("c@y.example", subject="Third")
    return accepted("a@x.example", "b@x.example", sender="bob@other.example", subject="First")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Somebody who sits there and answers."""

    def answers(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", type("Terminal", (io.StringIO,), {"isatty": lambda _: True})())
        monkeypatch.setattr("builtins.input", lambda _prompt: text)

    return answers


def test_the_list_has_a_line_for_each_entry_and_the_count(mail: Message) -> None:
    lines = run("list").splitlines()
    assert lines[0].split() == ["MESSAGE", "TO", "FROM", "STATUS", "TRIES", "AGE", "NEXT", "LAST", "REPLY,", "OR",
                                "WAITS", "FOR"]  # fmt: skip
    assert {line.split()[1] for line in lines[1:4]} == {"b@x.example", "a@x.example", "c@y.example"}
    assert lines[4] == "3 queue entries."
    assert run("list", "--limit", "1").splitlines()[-1] == "3 queue entries, the newest 1 are shown."
    assert run("list", "--domain", "nowhere.example") == "0 queue entries.\n"


def test_the_list_for_programs(mail: Message) -> None:
    (item,) = run_json("list", "--domain", "y.example,z.example", "--domain", "v.example")
    assert (item["recipient"], item["status"], item["subject"]) == ("c@y.example", "pending", "Third")
    assert run_json("list", "--held") == []
    assert len(run_json("list", "--no-held")) == 3
    control.remove(Entry.objects.filter(domain="y.example"), actor="root")
    assert [item["status"] for item in run_json("list", "--status", "failed")] == ["failed"]


def test_what_strangers_wrote_does_not_command_the_terminal(mail: Message) -> None:
    Entry.objects.filter(recipient="c@y.example").update(last_reply="\x1b[2J450 clear\u202eme\n250 ok")
    page = run("list")
    assert "?[2J450 clear?me 250 ok" in page
    assert "\x1b" not in run("show", mail.pk)


def test_a_message_is_shown_whole_by_its_id_or_an_entrys(mail: Message) -> None:
    entry = mail.entries.order_by("pk")[0]
    control.carry_out(Order(Action.HOLD, "anna", "spam"), Entry.objects.filter(pk=entry.pk))
    for name in (mail.pk, str(entry.pk)):
        page = run("show", name)
        for words in (mail.pk, "bob@other.example", "First", "a@x.example  held", "by anna: spam", "Put on hold"):
            assert words in page
    about = run_json("show", mail.pk)
    assert [entry["recipient"] for entry in about["entries"]] == ["a@x.example", "b@x.example"]
    assert about["timeline"][-1]["title"] == "Put on hold"


def test_an_action_tells_the_count_does_it_and_says_what_it_did(mail: Message) -> None:
    page = run("hold", "--domain", "x.example", "--reason", "spam", "--yes")
    assert page.splitlines()[0] == "hold: 2 queue entries (domain x.example)"
    assert page.splitlines()[-1] == "2 done."
    assert Entry.objects.filter(Entry.IS_HELD).count() == 2
    event = Event.objects.filter(kind="held")[0]
    assert event.actor.endswith("(manage.py queue)") and event.summary.endswith(": spam.")
    assert TrailEntry.objects.get().kind == "queue.hold"
    assert run("release", "--held", "--yes").endswith("2 done.\n")


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        (["retry", "--at", "2h"], {"kind": "retry_requested"}),
        (["reroute", "--to", "relay.example.com:2525"], {"kind": "changed"}),
        (["expire", "--until", "1d", "--attempts", "7"], {"kind": "changed"}),
        (["fail"], {"kind": "bounced"}),
        (["fail", "--no-dsn"], {"kind": "failed"}),
        (["delete"], {"kind": "deleted"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_each_action_acts_on_the_messages_that_are_named(
    mail: Message, arguments: list[str], changed: dict[str, str]
) -> None:
    assert run(*arguments, mail.pk, "--yes").endswith("2 done.\n")
    assert set(Event.objects.filter(**changed).values_list("message_id", flat=True)) == {mail.pk}


def test_another_way_for_mail_of_the_sandbox_is_left_alone_and_said_to_be(mail: Message, settings: Any) -> None:
    settings.DELIVERY_MODE = "sandbox"
    assert run("reroute", "--to", "relay.example.com", mail.pk, "--yes").endswith(
        "0 done, 2 left alone (2 of the sandbox, whose mail goes to the simulated internet whatever the route).\n"
    )


def test_a_dry_run_does_nothing(mail: Message) -> None:
    assert "delete: 3 queue entries (all entries)" in run("delete", "--all", "--dry-run")
    assert run_json("delete", "--all", "--dry-run") == {"dry_run": True, "count": 3, "is_count_exact": True}
    assert Entry.objects.filter(Entry.IS_OPEN).count() == 3
    assert not QueueAction.objects.exists()


def test_it_asks_and_takes_no_for_an_answer(mail: Message, terminal: Callable[[str], None]) -> None:
    terminal("n")
    with pytest.raises(CommandError, match=r"Nothing was done\."):
        run("delete", "--all")
    assert Entry.objects.filter(Entry.IS_OPEN).count() == 3
    terminal("y")
    assert run("delete", "--all").endswith("3 done.\n")


def test_without_anybody_to_ask_it_does_nothing(mail: Message) -> None:
    with pytest.raises(CommandError, match="give --yes"):
        run("delete", "--all")
    assert Entry.objects.filter(Entry.IS_OPEN).count() == 3


def test_nothing_meant_is_no_error(mail: Message) -> None:
    assert run("delete", "--domain", "nowhere.example") == "delete: 0 queue entries (domain nowhere.example)\n"
    assert run_json("delete", "--domain", "nowhere.example") == {"count": 0, "done": 0, "left": {}}


def test_an_interrupted_action_stops_and_says_how_far_it_came(accept: Accept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH", 2)
    accept(*(f"r{number}@x.example" for number in range(6)))
    apply = control.apply

    def interrupted(*arguments: Any, **named: Any) -> Any:
        if Entry.objects.filter(Entry.IS_HELD).count() == 4:
            raise KeyboardInterrupt
        return apply(*arguments, **named)

    monkeypatch.setattr(control, "apply", interrupted)
    with pytest.raises(CommandError, match="Stopped after 4 of 6 entries"):
        run("hold", "--all", "--yes")
    assert QueueAction.objects.get().status == "stopped"


WRONG = [
    (["hold"], "give conditions or ids, or --all"),
    (["hold", "--domain", "no domain"], "--domain: 'no domain' is no domain"),
    (["hold", "msg_1"], "--message: 'msg_1' is no message id"),
    (["hold", "xyz"], "--id: A whole number is needed."),
    (["hold", "--older-than", "yesterday"], "--older-than: A span such as"),
    (["hold", "--all", "--held"], "--all: It cannot be given together"),
    (["hold", "--all", "--reason", "x" * 200], "--reason: At most 150 characters"),
    (["list", "--attempts-from", "many"], "--attempts-from: A whole number is needed."),
    (["list", "--limit", "0"], "--limit must be from 1"),
    (["list", "--organization", "none"], "--organization: There is no organization 'none'."),
    (["retry", "--all", "--at", "2020-01-01"], "--at: A time in the future is needed."),
    (["reroute", "--all", "--to", "no host"], "--to: 'no host' is no host"),
    (["reroute", "--all"], "the following arguments are required: --to"),
    (["expire", "--all"], "--until: A time, or --attempts, is needed."),
    (["expire", "--all", "--attempts", "0"], "--attempts: A whole number from 1 to 1000 is needed."),
    (["show", "msg_nothing"], "There is no message 'msg_nothing'."),
    (["show", "17"], "There is no message '17'."),
    (["fly"], "invalid choice: 'fly'"),
    (["hold", "--domian", "x"], "unrecognized arguments: --domian"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG, ids=[" ".join(row[0])[:40] for row in WRONG])
def test_a_wrong_argument_is_refused_by_name(mail: Message, arguments: list[str], words: str) -> None:
    with pytest.raises(CommandError, match=re.escape(words)):
        run(*arguments)
    assert not QueueAction.objects.exists()


def test_an_error_is_one_line_and_status_1() -> None:
    for arguments in (["queue", "fly"], ["queue", "hold", "--nonsense"], ["queue"]):
        ended = subprocess.run(
            [sys.executable, "manage.py", *arguments], capture_output=True, text=True, check=False,
            cwd=command.__file__.rpartition("/queue/management/")[0], env=os.environ,
        )  # fmt: skip
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr.count("\n") == 1 and ended.stderr.startswith("CommandError: ")


def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("list", "show", "stats", "workers", *Action):
        with pytest.raises(SystemExit) as ended:
            run(name, "--help")
        assert ended.value.code == 0
        assert "Example:\n  manage.py queue" in capsys.readouterr().out


def test_the_domains_are_told_with_their_figures(mail: Message) -> None:
    overview.forget()
    Entry.objects.filter(domain="y.example").update(status="retry", attempts=1, last_reply="450 Greylisted")
    control.carry_out(Order(Action.HOLD, "root"), Entry.objects.filter(recipient="a@x.example"))
    lines = run("stats").splitlines()
    assert lines[0] == "3 queue entries: 2 due, 1 to be retried, 1 on hold, 0 scheduled."
    assert lines[3].split()[:6] == ["x.example", "2", "1", "0", "1", "##########=========="]
    assert lines[4].startswith("y.example") and lines[4].endswith("450 Greylisted (1 of 1)")
    found = run_json("stats")
    assert [figures["domain"] for figures in found["domains"]] == ["x.example", "y.example"]
    assert (found["waiting"], found["held"], found["hidden_domains"]) == (3, 1, 0)


def test_an_empty_queue_has_no_domains(db: None) -> None:
    assert run("stats") == "0 queue entries: 0 due, 0 to be retried, 0 on hold, 0 scheduled.\n"


def test_the_overview_costs_the_same_queries_for_one_domain_and_for_thirty(
    accept: Accept, django_assert_num_queries: Callable[..., Any]
) -> None:
    accept("a@x.example")
    with django_assert_num_queries(6):
        run("stats")
    accept(*(f"a@x{number}.example" for number in range(29)))
    with django_assert_num_queries(6):
        lines = run("stats").splitlines()
    assert lines[-1] == "… and 5 more domains"
