"""The tables of a search for EAVSS thresholds."""

import pyarrow as pa

TRIALS = pa.schema(
    [
        ("trial_id", pa.string()),
        ("target", pa.string()),
        ("origin", pa.string()),
        ("tap", pa.string()),
        ("metric", pa.string()),
        ("part", pa.string()),
        ("variance", pa.string()),
        ("epsilon_kind", pa.string()),
        ("epsilon", pa.float64()),
        ("propensity", pa.float64()),
        ("level", pa.float64()),
        ("objective", pa.float64()),
        ("auroc", pa.float64()),
        ("random", pa.float64()),
        ("over_random", pa.float64()),
        ("num_layers", pa.float64()),
        ("seconds", pa.float64()),
        ("status", pa.string()),
        ("error", pa.string()),
    ]
)
"""One per trial; `metric` is the definition, areas are means over the data sets that trials are judged on."""
OUTCOMES = pa.schema(
    [
        ("trial_id", pa.string()),
        ("role", pa.string()),
        ("dataset", pa.string()),
        ("auroc", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("random", pa.float64()),
        ("over_random", pa.float64()),
        ("over_random_low", pa.float64()),
        ("over_random_high", pa.float64()),
        ("detectable", pa.float64()),
        ("share_of_random_below", pa.float64()),
        ("num_layers", pa.float64()),
        ("flagged_layers", pa.list_(pa.int32())),
    ]
)
"""One per trial and data set; `role` is chosen_on or confirmed_on."""
