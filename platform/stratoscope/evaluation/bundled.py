"""The data of the shipped tasks. Their YAML files name these functions as the harness's `custom_dataset`."""

from typing import TYPE_CHECKING, Any

from stratoscope.data import read_known, row_id

if TYPE_CHECKING:
    from datasets import Dataset

SPLIT = "validation"
ALSO = "also"
"""Column with the ids of all rows that hold an item's text; an item is left out if any of them was calibrated on."""


def bundled(name: str, **_metadata: Any) -> dict[str, "Dataset"]:
    """Return a known set in the form that the harness takes: splits by name."""
    from datasets import Dataset

    return {SPLIT: Dataset.from_list(list(read_known(name)))}


def passages(name: str, column: str, **_metadata: Any) -> dict[str, "Dataset"]:
    """Return the distinct texts of a column, each with the ids of all rows that hold it."""
    from datasets import Dataset

    rows: dict[str, list[str]] = {}
    for row in read_known(name):
        rows.setdefault(str(row[column]), []).append(row_id(row))
    return {SPLIT: Dataset.from_list([{"text": text, ALSO: ids} for text, ids in rows.items()])}
