"""The audit job's tables."""

import pyarrow as pa

MODELS = pa.schema(
    [
        ("model", pa.string()),
        ("kind", pa.string()),
        ("stage", pa.string()),
        ("status", pa.string()),
        ("verdict", pa.string()),
        ("error", pa.string()),
        ("job", pa.string()),
        ("stage_run_id", pa.string()),
        ("seconds", pa.float64()),
        ("gpu_hours", pa.float64()),
        ("peak_memory_bytes", pa.int64()),
        ("previous_night", pa.string()),
        ("changed", pa.list_(pa.string())),
        ("regressions", pa.list_(pa.string())),
        ("drift", pa.float64()),
        ("figures", pa.map_(pa.string(), pa.float64())),
    ]
)
"""One row per subject and stage. The verdict is first, same (an earlier run stands for it), steady, regression, or the
status of what did not end well; drift is the largest absolute shift of a layer that moved since the previous night."""
FIGURES = pa.schema(
    [
        ("model", pa.string()),
        ("stage", pa.string()),
        ("figure", pa.string()),
        ("kind", pa.string()),
        ("value", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("before", pa.float64()),
        ("loss", pa.float64()),
        ("threshold", pa.float64()),
        ("regression", pa.bool_()),
    ]
)
"""One row per key figure; `loss` is how much worse it is than the night before, in the terms of its threshold."""
DRIFT = pa.schema(
    [
        ("model", pa.string()),
        ("stage", pa.string()),
        ("design", pa.string()),
        ("tap", pa.string()),
        ("layer", pa.int32()),
        ("shift", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("p_value", pa.float64()),
        ("moved", pa.bool_()),
    ]
)
"""One row per layer and tap of each score run that was computed anew and has one of an earlier night beside it."""
