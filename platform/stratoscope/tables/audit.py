"""The audit job's tables."""

from dataclasses import dataclass
from typing import Annotated

import pyarrow as pa

from stratoscope.results import Int32, TableRow


@dataclass(frozen=True)
class StageRow(TableRow):
    """A stage of a model or forecaster: its outcome, and its comparison with the previous night."""

    model: str
    """Name of the model or forecaster."""
    kind: str
    """Kind of the subject: model or forecaster."""
    stage: str
    """Name of the stage."""
    status: str
    """Outcome of the stage: done, reused, failed, refused, over time or skipped."""
    verdict: str
    """Comparison with the previous night: first, same (an earlier run is reused), steady, regression, or the status of
    a stage that did not succeed."""
    error: str | None
    """Error message of a stage that did not succeed."""
    job: str | None
    """Name of the stage's job."""
    stage_run_id: str | None
    """Run_id of the stage's run."""
    seconds: float
    """Duration of the stage in seconds, over all starts."""
    gpu_hours: float
    """GPU hours of the stage: its GPUs times its hours."""
    cpu_hours: float | None
    """CPU hours of the stage's process and of all its descendants, Ray's processes included, over all starts. They are
    sampled twice a second and never too high: of a process that nothing waits for, such as a worker, up to half a
    second of each of its threads is missing, as is all work on other machines of a cluster. Null if an earlier version
    wrote the table."""
    peak_memory_bytes: int | None
    """Highest host memory of any worker, in bytes; null for stages that do not measure it."""
    peak_gpu_memory_bytes: int | None
    """Highest GPU memory that PyTorch allocated in any worker, in bytes; CUDA's own memory is not in it. 0 without a
    GPU; null for stages that do not measure it, and if an earlier version wrote the table."""
    bytes: int | None
    """Size in bytes of all files in the stage's own run folder at its end, models and log included, also if it did not
    succeed; 0 if an earlier run is reused. Null if an earlier version wrote the table."""
    previous_night: str | None
    """Run_id of the latest previous night in which the stage succeeded."""
    changed: tuple[str, ...]
    """Differences of settings, data, versions and code since that night."""
    regressions: tuple[str, ...]
    """Regressions in words."""
    drift: float | None
    """Largest absolute shift of a layer that moved since that night; null where layers were not compared."""
    figures: Annotated[tuple[tuple[str, float], ...], pa.map_(pa.string(), pa.float64())]
    """Values of the key metrics, by name."""


@dataclass(frozen=True)
class KeyMetricRow(TableRow):
    """A key metric of a stage, and its change since the previous night."""

    model: str
    """Name of the model or forecaster."""
    stage: str
    """Name of the stage."""
    figure: str
    """Name of the key metric."""
    kind: str
    """Kind of the metric, which selects its threshold: 0 for failures, and none for fact, order and stability."""
    value: float
    """Value of the metric."""
    ci_low: float | None
    """Lower end of the confidence interval."""
    ci_high: float | None
    """Upper end of the confidence interval."""
    before: float | None
    """Value in the previous night."""
    loss: float | None
    """Loss since the previous night, in the unit of the threshold; negative if the metric improved."""
    threshold: float | None
    """Threshold of the loss."""
    regression: bool
    """Whether the loss exceeds the threshold and the noise."""


@dataclass(frozen=True)
class LayerShiftRow(TableRow):
    """Shift of a layer at a tap, of a score run that has a comparable run in a previous night."""

    model: str
    """Name of the model."""
    stage: str
    """Name of the stage."""
    design: str
    """Design of the test: same prompts (paired) or other prompts (two groups)."""
    tap: str
    """Tap of the activations."""
    layer: Int32
    """Index of the layer, from 0."""
    shift: float
    """Difference of mean log AVSS, later - earlier; 0.1 is about 10 % more."""
    ci_low: float
    """Lower end of the interval, simultaneous over all layers and taps of the model."""
    ci_high: float
    """Upper end of the interval, simultaneous over all layers and taps of the model."""
    p_value: float
    """P-value, adjusted for all layers and taps of the model."""
    moved: bool
    """Whether the shift is significant and at least as large as the threshold."""


TABLES: dict[str, type[TableRow]] = {"models": StageRow, "figures": KeyMetricRow, "drift": LayerShiftRow}
"""Row type of each table."""
