"""The mitigation job's tables."""

import pyarrow as pa

from stratoscope.mitigation import TERMS

NOT_HEALED = ", not healed"
"""What a variant's name ends with where its layers are dropped and it is not trained yet."""
TRAINING = pa.schema(
    [
        ("variant", pa.string()),
        ("seed", pa.int64()),
        ("step", pa.int64()),
        ("loss", pa.float64()),
        *((term, pa.float64()) for term in TERMS),
        ("gradient_norm", pa.float64()),
        ("learning_rate", pa.float64()),
        ("tokens", pa.int64()),
        ("tokens_per_s", pa.float64()),
    ]
)
"""One row per step of each variant and seed; a term that is switched off is null."""
VARIANTS = pa.schema(
    [
        ("variant", pa.string()),
        ("seed", pa.int64()),
        ("layers", pa.list_(pa.int32())),
        ("dropped_layers", pa.list_(pa.int32())),
        ("trained_parameters", pa.int64()),
        ("learning_rate", pa.float64()),
        ("steps", pa.int64()),
        ("diverged", pa.bool_()),
        ("seconds", pa.float64()),
        ("peak_memory_bytes", pa.int64()),
    ]
)
"""One row per trained model. Steps are those that it holds: where it diverged, those before its last checkpoint. The
seconds are those of the start that ended it, the memory that of the largest worker."""
ERRORS = pa.schema([("variant", pa.string()), ("seed", pa.int64()), ("error", pa.string())])
"""One row per training that failed; the others went on."""
SEPARATION = pa.schema(
    [
        ("variant", pa.string()),
        ("seed", pa.int64()),
        ("dataset", pa.string()),
        ("layer", pa.int32()),
        ("n", pa.int64()),
        ("gap", pa.float64()),
        ("closer", pa.float64()),
    ]
)
"""One row per model, data set and layer, as the whole model numbers it: how much closer, by the cosine, a question's
end is to its right answer than to its wrong ones, and in what share of pairs it is closer; means over n questions."""
ITEMS = pa.schema(
    [
        ("variant", pa.string()),
        ("seed", pa.int64()),
        ("dataset", pa.string()),
        ("metric", pa.string()),
        ("item_id", pa.string()),
        ("value", pa.float64()),
        ("weight", pa.float64()),
    ]
)
"""One row per model and item; the base has seed null."""
EVALUATION = pa.schema(
    [
        ("variant", pa.string()),
        ("seed", pa.int64()),
        ("dataset", pa.string()),
        ("metric", pa.string()),
        ("n", pa.int64()),
        ("before", pa.float64()),
        ("after", pa.float64()),
        ("difference", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("retention", pa.float64()),
        ("retention_low", pa.float64()),
        ("retention_high", pa.float64()),
    ]
)
"""One row per model and metric: after - before and after / before, with paired intervals over items."""
COMPARISON = pa.schema(
    [
        ("variant", pa.string()),
        ("other", pa.string()),
        ("dataset", pa.string()),
        ("metric", pa.string()),
        ("n", pa.int64()),
        ("seeds", pa.int64()),
        ("mean", pa.float64()),
        ("spread", pa.float64()),
        ("other_mean", pa.float64()),
        ("other_spread", pa.float64()),
        ("difference", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("relative", pa.float64()),
        ("p_value", pa.float64()),
        ("p_holm", pa.float64()),
    ]
)
"""One row per pair of variants and metric: means over seeds, their standard deviations, and variant - other with a
paired interval over items; relative is that by the other's mean. The other may be the base. Data set null is the mean
over data sets. p-values are two-sided, of the same bootstrap; p_holm is corrected over a metric's data sets."""
TUNING = pa.schema(
    [
        ("variant", pa.string()),
        ("trial_id", pa.string()),
        ("learning_rate", pa.float64()),
        ("temperature", pa.float64()),
        ("contrastive", pa.float64()),
        ("forgetting", pa.float64()),
        ("num_layers", pa.int64()),
        ("reports", pa.int64()),
        ("objective", pa.float64()),
        ("chosen", pa.bool_()),
        ("status", pa.string()),
        ("error", pa.string()),
    ]
)
"""One row per trial; one with fewer reports than others was stopped early."""
