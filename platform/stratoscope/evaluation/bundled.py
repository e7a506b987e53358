"""The data of the shipped tasks. Their YAML files name these functions as the harness's `custom_dataset`."""

from typing import TYPE_CHECKING, Any

from stratoscope.data import read_known, row_id

if TYPE_CHECKING:
    from datasets import Dataset

SPLIT = "validation"
ALSO = "also"
"""Column with the ids of rows whose text is an item's, or another version of it; an item is left out if any of them was
calibrated on or trained on."""
BEGINNING = 60
"""Number of first characters that versions of one text share, such as of a page at two dates."""


def bundled(name: str, **_metadata: Any) -> dict[str, "Dataset"]:
    """Return a known set in the form that the harness takes: splits by name."""
    from datasets import Dataset

    return {SPLIT: Dataset.from_list(list(read_known(name)))}


def passages(name: str, column: str, **_metadata: Any) -> dict[str, "Dataset"]:
    """Return the distinct texts of a column, each with the ids of all rows that hold it or another version of it."""
    from datasets import Dataset

    rows: dict[str, list[str]] = {}
    texts: dict[str, None] = {}
    for row in read_known(name):
        text = str(row[column])
        texts[text] = None
        rows.setdefault(_beginning(text), []).append(row_id(row))
    return {SPLIT: Dataset.from_list([{"text": text, ALSO: rows[_beginning(text)]} for text in texts])}


def _beginning(text: str) -> str:
    return text.strip()[:BEGINNING]
