"""Queries that are built once answer what the ORM would, each time anew."""

from __future__ import annotations

from typing import Any

import pytest
from django.db.models import Q, QuerySet

from accounts.models import Alias, Domain, Organization
from accounts.prepared import Prepared, PreparedOne

pytestmark = pytest.mark.django_db


def domains(*names: str, **fields: Any) -> None:
    organization = Organization.objects.get_or_create(name="Example")[0]
    for name in names:
        Domain.objects.create(name=name, organization=organization, **fields)


def usable(names: Any) -> QuerySet[Any, Any]:
    rows = Domain.objects.filter(name__in=names, is_active=True).exclude(next_hop="nobody")
    return rows.order_by("name").values_list("name", "accepts_mail", "created_at")


def test_it_answers_as_the_orm_does_however_many_values_and_whatever_changed(django_assert_num_queries: Any) -> None:
    domains("a.example", "b.example")
    prepared = Prepared(usable)
    for names in (["a.example"], ["b.example", "a.example", "c.example"], ["%s", "'", "c.example"]):
        with django_assert_num_queries(1):
            found = prepared.rows(names)
        assert found == list(usable(names))
    Domain.objects.filter(name="a.example").update(accepts_mail=False)
    domains("c.example")
    assert prepared.rows(["a.example", "c.example"]) == list(usable(["a.example", "c.example"]))


def test_without_values_nothing_is_asked(django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        assert Prepared(usable).rows([]) == []


def test_what_the_database_keeps_as_text_comes_as_the_field_has_it() -> None:
    domains("a.example")
    Alias.objects.create(domain=Domain.objects.get(), local_part="sales", targets=["a@x.example", "b@x.example"])
    rows = Prepared(lambda parts: Alias.objects.filter(local_part__in=parts).values_list("targets", "created_at"))
    assert rows.rows(["sales"]) == list(Alias.objects.values_list("targets", "created_at"))


@pytest.mark.parametrize(
    "build",
    [
        lambda _: Domain.objects.values_list("name"),
        lambda names: Domain.objects.filter(name__in=names, organization__name__in=names).values_list("name"),
    ],
)
def test_what_is_no_query_over_one_list_is_an_error_at_once(build: Any) -> None:
    with pytest.raises(ValueError, match="not a query over one list"):
        Prepared(build).rows(["a.example"])


def test_a_query_about_one_value_takes_it_wherever_it_stands(django_assert_num_queries: Any) -> None:
    domains("a.example", "b.example", next_hop="a.example")
    by_either = PreparedOne(lambda name: Domain.objects.filter(Q(name=name) | Q(next_hop=name)).order_by("-name"))
    with django_assert_num_queries(1):
        found = by_either.columns("a.example")
    assert found is not None and "b.example" in found and by_either.columns("%s") is None
    names = PreparedOne(lambda name: Domain.objects.filter(name=name).values_list("name", "created_at"))
    assert names.row("b.example") == Domain.objects.filter(name="b.example").values_list("name", "created_at").get()


def test_a_query_about_nothing_is_asked_anew_each_time() -> None:
    newest = PreparedOne(lambda _: Domain.objects.order_by("-name").values_list("name"))
    assert newest.row() is None
    domains("a.example", "b.example")
    assert newest.row() == ("b.example",)
