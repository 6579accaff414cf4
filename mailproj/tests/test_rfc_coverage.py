"""docs/rfc-coverage.md says what is there: its paths and tests exist, its counts are right, no RFC is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import rfc_references

HEAD = """<!-- summary -->
<!-- /summary -->

## RFC 1870, SIZE

| § | | what | state | where |
| --- | --- | --- | --- | --- |
"""
SUMMARY_LINES = 6  # what `with_summary` puts between the marks


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with one module, which cites RFC 1870, and one test."""
    (tmp_path / "mailflow" / "tests").mkdir(parents=True)
    (tmp_path / "mailflow" / "size.py").write_text('"""The size of a message (RFC 1870)."""\n')
    (tmp_path / "mailflow" / "tests" / "test_size.py").write_text("def test_a_size_is_read() -> None: ...\n")
    return tmp_path


def faults(row: str, project: Path) -> list[str]:
    return rfc_references.faults(rfc_references.with_summary(HEAD + row + "\n"), project)


def test_the_page_is_true_to_the_code() -> None:
    assert rfc_references.faults(rfc_references.PAGE.read_text()) == []


def test_the_page_has_rows_for_the_extensions_that_are_announced() -> None:
    rfcs = {number for row in rfc_references.rows(rfc_references.PAGE.read_text()) for number in row.rfc.split(", ")}
    assert rfcs >= {"5321", "1870", "2920", "3030", "3207", "3461", "4954", "1985", "2645", "2852", "6152", "6531"}


@pytest.mark.parametrize(
    "row",
    [
        "| 3 | M | announced | done | `size`; `test_a_size_is_read` |",
        "| 3 | — | announced | done: with a limit | `mailflow/size` |",
        "| 3 | S, M | announced | partly: without a limit | `size` |",
        "| 3 | S | announced | not yet: nobody asked | |",
    ],
)
def test_a_row_that_names_what_exists_is_right(row: str, project: Path) -> None:
    assert faults(row, project) == []


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("| 3 | M | announced | done | `length` |", "there is no length"),
        ("| 3 | M | announced | done | `size`; `test_a_size_is_guessed` |", "there is no test_a_size_is_guessed"),
        ("| 3 | M | announced | finished | `size` |", "the state 'finished' is none of"),
        ("| 3 | M | announced | partly | `size` |", "partly without a reason"),
        ("| 3 | M | announced | not yet | `size` |", "not without a reason"),
        ("| 3 | MUST | announced | done | `size` |", "the level 'MUST' is none of"),
        ("| 3 | M | announced | done | |", "no place is named"),
    ],
)
def test_a_row_that_is_wrong_is_named_by_its_line(row: str, fault: str, project: Path) -> None:
    (found,) = faults(row, project)
    assert found.startswith(f"line {HEAD.count(chr(10)) + SUMMARY_LINES + 1}: {fault}")


def test_a_summary_that_does_not_count_the_rows_is_a_fault(project: Path) -> None:
    assert rfc_references.faults(HEAD + "| 3 | M | announced | done | `size` |\n", project) == [
        "the summary is not what the rows come to; write it anew with --write"
    ]


def test_an_rfc_that_the_code_cites_must_be_on_the_page(project: Path) -> None:
    (project / "mailflow" / "other.py").write_text('"""Chunks (RFC 3030 §2, RFC 1870)."""\n')
    assert faults("| 3 | M | announced | done | `size` |", project) == [
        "RFC 3030 is cited by mailflow/other.py and not on the page"
    ]


def test_a_list_of_rfcs_is_read_as_each_of_them() -> None:
    page = "IDNA (RFC 5891, 5892 and 5893), RFC 1870.\n| 2045, 2046 | what a part may hold | `size` |\n"
    assert rfc_references.mentioned(page) == {"5891", "5892", "5893", "1870", "2045", "2046"}
