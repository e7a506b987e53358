"""Lists printed into one text."""

import pytest

from stratoscope.data.printed_lists import parse_printed_list


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ('["a", "b"]', ["a", "b"]),
        ("['a', \"it's\"]", ["a", "it's"]),
        ("['a'\n \"it's b\"]", ["a", "it's b"]),
        ("['a' None 'b']", ["a", None, "b"]),
        ("['say \\'a\\'']", ["say 'a'"]),
        ("[1, 2]", [1, 2]),
        ("[1 2 3]", ["1", "2", "3"]),
        ("[]", []),
        ("[unclear]", None),
        ("a [b]", None),
        ("no list", None),
    ],
)
def test_lists_are_read_as_they_are_printed(text: str, items: list[object] | None) -> None:
    assert parse_printed_list(text, numbers=True) == items


def test_numbers_in_brackets_are_a_list_in_cells_only() -> None:
    assert parse_printed_list("[1, 2]", numbers=False) is None


@pytest.mark.parametrize(
    "text", ["['a' 'b' ... 'c']", "['a''b']", '[["a"], ["b"]]', "{'value': 'a'}", "[array(['a'])]"]
)
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a cell holds"):
        parse_printed_list(text, numbers=True)
