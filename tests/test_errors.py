"""Messages of errors."""

import pickle

import pytest

from stratoscope.errors import InputError, RunError, first_line, last_line, print_error, suggest, type_and_message


def test_one_line_of_a_message_is_shown() -> None:
    error = ValueError("\nfirst\n  second\nlast\n")
    assert (first_line(error), last_line(error)) == ("first", "last")
    assert type_and_message(error) == "ValueError: first"
    assert last_line("Traceback\nKeyError: 'x'") == "KeyError: 'x'"
    assert first_line(ValueError()) == last_line(ValueError()) == "ValueError"
    assert last_line("") == ""


def test_a_refused_name_is_followed_by_the_nearest_one() -> None:
    assert suggest("scqi", ["sciq", "boolq"], "sets") == "; did you mean 'sciq'? Known sets: boolq, sciq"
    assert suggest("x", ["sciq"], "sets") == ". Known sets: sciq"


@pytest.mark.parametrize("kind", [InputError, RunError])
def test_a_long_message_keeps_its_beginning_and_its_end(
    kind: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    error = kind(f"field {'x' * 10**6} is wrong; correct it")
    assert len(str(error)) == 500
    assert str(error).startswith("field xxx")
    assert str(error).endswith("correct it")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    print_error("score", f"a\nb {'y' * 10**6} end")
    line = capsys.readouterr().err
    assert (len(line), line.count("\n")) == (501, 1)
    assert line.startswith("score: a b yyy")


def test_few_of_many_known_names_are_listed() -> None:
    assert suggest("x", [f"name{n:03}" for n in range(100)], "names").endswith("name011 and 88 more")
