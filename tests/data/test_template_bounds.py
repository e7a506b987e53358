"""Templates that would not end, or that would fill the memory."""

import time
from pathlib import Path

import pytest
from jinja2 import StrictUndefined

from stratoscope.data import PromptSource, load_prompts, template_bounds
from stratoscope.data.template_bounds import BoundedEnvironment
from stratoscope.errors import InputError

# ruff: noqa: E501 - a template is read best in one line
RANGE = "range(99999)"
ENDLESS = {
    "nested loops": "{% for a in R %}{% for b in R %}{% for c in R %}{% endfor %}{% endfor %}{% endfor %}",
    "a loop with text": "{% for a in R %}{% for b in R %}" + "x" * 1000 + "{% endfor %}{% endfor %}",
    "text in a block": "{% set t %}{% for a in R %}{% for b in R %}" + "x" * 9000 + "{% endfor %}{% endfor %}{% endset %}",
    "recursion": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "endless recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "recursive loop": "{% for a in R recursive %}{{ loop(R) }}{% endfor %}",
    "filters": "{{ R | map('string') | select('in', R | map('string') | list) | list }}",
    "nested maps": "{% for a in R %}{{ R | map('string') | list | length }}{% endfor %}",
    "multiplied text": "{{ 'x' * 10000000000 }}",
    "multiplied list": "{{ [1] * 10000000000 }}",
    "doubled text": "{% set n = namespace(t='xx') %}{% for a in R %}{% set n.t = n.t + n.t %}{% endfor %}",
    "joined text": "{% set n = namespace(t='xx') %}{% for a in R %}{% set n.t = n.t ~ n.t %}{% endfor %}",
    "printed blocks": "{% set n = namespace(t='xx') %}{% for a in R %}{% set t %}{{ n.t }}{{ n.t }}{% endset %}{% set n.t = t %}{% endfor %}",
    "doubled list": "{% set l = [1] %}{% for a in R %}{% set _ = l.extend(l) %}{% endfor %}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "squares": "{% set n = namespace(t=3) %}{% for a in R %}{% set n.t = n.t * n.t %}{% endfor %}",
    "format": "{{ '%9999999999d' % 1 }}",
    "format by argument": "{{ '%*d' % (9999999999, 1) }}",
    "format method": "{{ '{:>9999999999}'.format(1) }}",
    "format filter": "{{ '%9999999999d' | format(1) }}",
    "center": "{{ 'x' | center(9999999999) }}",
    "zfill": "{{ 'x'.zfill(9999999999) }}",
    "ljust": "{{ 'x'.ljust(width=9999999999) }}",
    "indent": "{{ ('\n' * 90000) | indent(90000) }}",
    "replace": "{{ ('x' * 90000) | replace('x', 'y' * 90000) }}",
    "replace method": "{{ ('x' * 90000).replace('x', 'y' * 90000) }}",
    "join": "{{ R | join('x' * 90000) }}",
    "join method": "{{ ('x' * 90000).join(['y'] * 90000) }}",
    "translate": "{{ 'x'.translate({120: 'y'}) }}",
    "sum of lists": "{{ ([[1] * 900000] * 900000) | sum(start=[]) }}",
    "range": "{{ range(10000000000) | list }}",
    "large literal": "{{ 1" + "0" * 5000 + " }}",
    "deep expression": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "access": "{{ ''.__class__.__mro__ }}",
    "other files": "{% include '/etc/passwd' %}",
}  # fmt: skip


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_template_that_does_not_end_is_refused_within_seconds(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_bounds, "MAX_SECONDS", 0.5)
    file = tmp_path / "a.txt"
    file.write_text("one\ntwo\n")
    started = time.monotonic()
    with pytest.raises(InputError, match=r"^prompts\.template ") as refused:
        load_prompts(PromptSource(str(file), ENDLESS[kind].replace("R", RANGE)), 2, 0)
    assert time.monotonic() - started < 10
    assert len(str(refused.value)) <= 500
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% for w in words %}{{ loop.index }}/{{ loop.length }} {{ w }}{{ ', ' if not loop.last }}{% endfor %}", "1/2 a, 2/2 b"),
        ("{{ 'Q: ' ~ question ~ '?' }}", "Q: why?"),
        ("{{ question * 3 }}-{{ 2 * 3 + 4 ** 2 }}-{{ '%s!' % question }}-{{ '{:>5}'.format(question) }}", "whywhywhy-22-why!-  why"),
        ("{{ words | map('upper') | join(', ') }} {{ words | sum(attribute='x', start=0) if 0 else 1 }}", "A, B 1"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(question) }}{{ words | sort(reverse=true) | first }}", "<why>b"),
        ("{% set n = namespace(k=0) %}{% for w in words if w != 'a' %}{% set n.k = n.k + 1 %}{% endfor %}{{ n.k }}", "1"),
        ("{% for w in [] %}{% else %}none{% endfor %}{{ words is iterable }}{{ question | replace('w', 'W') }}", "noneTrueWhy"),
        ("{% for k, v in {'a': 1}.items() %}{{ k }}={{ v }}{% endfor %}{{ words[0] ~ (words[1] ~ 1) }}", "a=1ab1"),
    ],
)  # fmt: skip
def test_an_ordinary_template_is_rendered_as_by_jinja(template: str, text: str) -> None:
    environment = BoundedEnvironment(undefined=StrictUndefined)
    compiled = environment.from_string(template)
    assert environment.render(compiled, {"question": "why", "words": ["a", "b"]}) == text
