"""Templates: missing values have no text, whatever is done with them."""

import pytest

from stratoscope.data.rows import WrittenFloat, WrittenInt
from stratoscope.data.templates import PromptTemplate
from stratoscope.errors import InputError

ROW = {"question": None, "n": float("nan"), "context": "C", "meta": {"a": None}, "parts": ["x", None]}


@pytest.mark.parametrize(
    "template",
    [
        "{{ question }}",
        "Question: {{ question }}?",
        "{{ 'Q: ' ~ question ~ '?' }}",
        "{{ question|trim|upper }}",
        "{{ question.strip() }}",
        "{{ '%s' % question }}",
        "{{ n + 1 }}",
        "{{ n|int }}",
        "{{ '%.2f' % n }}",
        "{% if n > 3 %}much{% endif %}",
        "Title: {{ meta.a }}",
        "Title: {{ meta.other }}",
        "{{ meta.a.b }}",
    ],
)
def test_a_prompt_of_missing_values_is_empty(template: str) -> None:
    assert PromptTemplate(template).render(ROW) == ""


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ context }}: {{ question }}", "C: "),
        ("{% if question is none %}{{ context }}{% endif %}", "C"),
        ("{% if question %}{{ question }}{% else %}{{ context }}{% endif %}", "C"),
        ("{{ parts|join(' ') }}", "x "),
        ("{{ context }} {{ parts }}", "C ['x', ]"),
        ("{{ parts|tojson }}", '["x", null]'),
        ("Say something.", "Say something."),
    ],
)
def test_missing_values_beside_others_leave_the_prompt(template: str, text: str) -> None:
    assert PromptTemplate(template).render(ROW) == text


def test_numbers_keep_the_text_of_the_file_and_their_value() -> None:
    row = {"n": WrittenInt(7, "007"), "x": WrittenFloat(1.5, "1.50")}
    assert PromptTemplate("{{ n }} {{ n + 1 }} {{ x }} {{ x * 2 }}").render(row) == "007 8 1.50 3.0"


@pytest.mark.parametrize("template", ["{{ other }}", "{{ context.other }}", "{{ 1 / 0 }}", "{{ context + 1 }}"])
def test_a_template_that_does_not_match_names_itself(template: str) -> None:
    with pytest.raises(InputError, match=r"prompts\.template .* does not match the columns question, n"):
        PromptTemplate(template).render(ROW)
