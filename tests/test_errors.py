"""Messages of errors."""

from stratoscope.errors import first_line, last_line, suggest, type_and_message


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
