"""The search job's tables: their columns, and what stands in them as data classes."""

from collections.abc import Iterable, Sequence

import pyarrow as pa

from stratoscope.evaluation import ItemScore

EVALUATIONS = pa.schema(
    [
        ("dropped_layers", pa.list_(pa.int32())),
        ("part", pa.string()),
        ("task", pa.string()),
        ("item_id", pa.string()),
        ("value", pa.float64()),
        ("weight", pa.float64()),
        ("log_likelihood", pa.float64()),
        ("num_bytes", pa.int64()),
    ]
)
"""One row per set of dropped layers and item: what was right, and of how much."""
_OWN = [
    ("trial_id", pa.string()),
    ("target", pa.string()),
    ("origin", pa.string()),
    ("tap", pa.string()),
    ("metric", pa.string()),
    ("variance", pa.string()),
    ("epsilon_kind", pa.string()),
    ("epsilon", pa.float64()),
    ("draw", pa.int32()),
    ("ratio", pa.float64()),
    ("contiguous", pa.bool_()),
    ("dropped_layers", pa.list_(pa.int32())),
]
_FOUND = [
    ("retention_raw", pa.float64()),
    ("retention_raw_low", pa.float64()),
    ("retention_raw_high", pa.float64()),
    ("retention_above_chance", pa.float64()),
    ("bits_per_byte", pa.float64()),
    ("objective", pa.float64()),
    ("share_of_items", pa.float64()),
    ("parameters", pa.int64()),
    ("tokens_per_s", pa.float64()),
    ("seconds", pa.float64()),
    ("status", pa.string()),
    ("error", pa.string()),
]
_HELD_OUT = [
    ("held_out_raw", pa.float64()),
    ("held_out_raw_low", pa.float64()),
    ("held_out_raw_high", pa.float64()),
    ("held_out_above_chance", pa.float64()),
    ("held_out_above_chance_low", pa.float64()),
    ("held_out_above_chance_high", pa.float64()),
    ("chosen", pa.bool_()),
]


def trials_schema(tasks: Sequence[str]) -> pa.Schema:
    """Return the columns of `trials`: a task's own column holds its accuracy."""
    return pa.schema([*_OWN, *((task, pa.float64()) for task in tasks), *_FOUND])


def front_schema(tasks: Sequence[str]) -> pa.Schema:
    """Return the columns of `front`: those of `trials`, with what held-out items say."""
    return pa.schema([*trials_schema(tasks), *(pa.field(name, kind) for name, kind in _HELD_OUT)])


COMPARISON = pa.schema(
    [
        ("kind", pa.string()),
        ("dropped_layers", pa.list_(pa.int32())),
        ("part", pa.string()),
        ("task", pa.string()),
        ("metric", pa.string()),
        ("items", pa.int64()),
        ("chance", pa.float64()),
        ("before", pa.float64()),
        ("after", pa.float64()),
        ("difference_low", pa.float64()),
        ("difference_high", pa.float64()),
        ("within_noise", pa.bool_()),
        ("bits_per_byte_before", pa.float64()),
        ("bits_per_byte_after", pa.float64()),
        *((f"{what}{end}", pa.float64()) for what in ("raw", "above_chance") for end in ("", "_low", "_high")),
    ]
)
"""One row per set, part and task; the kind is chosen, front, reference, random or trial."""
SPEED = pa.schema(
    [
        ("what", pa.string()),
        ("unit", pa.string()),
        ("before", pa.float64()),
        ("after", pa.float64()),
        ("gain", pa.float64()),
        ("gain_low", pa.float64()),
        ("gain_high", pa.float64()),
    ]
)
"""The exported model against the original: medians of paired runs, and of their ratios."""


def evaluation_rows(dropped: Sequence[int], part: str, scores: Iterable[ItemScore]) -> list[tuple[object, ...]]:
    """Return the rows of a set of dropped layers."""
    layers = list(dropped)
    return [(layers, part, s.task, s.item_id, s.value, s.weight, s.log_likelihood, s.num_bytes) for s in scores]


def item_scores(table: pa.Table) -> list[ItemScore]:
    """Return the item scores in rows of `evaluations`."""
    return [
        ItemScore(r["task"], r["item_id"], r["value"], r["weight"], r["log_likelihood"], r["num_bytes"])
        for r in table.to_pylist()
    ]
