"""The faithfulness job's tables."""

import pyarrow as pa

KEYS = [
    ("dataset", pa.string()),
    ("forecaster", pa.string()),
    ("training", pa.string()),
    ("seed", pa.int64()),
    ("horizon", pa.int64()),
]
CELLS = pa.schema(
    [
        *KEYS,
        ("perturbation", pa.string()),
        ("level", pa.float64()),
        ("mae", pa.float64()),
        ("mse", pa.float64()),
        ("moved", pa.float64()),
        ("seconds", pa.float64()),
        ("status", pa.string()),
        ("error", pa.string()),
    ]
)
"""One row per fitted forecaster, perturbation and level, over all test windows: the errors in standard units, and the
mean absolute change of the forecast from that of the unperturbed input. The unperturbed row has perturbation none,
level 0, and the seconds of fitting. A cell that failed has one row, with its error."""
WORST = pa.schema(
    [
        *KEYS,
        ("condition", pa.string()),
        ("norm", pa.string()),
        ("goal", pa.string()),
        ("radius", pa.float64()),
        ("value", pa.float64()),
        ("mean", pa.float64()),
        ("windows", pa.int64()),
    ]
)
"""One row per fitted forecaster, condition, norm and goal: the largest value over windows, and the mean over them, of
what ascent finds (sib and snp), a lower bound of the worst case; of cps, which no perturbation enters, the value itself
over all test windows. The goal is what the ascent makes large: own, the condition itself; conditions, the sum of both,
as in the paper; error, the error of the forecast, as in the public code.
Null where a forecaster has no bottleneck, or no teacher."""
FORECASTS = pa.schema(
    [
        *KEYS,
        ("channel", pa.string()),
        ("step", pa.int64()),
        ("value", pa.float64()),
        ("truth", pa.float64()),
    ]
)
"""One test window's forecast by every fitted forecaster, in the series' own units; steps count from the window's end,
and before it there is only truth."""
EPOCHS = pa.schema([*KEYS, ("epoch", pa.int64()), ("loss", pa.float64()), ("validation", pa.float64())])
"""One row per epoch: the mean loss, and the error on the validation windows."""
DIFFERENCES = pa.schema(
    [
        ("dataset", pa.string()),
        ("forecaster", pa.string()),
        ("horizon", pa.int64()),
        ("perturbation", pa.string()),
        ("level", pa.float64()),
        ("metric", pa.string()),
        ("training", pa.string()),
        ("other", pa.string()),
        ("seeds", pa.int64()),
        ("mean", pa.float64()),
        ("other_mean", pa.float64()),
        ("difference", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
    ]
)
"""One row per forecaster, horizon, perturbation, level, metric and pair of trainings: means over seeds, and training -
other of equal seeds with Student's interval over seeds; null where there is one seed. The metrics mae_rise and mse_rise
are what the perturbation adds to the error without it: a training that has less error to begin with does not thereby
stand perturbations better."""
SPREADS = pa.schema(
    [
        ("dataset", pa.string()),
        ("forecaster", pa.string()),
        ("training", pa.string()),
        ("horizon", pa.int64()),
        ("metric", pa.string()),
        ("seeds", pa.int64()),
        ("mean", pa.float64()),
        ("deviation", pa.float64()),
        ("deviation_low", pa.float64()),
        ("deviation_high", pa.float64()),
        ("range", pa.float64()),
        ("preference", pa.float64()),
    ]
)
"""One row per forecaster, training, horizon and metric, without perturbation: mean, standard deviation with its
interval (of normal errors), and range over seeds; and the median of the paper's preference over seeds, in percent, null
of plain training and where plain training does not move."""
