"""The suppression list as a CSV file, and from the command line."""

from __future__ import annotations

import datetime as dt
import io
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st

from accounts.models import Organization, TrailEntry
from queue import suppression_files
from queue.models import SoftBounce, Suppression
from queue.suppression_files import Counts, Plan, Scope, Unreadable
from queue.suppression_list import Actor

NOW = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)
ROOT = Actor("root", "192.0.2.1")


@pytest.fixture
def example(db: None) -> Organization:
    return Organization.objects.create(name="Example")


def read(text: str, scope: Scope | None = None) -> Plan:
    return suppression_files.read(text.encode(), scope or Scope(None, is_fixed=False), now=NOW)


def exported() -> str:
    return "".join(suppression_files.write(Suppression.objects.all()))


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "bob@x.example\ncarol@x.example\n",
        "\ufeffAddress\r\nBOB@x.example\r\n\r\ncarol@X.example",
        "email;reason\nbob@x.example;manual\ncarol@x.example;\n",
        "name\te-mail\nB\tbob@x.example\nC\tcarol@x.example\n",
        '"bob@x.example",x\n"carol@x.example","a\nb"\n',
        "bob@x.example\nbob@x.example\ncarol@x.example\n",
    ],
)
def test_lists_of_addresses_are_read_however_they_are_written(text: str, db: None) -> None:
    plan = read(text)
    assert list(plan.lines) == [(None, "", "bob@x.example"), (None, "", "carol@x.example")]
    assert plan.problem_count == 0


def test_each_error_is_told_by_its_line(example: Organization) -> None:
    plan = read(
        "address,reason,organization,sending_domain,expires_at\n"
        "bob,,,,\n"
        '"a@x.example","no\nreason",,,\n'
        "b@x.example,,Nobody,,\n"
        "c@x.example,,,news.example,\n"
        "d@x.example,,Example,ne ws,\n"
        "e@x.example,,,,soon\n"
        ",manual,,,\n"
        "f@x.example,complaint,Example,news.example,2027-01-31\n"
    )
    assert [(problem.line, problem.message) for problem in plan.problems] == [
        (2, "'bob' is no address: the address has no @."),
        (3, "The reason 'no\\nreason' is none of complaint, hard_bounce, manual, soft_bounces, unsubscribe."),
        (5, "There is no organization 'Nobody'."),
        (6, "A sending domain needs an organization."),
        (7, "'ne ws' is no domain: the domain has a label that is empty, too long or holds a character that names may "
            "not have."),
        (8, "expires_at is no date such as 2026-01-31 or 2026-01-31T12:00:00Z."),
        (9, "The address is missing."),
    ]  # fmt: skip
    (line,) = plan.lines.values()
    assert line.key == (example.pk, "news.example", "f@x.example")
    assert (line.reason, line.expires_at) == ("complaint", dt.datetime(2027, 1, 31, tzinfo=dt.UTC))


def test_a_fixed_scope_cannot_be_left_by_the_file(example: Organization) -> None:
    Organization.objects.create(name="Other")
    plan = read("address,organization\nbob@x.example,Other\ncarol@x.example,*\n", Scope(example.pk))
    assert {key[0] for key in plan.lines} == {example.pk}


@pytest.mark.parametrize("octets", [b"\xff\xfea", b"a\0b", b'"' + b"x" * 200_000])
def test_what_is_no_such_file_is_refused_in_words(octets: bytes, db: None) -> None:
    with pytest.raises(Unreadable):
        suppression_files.read(octets, Scope(None), now=NOW)


@settings(max_examples=100)
@given(st.binary(max_size=200) | st.text(alphabet="a@.,;\n\r\t\"'=x ", max_size=200).map(str.encode))
def test_nothing_else_is_raised(octets: bytes) -> None:
    scope = Scope(1)
    try:
        plan = suppression_files.read(octets, scope, now=NOW)
    except Unreadable:
        return
    assert plan.problem_count >= len(plan.problems)


# --- applying and writing ---------------------------------------------------------------------------------------------


def test_an_import_adds_changes_and_leaves_alone(example: Organization) -> None:
    for name in ("old", "same"):
        Suppression.objects.create(address=f"{name}@x.example", organization=example, words="kept", reason="manual")
    plan = read(
        "address,reason,words\nold@x.example,complaint,\nsame@x.example,,\nnew@x.example,,hm\n", Scope(example.pk)
    )
    assert suppression_files.apply(plan, ROOT, dry_run=True) == Counts(1, 1, 1)
    assert Suppression.objects.count() == 2
    assert suppression_files.apply(plan, ROOT) == Counts(1, 1, 1)
    assert suppression_files.apply(plan, ROOT) == Counts(0, 0, 3)
    rows = {row.address: (row.reason, row.words, row.created_by) for row in Suppression.objects.all()}
    assert rows == {
        "old@x.example": ("complaint", "kept", ""),
        "same@x.example": ("manual", "kept", ""),
        "new@x.example": ("manual", "hm", "root"),
    }
    line = TrailEntry.objects.get()
    assert (line.kind, line.actor, line.client_address) == ("suppression.imported", "root", "192.0.2.1")


@pytest.mark.parametrize(
    ("text", "reason", "days"),
    [
        ("a@x.example\n", "complaint", 3),
        ("address,words\na@x.example,hm\n", "complaint", 3),
        ("address,reason\na@x.example,\n", "complaint", 3),
        ("address,reason\na@x.example,hard_bounce\n", "hard_bounce", 3),
        ("address,reason,expires_at\na@x.example,hard_bounce\n", "hard_bounce", 3),  # the line ends before that column
        ("address,expires_at\na@x.example,\n", "complaint", None),  # as it is written of a row without an end
    ],
)
def test_what_a_file_leaves_out_stays_as_it_is(example: Organization, text: str, reason: str, days: int | None) -> None:
    end = timezone.now() + dt.timedelta(days=3)
    row = Suppression.objects.create(
        address="a@x.example", organization=example, reason="complaint", expires_at=end, source_message_id="msg_1"
    )
    suppression_files.apply(read(text, Scope(example.pk, reason="unsubscribe")), ROOT)
    row.refresh_from_db()
    assert (row.reason, row.expires_at, row.source_message_id) == (reason, end if days else None, "msg_1")


def test_a_row_that_has_expired_holds_again_when_a_file_names_it(example: Organization) -> None:
    over = timezone.now() - dt.timedelta(seconds=1)
    row = Suppression.objects.create(
        address="a@x.example", organization=example, reason="soft_bounces", expires_at=over, words="full"
    )
    assert suppression_files.apply(read("a@x.example\n", Scope(example.pk)), ROOT) == Counts(0, 1, 0)
    row.refresh_from_db()
    assert (row.reason, row.expires_at, row.words) == ("manual", None, "full")


def test_what_is_written_is_read_again_as_it_was(example: Organization) -> None:
    rows = [
        Suppression(address="=1+1@x.example", words='=cmd|"/c calc"!A1', organization=example),
        Suppression(address="'quoted@x.example", words="'kept'", organization=example, sending_domain="news.example"),
        Suppression(address="üser@x.example", words='a "b", c; d\ne', expires_at=NOW, reason="hard_bounce"),
        Suppression(address="plain@x.example", organization=example, source_message_id="msg_1", created_at=NOW),
    ]  # fmt: skip
    Suppression.objects.bulk_create(rows)

    def state() -> list[Any]:
        fields = ("address", "organization_id", "sending_domain", "reason", "words", "source_message_id", "expires_at")
        return sorted(Suppression.objects.values_list(*fields), key=str)

    text, before = exported(), state()
    assert not any(cell.startswith("=") for line in text.splitlines() for cell in line.split(","))
    Suppression.objects.all().delete()
    assert suppression_files.apply(read(text), ROOT) == Counts(4, 0, 0)
    assert state() == before
    assert Suppression.objects.get(address="plain@x.example").created_at == NOW


def test_a_long_list_is_entered_and_written_in_pieces(example: Organization) -> None:
    text = "".join(f"u{number}@x.example\n" for number in range(1203))
    assert suppression_files.apply(read(text, Scope(example.pk)), ROOT) == Counts(1203, 0, 0)
    pieces = list(suppression_files.write(Suppression.objects.all()))
    assert len(pieces) == 4 and sum(piece.count("\r\n") for piece in pieces) == 1204


# --- the command ------------------------------------------------------------------------------------------------------


def run(*arguments: str) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    call_command("suppressions", *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_one_is_entered_changed_and_removed_by_command(example: Organization) -> None:
    out, _ = run("add", "Bob@X.example", "--organization", "Example", "--words", "asked by phone", "--days", "10")
    row = Suppression.objects.get()
    assert out == f"bob@x.example gets no more mail of Example until {row.expires_at:%Y-%m-%d} (row {row.pk}).\n"
    run("add", "bob@x.example", "--organization", "Example", "--reason", "complaint")
    row.refresh_from_db()
    assert (row.reason, row.expires_at, Suppression.objects.count()) == ("complaint", None, 1)
    SoftBounce.objects.create(
        id=1, entry_id=1, organization_id=example.pk, address="bob@x.example", created_at=timezone.now()
    )
    out, _ = run("remove", "bob@x.example", "--organization", "Example")
    assert out == "bob@x.example gets mail of Example again.\n" and not SoftBounce.objects.exists()
    with pytest.raises(CommandError, match="is not on the list of the whole system"):
        run("remove", "bob@x.example")
    assert [line.kind for line in TrailEntry.objects.order_by("id")] == [
        "suppression.added", "suppression.changed", "suppression.removed",
    ]  # fmt: skip


def test_a_file_is_imported_by_command_whole_or_not_at_all(example: Organization, tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text("bob@x.example\nnonsense\ncarol@x.example\n")
    with pytest.raises(CommandError, match="Nothing was entered: 1 lines cannot be used"):
        run("import", str(file), "--organization", "Example")
    assert not Suppression.objects.exists()
    out, err = run("import", str(file), "--organization", "Example", "--dry-run")
    assert out.startswith("2 would be added, 0 would be changed") and err.startswith("Line 2: 'nonsense' is no address")
    out, _ = run("import", str(file), "--organization", "Example", "--skip-invalid", "--reason", "unsubscribe")
    assert out.startswith("2 added, 0 changed") and Suppression.objects.filter(reason="unsubscribe").count() == 2


def test_export_by_command_writes_one_list_or_all(example: Organization) -> None:
    Suppression.objects.create(address="bob@x.example", organization=example)
    Suppression.objects.create(address="carol@x.example")
    assert run("export")[0].splitlines()[1:] and "bob@" not in run("export")[0]
    assert "carol@" not in run("export", "--organization", "Example")[0]
    assert len(run("export", "--all")[0].splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("add", "bob"), "is no address: the address has no @"),
        (("add", "bob@x.example", "--organization", "Nobody"), "There is no organization 'Nobody'."),
        (("add", "bob@x.example", "--domain", "x.example"), "--domain needs --organization."),
        (("add", "bob@x.example", "--days", "-1"), "--days must be from 0"),
        (("import", "/no/such/file"), "/no/such/file cannot be read: No such file or directory."),
    ],
)
def test_a_wrong_argument_is_one_clear_line(arguments: tuple[str, ...], words: str, db: None) -> None:
    with pytest.raises(CommandError) as raised:
        run(*arguments)
    assert words in str(raised.value) and "\n" not in str(raised.value)
