"""docs/coming-from.md: the lines of the five services that are said to work here."""

from __future__ import annotations

import re

import pytest
from django.db import connection

from mailproj.tests.starting import ROOT

QUERIES = re.findall(r"SELECT [^`;]+", (ROOT / "docs" / "coming-from.md").read_text())


def test_there_is_a_query() -> None:
    assert QUERIES


@pytest.mark.django_db
@pytest.mark.parametrize("query", QUERIES)
def test_its_queries_name_tables_and_columns_that_are_there(query: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(query)
        assert cursor.fetchall() == []
