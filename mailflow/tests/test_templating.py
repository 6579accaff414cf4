"""Templates: they are filled in, they escape in HTML alone, and they can do nothing else."""

from __future__ import annotations

import pytest

from mailflow.templating import InvalidTemplate, Source, check, render


def text(template: str, **data: object) -> str:
    return render(Source("", template), data).text or ""


def test_html_is_escaped_text_and_subject_are_not() -> None:
    source = Source("Hi {{ name }}", "Dear {{ name }}", "<p>{{ name }}{{ more|safe }}</p>")
    found = render(source, {"name": "<A> & 'B'", "more": "<br>"})
    assert found.subject == "Hi <A> & 'B'"
    assert found.text == "Dear <A> & 'B'"
    assert found.html == "<p>&lt;A&gt; &amp; &#x27;B&#x27;<br></p>"


def test_loops_conditions_and_filters_work() -> None:
    body = "{{ forloop.counter }}. {{ i.name|upper }}{% if not forloop.last %}, {% endif %}"
    template = f"{{% for i in items %}}{body}{{% endfor %}}"
    assert text(template, items=[{"name": "a"}, {"name": "b"}]) == "1. A, 2. B"
    assert text("{{ price|floatformat:2 }} {{ missing|default:'none' }}", price=1.5) == "1.50 none"


def test_a_subject_stays_one_line_whatever_the_data_holds() -> None:
    assert (
        render(Source("Hi {{ name }}", "x"), {"name": "A\r\nBcc: b@example.com"}).subject == "Hi A Bcc: b@example.com"
    )


@pytest.mark.parametrize(
    "template",
    [
        "{% load static %}", "{% include 'a' %}", "{% extends 'a' %}", "{% block a %}{% endblock %}", "{% debug %}",
        "{% csrf_token %}", "{% url 'a' %}", "{% lorem %}", "{% regroup a by b as c %}", "{{ a|rjust:9 }}",
        "{{ a|pprint }}",
        "{{ a|random }}", "{{ a.__class__ }}", "{% for a in b %}", "{% if %}{% endif %}", "{% nonsense %}",
        "{% if a %}" * 2000 + "{% endif %}" * 2000,
    ],
)  # fmt: skip
def test_what_reaches_outside_or_is_wrong_is_refused_when_it_is_made(template: str) -> None:
    assert set(check(Source("", template))) == {"text_body"}
    with pytest.raises(InvalidTemplate):
        text(template)


@pytest.mark.parametrize(
    ("template", "data"),
    [
        (
            "{% for a in x %}{% for b in x %}{% for c in x %}.{% endfor %}{% endfor %}{% endfor %}",
            {"x": list(range(1000))},
        ),
        ("{% for a in n %}{{ x }}{% endfor %}", {"n": list(range(3000)), "x": "y" * 80_000}),
        ("{{ x|" + "|".join(["addslashes"] * 40) + " }}", {"x": "\\"}),
        ("{{ n|join:x }}", {"n": list(range(5000)), "x": "y" * 50_000}),
        ("{{ x|stringformat:'99999999d' }}", {"x": 1}),
        ("{{ x|floatformat:99999999 }}", {"x": 1}),
        ("x" * 200_001, {}),
        ("x", {"x": "y" * 100_001}),
    ],
)
def test_what_would_take_for_ever_or_fill_the_memory_is_stopped(template: str, data: dict[str, object]) -> None:
    with pytest.raises(InvalidTemplate):
        text(template, **data)


def test_data_leads_to_no_object_of_ours() -> None:
    assert text(
        "{{ x.items }}{{ settings }}{{ request }}{{ x.y.z }}", x={"y": 1}
    ) == "dict_items([(&#x27;y&#x27;, 1)])".replace("&#x27;", "'")
