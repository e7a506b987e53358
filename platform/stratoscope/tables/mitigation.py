"""The row types of the mitigation job's tables."""

from dataclasses import dataclass

from stratoscope.results import Int32, TableRow

NOT_RECOVERED = ", not recovered"
"""End of a variant's name in tables for its pruned model before training."""


@dataclass(frozen=True)
class TrainingStepRow(TableRow):
    """One row per training step of each variant and seed; a disabled term is null."""

    variant: str
    """Name of the variant."""
    seed: int
    """Seed of the training."""
    step: int
    """Number of the step, counted from 1."""
    loss: float
    """Weighted sum of the terms."""
    contrastive: float | None
    """InfoNCE on hidden states, per question and layer."""
    likelihood: float | None
    """Negative log-likelihood of right answers, per token."""
    margin: float | None
    """Shortfall of right answers from the margin over wrong ones, per wrong answer."""
    forgetting: float | None
    """Divergence from the unchanged model on texts, per token."""
    hidden: float | None
    """Mismatch of hidden states where layers were dropped, per token."""
    text: float | None
    """Negative log-likelihood of texts, per token."""
    gradient_norm: float
    """Norm of the gradient before clipping."""
    learning_rate: float
    """Learning rate of the step."""
    tokens: int
    """Tokens of the step, over all workers."""
    tokens_per_s: float
    """Tokens per second, over all workers."""


@dataclass(frozen=True)
class VariantRow(TableRow):
    """One row per trained model."""

    variant: str
    """Name of the variant: flagged (by a hallucination run), given (as numbers), random, all, or a metric."""
    seed: int
    """Seed of the training."""
    layers: tuple[Int32, ...]
    """Trained layers, as the whole model numbers them."""
    dropped_layers: tuple[Int32, ...]
    """Layers that were dropped before training."""
    trained_parameters: int
    """Number of trained parameters."""
    learning_rate: float
    """Peak learning rate."""
    steps: int
    """Number of steps of the model; if it diverged, those before its last checkpoint."""
    diverged: bool
    """Whether the loss became non-finite."""
    seconds: float
    """Seconds of the start that finished the training."""
    tokens: int | None
    """Tokens trained on, over all steps and workers."""
    step_seconds: float | None
    """Seconds of the steps, over all starts, without starts, checkpoints and evaluation."""
    peak_memory_bytes: int
    """Highest host memory of any worker, over all starts."""
    peak_gpu_memory_bytes: int | None
    """Highest GPU memory that PyTorch allocated in any worker, over all starts; CUDA's own memory is not in it. 0
    without a GPU; null if an earlier version trained some of the steps."""


@dataclass(frozen=True)
class VariantEvaluationRow(TableRow):
    """One row per model, data set and metric, against the base, with paired intervals over items."""

    variant: str
    """Name of the model: base, a variant, or a variant before recovery."""
    seed: int | None
    """Seed of the training; null for the base."""
    dataset: str
    """Data set or task."""
    metric: str
    """Metric of the items."""
    n: int
    """Number of items."""
    before: float
    """Value of the base."""
    after: float
    """Value of the model."""
    difference: float
    """after - before."""
    ci_low: float
    """Lower end of the interval of the difference."""
    ci_high: float
    """Upper end of the interval of the difference."""
    retention: float | None
    """after / before; null where before is 0."""
    retention_low: float | None
    """Lower end of the interval of the retention."""
    retention_high: float | None
    """Upper end of the interval of the retention."""


@dataclass(frozen=True)
class VariantComparisonRow(TableRow):
    """One row per pair of variants, data set and metric, by means over seeds, with paired intervals over items."""

    variant: str
    """Name of the variant."""
    other: str
    """Name of the other variant, or base."""
    dataset: str | None
    """Data set or task; null is the mean over all."""
    metric: str
    """Metric of the items."""
    n: int
    """Number of items."""
    seeds: int
    """Number of seeds of the variant."""
    mean: float
    """Mean of the variant over its seeds."""
    spread: float | None
    """Standard deviation of the variant over its seeds; null for one seed."""
    other_mean: float
    """Mean of the other over its seeds."""
    other_spread: float | None
    """Standard deviation of the other over its seeds; null for one seed."""
    difference: float
    """mean - other_mean."""
    ci_low: float
    """Lower end of the interval of the difference."""
    ci_high: float
    """Upper end of the interval of the difference."""
    relative: float | None
    """difference / other_mean; null where other_mean is 0."""
    p_value: float
    """Two-sided p-value of the difference, from the same bootstrap; at least 2 / 2^k where k items differ."""
    p_holm: float
    """p_value, corrected over the data sets of a metric by Holm's method."""
    least_p: float | None
    """Least p_holm that so many items, draws and data sets allow; above .05, no difference could be shown."""


@dataclass(frozen=True)
class VariantItemRow(TableRow):
    """One row per model and item."""

    variant: str
    """Name of the model: base, a variant, or a variant before recovery."""
    seed: int | None
    """Seed of the training; null for the base."""
    dataset: str
    """Data set or task."""
    metric: str
    """Metric of the item."""
    item_id: str
    """Id of the question, text or document."""
    value: float
    """Score of the item; a metric is the sum of values over that of weights."""
    weight: float
    """Weight of the item."""


@dataclass(frozen=True)
class LayerSeparationRow(TableRow):
    """One row per model, data set and layer: separation of right and wrong answers, by the mean over questions."""

    variant: str
    """Name of the model: base, a variant, or a variant before recovery."""
    seed: int | None
    """Seed of the training; null for the base."""
    dataset: str
    """Data set of the questions."""
    layer: Int32
    """Layer, as the whole model numbers it."""
    n: int
    """Number of questions."""
    gap: float
    """Cosine of the question's end with the right answer, minus the mean cosine with wrong ones."""
    closer: float
    """Share of wrong answers with a smaller cosine than the right one."""


@dataclass(frozen=True)
class TextSampleRow(TableRow):
    """One row per text that the unchanged model generated for training or validation."""

    sample: int
    """Number of the text."""
    tokens: tuple[Int32, ...]
    """Token ids."""
    text: str
    """Text, without special tokens; the table can be a source of texts of another run."""


@dataclass(frozen=True)
class VariantErrorRow(TableRow):
    """One row per variant whose training or evaluation failed; the others continued."""

    variant: str
    """Name of the variant."""
    seed: int
    """Seed of the training."""
    error: str
    """First line of the error."""


@dataclass(frozen=True)
class TuningTrialRow(TableRow):
    """One row per trial of the search before the training."""

    variant: str
    """Name of the variant."""
    trial_id: str
    """Number of the trial."""
    learning_rate: float | None
    """Peak learning rate; null where it was not searched, as for the other settings."""
    temperature: float | None
    """Temperature of the contrast."""
    contrastive: float | None
    """Weight of the contrast."""
    forgetting: float | None
    """Weight of the divergence from the unchanged model."""
    num_layers: int | None
    """Number of flagged layers."""
    reports: int
    """Number of the last rung reported; a trial with a smaller one than others was stopped early."""
    objective: float | None
    """Last value of the objective, on validation questions or texts."""
    chosen: bool
    """Whether the training uses this trial's settings."""
    status: str
    """done or error."""
    error: str | None
    """Last line of the error."""


TABLES: dict[str, type[TableRow]] = {
    "training": TrainingStepRow,
    "variants": VariantRow,
    "evaluation": VariantEvaluationRow,
    "comparison": VariantComparisonRow,
    "items": VariantItemRow,
    "separation": LayerSeparationRow,
    "samples": TextSampleRow,
    "errors": VariantErrorRow,
    "tuning": TuningTrialRow,
}
"""Row type of each table."""
