"""The configuration of the mitigation job."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from stratoscope.activations import Tap
from stratoscope.mitigation import TERMS, Anchor, Method
from stratoscope.pipelines.hallucination.config import PairsSection
from stratoscope.pipelines.runtime.config import NO_COMMAS, NOT_IN_IDENTITY, ConfigSection, JobConfig
from stratoscope.pipelines.runtime.demand import Demand
from stratoscope.pipelines.runtime.validators import (
    DISTINCT,
    Count,
    CountOrAuto,
    CountOrZero,
    Cpus,
    Draws,
    DrawsOrZero,
    Fraction,
    FractionOrZero,
    Gpus,
    NotNegative,
    Place,
    Positive,
    Seed,
    Workers,
    named,
)
from stratoscope.pipelines.sharded.config import ModelSection, worker_demand
from stratoscope.scoring import METRICS, Part

if TYPE_CHECKING:
    from stratoscope.evaluation import ItemSampling, Resampling
    from stratoscope.mitigation import LossTerms, OptimizerSettings, Sharding, TrainableSpec, TuningSpace

LayerGroup = Literal["flagged", "random", "all"]


class FlagsSection(ConfigSection):
    """The choice of layers from a hallucination run."""

    num_layers: Count | None = 6
    """Number of layers: those that most data sets flag first, then by mean propensity; null takes all flagged ones."""
    tap: Tap | None = None
    """Tap of the scores; null is the run's first."""
    definition: str | None = None
    """Definition of the scores; null is the run's first."""
    part: Part | None = None
    """Part of the scores; needed if the run contrasts several."""
    datasets: Annotated[list[str], DISTINCT] = []
    """Data sets whose flags count; empty takes all of the run."""


class DropsSection(ConfigSection):
    """The choice of dropped layers from a score run, for recovery after pruning."""

    metrics: Annotated[list[str], DISTINCT, named(METRICS, "metric")] = Field(["avss"], min_length=1)
    """avss, variance, sparsity, block_influence, magnitude, random, last; each is a variant of its own."""
    tap: Tap = Tap.UPDATE
    """Tap of the metrics that have a tap."""
    epsilon: Positive = 0.01
    """Absolute sparsity threshold."""
    ratio: Fraction = 0.25
    """Share of layers to drop."""


class ParametersSection(ConfigSection):
    """The parameters of the layers that are trained."""

    method: Method = "whole"
    """whole: all parameters; lora: low-rank adapters on all linear modules, by peft, merged at the end."""
    rank: int = Field(8, ge=1, le=65_536)
    """Rank of the adapters."""
    alpha: int = Field(16, ge=1, le=65_536)
    """Scale of the adapters: their product is multiplied by alpha / rank."""
    dropout: FractionOrZero = 0.0
    """Dropout of the adapters' input."""

    def to_spec(self, layers: tuple[int, ...]) -> "TrainableSpec":
        """Return the trained parameters of some layers."""
        from stratoscope.mitigation import TrainableSpec

        return TrainableSpec(layers, self.method, self.rank, self.alpha, self.dropout)


class ObjectiveSection(ConfigSection):
    """The weights of the loss terms. Null is the default for fine-tuning or for recovery; zero disables a term."""

    contrastive: NotNegative | None = None
    """InfoNCE on hidden states of the trained layers; null is 0.1, for recovery 0."""
    likelihood: NotNegative | None = None
    """Likelihood of right answers; null is 0.5, for recovery 0."""
    margin: NotNegative | None = None
    """Margin of the likelihood of right answers over wrong ones; null is 1, for recovery 0."""
    forgetting: NotNegative | None = None
    """Divergence from the unchanged model on texts; null is 1."""
    hidden: NotNegative | None = None
    """For recovery: mismatch of hidden states where layers were dropped; null is 0."""
    text: NotNegative | None = None
    """Likelihood of texts; null is 0, for recovery 0.3."""
    temperature: Positive = 0.1
    """Temperature of the contrast."""
    anchor: Anchor = "question"
    """Anchor of the contrast: question (its last token) or frozen (the right answer in the unchanged model)."""
    wanted_margin: Positive = 1.0
    """Margin to reach, in nats per token."""
    softening: Positive = 1.0
    """Temperature of the divergence."""

    def to_terms(self, *, recovery: bool) -> "LossTerms":
        """Return the terms of the loss."""
        from stratoscope.mitigation import LossTerms, Weights

        defaults = Weights(forgetting=1.0, text=0.3) if recovery else Weights(0.1, 0.5, 1.0, forgetting=1.0)
        weights = replace(defaults, **{name: getattr(self, name) for name in TERMS if getattr(self, name) is not None})
        return LossTerms(weights, self.temperature, self.anchor, self.wanted_margin, self.softening)


class TextsSection(ConfigSection):
    """General texts for the terms forgetting, hidden and text."""

    source: Annotated[list[Place], DISTINCT] = ["boolq"]
    """Known sets, files, folders or hub names, separated by commas; empty where samples.number is not 0."""
    template: list[str] = Field([], json_schema_extra=NO_COMMAS)
    """Jinja templates over a row's columns, one for each source; empty takes the sources' own. On the command line the
    option is repeated for each."""
    limit: Annotated[list[Count], Field(min_length=1)] | None = [256]
    """Texts of each source: one number for all, or one for each; null keeps all."""
    max_tokens: Count = Field(96, ge=2)
    """Longest text, in tokens; longer ones are truncated."""
    split: str | None = None
    """Split of a hub set; null is train."""

    @field_validator("limit", mode="before")
    @classmethod
    def _one_for_all(cls, value: object) -> object:
        if value == [None]:  # null on the command line
            return None
        return value if value is None or isinstance(value, list) else [value]

    @model_validator(mode="after")
    def _check_numbers(self) -> Self:
        num_sources = len(self.source)
        if self.template and len(self.template) != num_sources:
            raise ValueError(
                f"there are {num_sources} sources and {len(self.template)} templates; give as many, or none"
            )
        if self.limit is not None and len(self.limit) not in (1, num_sources):
            raise ValueError(
                f"there are {num_sources} sources and {len(self.limit)} numbers in limit; give one, or as many"
            )
        return self

    @property
    def limits(self) -> list[int | None]:
        """Most texts of each source; None keeps all."""
        num_sources = len(self.source)
        if self.limit is None:
            return [None] * num_sources
        return [*(self.limit * num_sources if len(self.limit) == 1 else self.limit)]


class SamplesSection(ConfigSection):
    """Texts that the unchanged model generates, besides those of texts.source or instead of them."""

    number: CountOrZero = 0
    """Number of texts to generate, once in a run; 0 generates none."""
    max_tokens: Count | None = Field(None, ge=2)
    """Longest text, in tokens; null is texts.max_tokens."""
    temperature: Positive = 1.0
    """Temperature of sampling; 1 samples from the model's own distribution."""
    seed: Seed | None = None
    """Seed of sampling; null is the run's."""


class TrainSection(ConfigSection):
    """The training of each variant."""

    max_steps: Count = 20
    """Steps of the optimiser."""
    questions: CountOrZero = 4
    """Questions of a step, over all workers."""
    wrong_answers: Count = 2
    """Most wrong answers of a question: the first of the data."""
    texts: CountOrZero = 4
    """Texts of a step, over all workers."""
    micro_batches: Count = 1
    """Micro-batches of a step, over which gradients are accumulated."""
    learning_rate: Positive = 1e-4
    """Peak learning rate, after the warm-up."""
    warmup: FractionOrZero = 0.1
    """Share of the steps in which the learning rate rises; then it falls along a cosine."""
    weight_decay: NotNegative = 0.0
    """Weight decay of AdamW."""
    clip: NotNegative = 1.0
    """Largest norm of the gradient; 0 disables clipping."""
    seeds: Annotated[list[Seed], DISTINCT] = Field([0], min_length=1)
    """Seeds, one training of each variant for each: they decide the order of examples, adapters and random layers."""
    zero: Literal[1, 2, 3] = 1
    """Stage of DeepSpeed's ZeRO."""
    offload: bool = False
    """Keep what ZeRO partitions in CPU memory."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of storing them."""
    num_workers: Workers | None = None
    """Number of workers; null is one for each GPU, or one for each CPU, at most two."""
    cpus: Cpus = Field(1, json_schema_extra=NOT_IN_IDENTITY)
    """CPUs, and thus CPU threads, of each worker."""
    gpus: Gpus | None = None
    """GPUs of each worker; null takes one where the cluster has any."""
    checkpoint_every: Count = 10
    """Steps between two checkpoints, from which a killed run resumes. A training that diverges is judged by the last
    one."""

    def demand(self, name: str) -> Demand:
        """Return the workers and their resources."""
        return worker_demand(name, self.cpus, self.gpus, self.num_workers or 1, f"{name}.num_workers")

    def to_optimizer(self) -> "OptimizerSettings":
        """Return the settings of the optimiser."""
        from stratoscope.mitigation import OptimizerSettings

        return OptimizerSettings(self.learning_rate, self.warmup, self.weight_decay, self.clip, self.max_steps)

    def to_sharding(self) -> "Sharding":
        """Return the settings of ZeRO."""
        from stratoscope.mitigation import Sharding

        return Sharding(self.zero, self.offload, self.gradient_checkpointing)


class HeldOutSection(ConfigSection):
    """The evaluation before and after training, on held-out items."""

    limit: Count = Field(60, ge=4)
    """Held-out questions of each data set, and items of each task."""
    only: Annotated[list[str], DISTINCT] = []
    """Data sets of pairs.source that are only evaluated."""
    generate: bool = False
    """Also evaluate answers that the model generates, by exact match, where right answers are short."""
    tasks: Annotated[list[Place], DISTINCT] = []
    """Shipped tasks, tasks or groups of lm-evaluation-harness, harness:NAME, or task YAML files; each filter of a task
    with several is a metric."""
    text: Place | None = None
    """Known set, file or hub name of texts whose perplexity is measured."""
    batch_tokens: CountOrAuto = "auto"
    """Maximum tokens of a batch, padding included; auto is 2048 on a CPU and is measured on a GPU, once in a run."""
    bootstrap: Draws = Field(1000, ge=100)
    """Draws of the paired bootstrap over items."""
    confidence: Fraction = 0.95
    """Coverage of the intervals."""

    def to_sampling(self, seed: int) -> "ItemSampling":
        """Return which items of tasks are evaluated; nothing is searched, so no items are set aside."""
        from stratoscope.evaluation import ItemSampling

        return ItemSampling(self.limit, 0, seed)

    def to_resampling(self, seed: int) -> "Resampling":
        """Return the settings of the bootstrap."""
        from stratoscope.evaluation import Resampling

        return Resampling(self.bootstrap, self.confidence, seed)


class TuneSection(ConfigSection):
    """A search by Ray Tune before the training; each variant has one of its own, of equal size."""

    num_samples: DrawsOrZero = 0
    """Trials of each variant, each of which is a training; 0 trains with the settings of train."""
    learning_rates: Annotated[list[Positive], DISTINCT] = Field([3e-5, 1e-4, 3e-4], min_length=1)
    """Candidate learning rates."""
    temperatures: Annotated[list[Positive], DISTINCT] = []
    """Candidate temperatures of the contrast; empty keeps objective.temperature."""
    contrastive: Annotated[list[NotNegative], DISTINCT] = []
    """Candidate weights of the contrast; empty keeps objective.contrastive."""
    forgetting: Annotated[list[NotNegative], DISTINCT] = []
    """Candidate weights of the divergence from the unchanged model; empty keeps objective.forgetting."""
    num_layers: Annotated[list[Count], DISTINCT] = []
    """Candidate numbers of flagged layers, for the variants flagged and random; empty keeps flags.num_layers."""
    rungs: Count = 2
    """Reports of a trial; ASHA may stop it after any but the last."""
    limit: Count = Field(40, ge=4)
    """Validation questions of each trained data set, or texts for recovery, which evaluate the trials."""

    def to_space(self, *, with_layers: bool) -> "TuningSpace":
        """Return the search space of a variant, with the number of its layers where it is a choice."""
        values: dict[str, Sequence[float]] = {
            "learning_rate": self.learning_rates,
            "temperature": self.temperatures,
            "contrastive": self.contrastive,
            "forgetting": self.forgetting,
            "num_layers": self.num_layers if with_layers else [],
        }
        from stratoscope.mitigation import TuningSpace

        return TuningSpace(tuple((name, tuple(choices)) for name, choices in values.items() if choices))


class KeepSection(ConfigSection):
    """The trained models that are written as checkpoints."""

    models: Literal["first", "all", "none"] = "first"
    """first (the first variant with the first seed), all, none."""


class MitigationConfig(JobConfig):
    """Fine-tune the hallucinating layers of a model, or recover it after pruning, and compare it with the original."""

    model: ModelSection = ModelSection()
    """The model."""
    layers: str | None = None
    """Layers to train: a finished hallucination run, numbers (3,5,7) or all. Null is all where layers are dropped;
    otherwise a hallucination run of the pairs is computed first."""
    drop: str | None = None
    """Layers to drop before a recovery training: a finished score run, or numbers (3,5,7); null drops none."""
    compare: Annotated[list[LayerGroup], DISTINCT] = Field(["flagged"], min_length=1)
    """Variants of fine-tuning: flagged (those of layers; results call them given where layers are numbers), random (as
    many others, drawn for each seed), all. Recovery compares drops.metrics instead."""
    flags: FlagsSection = FlagsSection()
    """The choice of layers from a hallucination run."""
    drops: DropsSection = DropsSection()
    """The choice of dropped layers from a score run."""
    parameters: ParametersSection = ParametersSection()
    """The parameters of the layers that are trained."""
    objective: ObjectiveSection = ObjectiveSection()
    """The weights of the loss terms."""
    pairs: PairsSection = PairsSection(limit=120)
    """Questions and answers; pairs.limit counts training questions only, without held-out ones."""
    texts: TextsSection = TextsSection()
    """General texts."""
    samples: SamplesSection = SamplesSection()
    """General texts that the unchanged model generates."""
    train: TrainSection = TrainSection()
    """The training of each variant."""
    evaluation: HeldOutSection = HeldOutSection()
    """The evaluation before and after training."""
    tune: TuneSection = TuneSection()
    """A search before the training."""
    keep: KeepSection = KeepSection()
    """The trained models that are written as checkpoints."""

    @field_validator("layers", "drop", mode="before")
    @classmethod
    def _join_numbers(cls, value: object) -> object:
        if isinstance(value, list):
            return ",".join(map(str, value))
        return str(value) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _check_terms(self) -> Self:
        terms = self.terms
        if not terms.weights.used():
            raise ValueError("objective: all terms are disabled; give one of them a weight")
        workers = self.train.num_workers or 1
        if self.most_workers < workers:
            raise ValueError(
                f"train.questions ({self.train.questions}) and train.texts ({self.train.texts}) must be at least one "
                f"for each worker and micro-batch ({workers * self.train.micro_batches})"
            )
        if set(terms.weights.used()) == {"hidden"} and not self.recovery:
            raise ValueError(
                "objective.hidden: no layer is dropped, so there are no states to match; give another term a weight"
            )
        for name in ("contrastive", "forgetting"):
            if getattr(self.tune, name) and not getattr(terms.weights, name):
                raise ValueError(f"tune.{name}: objective.{name} is disabled; give it a weight, or empty the list")
        if self.tune.temperatures and not terms.weights.contrastive:
            raise ValueError(
                "tune.temperatures: objective.contrastive is disabled, and no other term has a temperature; give it a "
                "weight, or empty the list"
            )
        if self.pairs.answers != "given":
            raise ValueError("pairs.answers: only given answers can be used for training")
        return self

    @model_validator(mode="after")
    def _check_texts(self) -> Self:
        uses_texts = self.terms.weights.uses_texts
        if self.samples.number and not uses_texts:
            raise ValueError("samples.number: no term of the objective is computed on texts; give forgetting a weight")
        if uses_texts and not self.texts.source and not self.samples.number:
            raise ValueError("texts.source: there are no texts to train on; name a source, or give samples.number")
        return self

    @model_validator(mode="after")
    def _check_searched_layers(self) -> Self:
        if not self.tune.num_layers:
            return self
        if self.recovery:
            raise ValueError("tune.num_layers: drop decides which layers are trained; empty the list")
        if not {"flagged", "random"} & set(self.compare):
            raise ValueError(
                "tune.num_layers: no variant of compare has flagged layers; add flagged or random, or empty the list"
            )
        return self

    @property
    def num_validation_texts(self) -> int:
        """Number of texts of each source that evaluate the trials of a recovery's search."""
        return self.tune.limit if self.recovery and self.tune.num_samples else 0

    @property
    def num_samples(self) -> int:
        """Number of texts to generate, with those for validation."""
        return self.samples.number + self.num_validation_texts if self.samples.number else 0

    @property
    def tokens_per_sample(self) -> int:
        """Most tokens of a generated text."""
        return self.samples.max_tokens or self.texts.max_tokens

    @property
    def most_workers(self) -> int:
        """Largest number of workers that all have an example in every micro-batch."""
        weights = self.terms.weights
        sizes = [self.train.questions] * weights.uses_questions + [self.train.texts] * weights.uses_texts
        return min(sizes) // self.train.micro_batches

    @property
    def recovery(self) -> bool:
        """Whether layers are dropped before training."""
        return self.drop is not None

    @property
    def terms(self) -> "LossTerms":
        """The terms of the loss."""
        return self.objective.to_terms(recovery=self.recovery)
