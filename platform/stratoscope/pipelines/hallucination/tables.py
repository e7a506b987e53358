"""The hallucination job's tables."""

import pyarrow as pa

from stratoscope.pipelines.sharded.rows import STATISTICS

PAIR_STATS = pa.schema(
    [
        pa.field("prompt_id", pa.string()),
        pa.field("group", pa.string()),
        pa.field("question_id", pa.string()),
        pa.field("dataset", pa.string()),
        pa.field("right", pa.bool_()),
        pa.field("part", pa.string()),
        *STATISTICS,
    ]
)
"""One row per answer, part, layer and tap. `prompt_id` is an answer's id; of a question itself `right` is null."""
ANSWERS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("question_id", pa.string()),
        ("dataset", pa.string()),
        ("right", pa.bool_()),
        ("origin", pa.string()),
        ("text", pa.string()),
        ("tokens", pa.int64()),
        ("question_tokens", pa.int64()),
        ("log_likelihood", pa.float64()),
    ]
)
"""One row per answer that was read, in the order of `pair_stats`."""
GENERATED = pa.schema(
    [("question_id", pa.string()), ("dataset", pa.string()), ("text", pa.string()), ("right", pa.bool_())]
)
"""One row per question that the model answered itself."""
WRITTEN = pa.schema([("question_id", pa.string()), ("text", pa.string())])
"""What vLLM wrote, where it did."""
ERRORS = pa.schema([("question_id", pa.string()), ("error", pa.string())])
SCORES = pa.schema(
    [
        ("dataset", pa.string()),
        ("layer", pa.int32()),
        ("tap", pa.string()),
        ("part", pa.string()),
        ("definition", pa.string()),
        ("variance", pa.string()),
        ("epsilon_kind", pa.string()),
        ("epsilon", pa.float64()),
        ("num_questions", pa.int64()),
        ("hsav", pa.float64()),
        ("hss", pa.float64()),
        ("eavss", pa.float64()),
        ("eavss_length_adjusted", pa.float64()),
        ("direction", pa.string()),
        ("propensity", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("null_band", pa.float64()),
        ("p_value", pa.float64()),
        ("p_value_length_adjusted", pa.float64()),
        ("flagged", pa.bool_()),
    ]
)
SEPARATION = pa.schema(
    [
        ("dataset", pa.string()),
        ("tap", pa.string()),
        ("features", pa.string()),
        ("layer", pa.int32()),
        ("num_layers", pa.float64()),
        ("auroc", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("over_random", pa.float64()),
        ("over_random_low", pa.float64()),
        ("over_random_high", pa.float64()),
        ("detectable", pa.float64()),
        ("share_of_random_below", pa.float64()),
    ]
)
"""`features`: flagged, random (the mean over the sets), all, avss, layer, answer_length, likelihood."""
RANDOM_SETS = pa.schema([("dataset", pa.string()), ("tap", pa.string()), ("draw", pa.int32()), ("auroc", pa.float64())])
AGREEMENT = pa.schema(
    [
        ("tap", pa.string()),
        ("dataset", pa.string()),
        ("other", pa.string()),
        ("rank_correlation", pa.float64()),
        ("same_sign", pa.float64()),
        ("flagged_by_both", pa.int32()),
    ]
)
RATES = pa.schema(
    [
        ("dataset", pa.string()),
        ("answered", pa.int64()),
        ("wrong", pa.int64()),
        ("rate", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
    ]
)
"""The model's own answers; one without a word counts as neither right nor wrong."""
