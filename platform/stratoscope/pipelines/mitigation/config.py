"""The fields of the mitigation job."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from stratoscope.activations import Tap
from stratoscope.evaluation import ItemSampling, Resampling
from stratoscope.mitigation import Anchor, LossTerms, Method, OptimizerSettings, Sharding, Weights
from stratoscope.pipelines.hallucination.config import PairsSection
from stratoscope.pipelines.runtime.config import NOT_IN_IDENTITY, ConfigSection, JobConfig
from stratoscope.pipelines.runtime.validators import DISTINCT, NOT_NEGATIVE, POSITIVE, named
from stratoscope.pipelines.sharded.config import ModelSection
from stratoscope.scoring import METRICS

FLAGGED, RANDOM, EVERY, GIVEN = "flagged", "random", "all", "given"
LayerGroup = Literal["flagged", "random", "all"]


class FlagsSection(ConfigSection):
    """Which layers a hallucination run names."""

    num_layers: int | None = Field(6, ge=1)
    """So many, those flagged by most data sets first, then by mean propensity; null takes just those flagged by any."""
    tap: Tap | None = None
    """Tap that they are flagged at; null is the run's first."""
    definition: str | None = None
    """Definition that they are flagged by; null is the run's first."""
    datasets: Annotated[list[str], DISTINCT] = []
    """Data sets that count; none stands for all of the run."""


class DropsSection(ConfigSection):
    """Which layers a score run names, where layers are dropped and the loss is healed."""

    metrics: Annotated[list[str], DISTINCT, named(METRICS, "metric")] = Field(["avss"], min_length=1)
    """avss, variance, sparsity, block_influence, magnitude, random, last: each is a variant of its own."""
    tap: Tap = Tap.UPDATE
    """Tap of the metrics that have one."""
    epsilon: float = Field(0.01, gt=0)
    """Absolute sparsity threshold."""
    ratio: float = Field(0.25, gt=0, lt=1)
    """Share of layers to drop."""


class ParametersSection(ConfigSection):
    """What of the layers is trained."""

    method: Method = "whole"
    """whole: all their parameters; lora: low-rank adapters on all their linear maps, by peft, merged at the end."""
    rank: int = Field(8, ge=1)
    """Of the adapters."""
    alpha: int = Field(16, ge=1)
    """Of the adapters: their product counts alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Of the adapters' input."""


class ObjectiveSection(ConfigSection):
    """The terms of the loss; null is the usual weight, of mending or of healing, and zero switches a term off."""

    contrastive: float | None = Field(None, ge=0)
    """InfoNCE on hidden states of the trained layers; null is 0.1, of healing 0."""
    likelihood: float | None = Field(None, ge=0)
    """Likelihood of right answers; null is 0.5, of healing 0."""
    margin: float | None = Field(None, ge=0)
    """Likelihood of right answers over wrong ones; null is 1, of healing 0."""
    forgetting: float | None = Field(None, ge=0)
    """Divergence from the unchanged model on texts; null is 1."""
    hidden: float | None = Field(None, ge=0)
    """Of healing, mismatch of hidden states where layers were dropped; null is 0."""
    text: float | None = Field(None, ge=0)
    """Likelihood of texts; null is 0, of healing 0.3."""
    temperature: float = Field(0.1, gt=0)
    """Of the contrast."""
    anchor: Anchor = "question"
    """What answers are contrasted with: question (its last token) or frozen (the unchanged model's right answer)."""
    wanted_margin: float = Field(1.0, gt=0)
    """In nats per token."""
    softening: float = Field(1.0, gt=0)
    """Temperature of the divergence."""

    def to_terms(self, *, healing: bool) -> LossTerms:
        """Return the terms."""
        usual = Weights(forgetting=1.0, text=0.3) if healing else Weights(0.1, 0.5, 1.0, forgetting=1.0)
        names = ("contrastive", "likelihood", "margin", "forgetting", "hidden", "text")
        given = {name: getattr(self, name) for name in names}
        chosen = {name: getattr(usual, name) if value is None else value for name, value in given.items()}
        return LossTerms(Weights(**chosen), self.temperature, self.anchor, self.wanted_margin, self.softening)


class TextsSection(ConfigSection):
    """General texts: for what is not to be forgotten, or is to be learnt again."""

    source: Annotated[list[str], DISTINCT] = Field(["boolq"], min_length=1)
    """Known sets, files, folders or hub names, separated by commas."""
    template: list[str] = []
    """Jinja templates over a row's columns, one for each source; none takes the sources' own."""
    limit: int | None = Field(256, ge=1)
    """Texts of each source; null keeps all."""
    max_tokens: int = Field(96, ge=2)
    """Longest text, in tokens; the rest is cut off."""
    split: str | None = None
    """Split of a hub set; null is train."""

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if self.template and len(self.template) != len(self.source):
            raise ValueError(
                f"there are {len(self.source)} sources and {len(self.template)} templates; give as many, or none"
            )
        return self


class TrainSection(ConfigSection):
    """How it is trained."""

    max_steps: int = Field(20, ge=1)
    """Steps of the optimiser."""
    questions: int = Field(4, ge=0)
    """Questions of a step, of all workers together."""
    wrong_answers: int = Field(2, ge=1)
    """Most wrong answers of a question that are trained on: the first of the data."""
    texts: int = Field(4, ge=0)
    """Texts of a step, of all workers together."""
    micro_batches: int = Field(1, ge=1)
    """Parts of a step that are computed one after another; gradients are accumulated."""
    learning_rate: float = Field(1e-4, gt=0)
    """At its highest, after the warm-up."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps in which it rises; then it falls as a cosine."""
    weight_decay: float = Field(0.0, ge=0)
    """Of AdamW."""
    clip: float = Field(1.0, ge=0)
    """Largest norm of a gradient; 0 does not clip."""
    seeds: Annotated[list[int], DISTINCT] = Field([0], min_length=1)
    """Each variant is trained once with each: the order of examples, adapters, and which layers are random."""
    zero: Literal[1, 2, 3] = 1
    """Stage of DeepSpeed's ZeRO."""
    offload: bool = False
    """Keep what ZeRO deals out in the memory of the CPU."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    num_workers: int | None = Field(None, ge=1)
    """Workers; null is one for each GPU, or one for each CPU, at most two."""
    cpus: int = Field(1, ge=1, json_schema_extra=NOT_IN_IDENTITY)
    """CPUs, and so CPU threads, of each worker."""
    gpus: float | None = Field(None, ge=0)
    """GPUs of each worker; null takes one where the cluster has any."""
    checkpoint_every: int = Field(10, ge=1, json_schema_extra=NOT_IN_IDENTITY)
    """Steps between two checkpoints, from which a killed run goes on."""

    def to_optimising(self) -> OptimizerSettings:
        """Return how parameters are changed."""
        return OptimizerSettings(self.learning_rate, self.warmup, self.weight_decay, self.clip, self.max_steps)

    def to_sharding(self) -> Sharding:
        """Return what DeepSpeed deals out."""
        return Sharding(self.zero, self.offload, self.gradient_checkpointing)


class HeldOutSection(ConfigSection):
    """What the model is worth before and after, on what it was not trained on."""

    limit: int = Field(60, ge=4)
    """Questions of each data set that are held out from training, and items of each task."""
    only: Annotated[list[str], DISTINCT] = []
    """Data sets of pairs.source that are never trained on."""
    generate: bool = False
    """Let the model answer, too, where right answers are short: exact match."""
    tasks: Annotated[list[str], DISTINCT] = []
    """Shipped tasks, tasks or groups of lm-evaluation-harness, harness:NAME, or task YAML files."""
    text: str | None = None
    """Known set, file or hub name whose texts' perplexity is measured."""
    batch_tokens: int = Field(2048, ge=1)
    """Most tokens of a batch, padding included."""
    bootstrap: int = Field(1000, ge=100)
    """Draws of the paired bootstrap over items."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Coverage of the intervals."""

    def to_choice(self, seed: int) -> ItemSampling:
        """Return which items of tasks are judged on; nothing is searched, so all are of one kind."""
        return ItemSampling(self.limit, 0, seed)

    def to_resampling(self, seed: int) -> Resampling:
        """Return how intervals are made."""
        return Resampling(self.bootstrap, self.confidence, seed)


class TuneSection(ConfigSection):
    """A search by Ray Tune before the training; each variant gets one of its own, of equal size."""

    num_samples: int = Field(0, ge=0)
    """Trials of each variant, each a training of its own; 0 trains with the settings of train."""
    learning_rates: Annotated[list[float], DISTINCT, POSITIVE] = Field([3e-5, 1e-4, 3e-4], min_length=1)
    """Learning rates to choose from."""
    temperatures: Annotated[list[float], DISTINCT, POSITIVE] = []
    """Temperatures of the contrast; none keeps objective.temperature."""
    contrastive: Annotated[list[float], DISTINCT, NOT_NEGATIVE] = []
    """Weights of the contrast; none keeps objective.contrastive."""
    forgetting: Annotated[list[float], DISTINCT, NOT_NEGATIVE] = []
    """Weights of the divergence from the unchanged model; none keeps objective.forgetting."""
    num_layers: Annotated[list[int], DISTINCT, POSITIVE] = []
    """Numbers of flagged layers, for the variants flagged and random; none keeps flags.num_layers."""
    rungs: int = Field(2, ge=1)
    """How often a trial reports; ASHA may stop it after any report but the last."""
    limit: int = Field(40, ge=4)
    """Questions of each trained data set, apart from all others, or texts, that trials are judged on."""


class KeepSection(ConfigSection):
    """Which trained models are written as checkpoints."""

    models: Literal["first", "all", "none"] = "first"
    """first: the first variant with the first seed."""


class MitigationConfig(JobConfig):
    """Mend a model in the layers that hallucinate, or heal it after layers were dropped, and see what it is worth."""

    model: ModelSection = ModelSection()
    """The model."""
    layers: str | None = None
    """Layers to train: a finished hallucination run, numbers (3,5,7) or all; null is all where layers are dropped, and
    else makes a hallucination run of the pairs first."""
    drop: str | None = None
    """Layers to drop first, whose loss is then healed: a finished score run, or numbers (3,5,7); null drops none."""
    compare: Annotated[list[LayerGroup], DISTINCT] = Field(["flagged"], min_length=1)
    """flagged (those of layers), random (as many others, drawn anew with each seed), all; of healing, drops.metrics
    says what is compared."""
    flags: FlagsSection = FlagsSection()
    """Which layers a hallucination run names."""
    drops: DropsSection = DropsSection()
    """Which layers a score run names."""
    parameters: ParametersSection = ParametersSection()
    """What of the layers is trained."""
    objective: ObjectiveSection = ObjectiveSection()
    """The terms of the loss."""
    pairs: PairsSection = PairsSection(limit=120)
    """Questions and answers; pairs.limit is for training, what evaluation holds out comes on top."""
    texts: TextsSection = TextsSection()
    """General texts."""
    train: TrainSection = TrainSection()
    """How it is trained."""
    evaluation: HeldOutSection = HeldOutSection()
    """What the model is worth before and after."""
    tune: TuneSection = TuneSection()
    """A search before the training."""
    keep: KeepSection = KeepSection()
    """Which trained models are written."""

    @field_validator("layers", "drop", mode="before")
    @classmethod
    def _numbers(cls, value: object) -> object:
        if isinstance(value, list):
            return ",".join(map(str, value))
        return str(value) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        terms = self.terms
        if not terms.weights.used():
            raise ValueError("objective: all terms are switched off; give one of them a weight")
        workers = self.train.num_workers or 1
        if self.most_workers < workers:
            raise ValueError(
                f"train.questions ({self.train.questions}) and train.texts ({self.train.texts}) must be at least one "
                f"for each worker and micro-batch ({workers * self.train.micro_batches})"
            )
        if set(terms.weights.used()) == {"hidden"} and not self.healing:
            raise ValueError(
                "objective.hidden: no layer is dropped, so there is nothing to match; give another term a weight"
            )
        for name in ("contrastive", "forgetting"):
            if getattr(self.tune, name) and not getattr(terms.weights, name):
                raise ValueError(f"tune.{name}: objective.{name} is switched off; give it a weight, or none to try")
        if self.pairs.answers != "given":
            raise ValueError("pairs.answers: only given answers can be trained on")
        return self

    @property
    def most_workers(self) -> int:
        """The most workers that each have something to do in every micro-batch."""
        weights = self.terms.weights
        taken = [self.train.questions] * weights.uses_questions + [self.train.texts] * weights.uses_texts
        return min(taken) // self.train.micro_batches

    @property
    def healing(self) -> bool:
        """Whether layers are dropped and the loss is healed."""
        return self.drop is not None

    @property
    def terms(self) -> LossTerms:
        """The terms of the loss."""
        return self.objective.to_terms(healing=self.healing)
