"""The fields of the hallucination job."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from stratoscope.activations import Tap
from stratoscope.data import AUTO, FORMATS, Answers, PairChoice, PairSource
from stratoscope.pipelines.runtime.config import ConfigSection
from stratoscope.pipelines.runtime.validators import DISTINCT, POSITIVE, SHARES, named
from stratoscope.pipelines.sharded.config import ShardedConfig
from stratoscope.scoring import DEFINITIONS, EpsilonKind, Inference, VarianceKind

ReadPart = Literal["answer", "last", "question"]
"""All tokens of an answer, its last one, or those of the question."""
Part = Literal["answer", "last", "change"]
"""What is contrasted: an answer, its last token, or an answer relative to its question."""


class PairsSection(ConfigSection):
    """The questions, and whose answers to them are read."""

    source: Annotated[list[str], DISTINCT] = Field(["sciq"], min_length=1)
    """Known sets (sciq, nq_open, triviaqa), files, folders or hub names, separated by commas; each is a data set."""
    format: Annotated[list[str], named((AUTO, *FORMATS), "format")] = Field([AUTO], min_length=1)
    """truthfulqa, sciq, halueval, wikiqa, nq_open, triviaqa, pairs; one for all sources or one each; auto looks."""
    answers: Answers = "given"
    """given: those of the data; gold_and_own: right ones beside the model's own wrong one; own: the model's alone."""
    limit: int | None = Field(200, ge=1)
    """Questions of each data set, after those without usable answers and duplicates are gone; null keeps all."""
    answers_per_question: int = Field(8, ge=1)
    """Most right answers, and most wrong ones, of a question: the first of the data."""
    split: str | None = None
    """Split of a hub set; null is train."""
    subset: str | None = None
    """Configuration of a hub set."""
    revision: str | None = None
    """Branch, tag or commit of a hub set."""

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if len(self.format) not in (1, len(self.source)):
            raise ValueError(
                f"there are {len(self.source)} sources and {len(self.format)} formats; give one, or as many"
            )
        return self

    def to_sources(self) -> list[PairSource]:
        """Return where the questions are."""
        formats = self.format * len(self.source) if len(self.format) == 1 else self.format
        return [
            PairSource(source, name, self.split, self.subset, self.revision)
            for source, name in zip(self.source, formats, strict=True)
        ]

    def to_choice(self, seed: int, shots: int = 0) -> PairChoice:
        """Return which questions and answers are kept; shots stand before those that the model answers itself."""
        shown = 0 if self.answers == "given" else shots
        return PairChoice(self.answers, self.limit, self.answers_per_question, seed, shown)


class GenerationSection(ConfigSection):
    """How the model answers, where its own answers are read: greedily, up to the end of the line."""

    max_tokens: int = Field(16, ge=1)
    """Longest answer, in tokens."""
    shots: int = Field(5, ge=0)
    """Other questions of the data set that stand before each with their right answers, to show what one looks like."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """transformers, inside the actors; or vllm, through ray.data.llm, on GPUs, where vllm is installed."""


class ReadingsSection(ConfigSection):
    """What is read of the activations."""

    taps: Annotated[list[Tap], DISTINCT] = Field([Tap.BLOCK, Tap.UPDATE], min_length=1)
    """Where in each block to read: block, update, attention, mlp, mlp_hidden."""
    parts: Annotated[list[ReadPart], DISTINCT] = Field(["answer"], min_length=1)
    """Which tokens: answer (all of it), last (its last token), question (what the contrast 'change' needs too)."""
    epsilons: Annotated[list[float], DISTINCT, POSITIVE] = [0.01]
    """Absolute thresholds under which activations are counted exactly; any other is counted to the nearest bin edge."""

    @field_validator("parts")
    @classmethod
    def _some_answer(cls, values: list[str]) -> list[str]:
        if values == ["question"]:
            raise ValueError("question alone tells nothing of answers; give answer or last too")
        return values


class ContrastsSection(ConfigSection):
    """What is computed from the statistics, without the model. The first of each is what layers are flagged by."""

    definitions: Annotated[list[str], DISTINCT, named(DEFINITIONS, "definition")] = Field(["eavss"], min_length=1)
    """eavss, standardized, dprime, difference, ratio, hallucinated_only; all are ours."""
    parts: list[Part] = Field(["answer"], min_length=1)
    """answer, last, change (an answer relative to its question)."""
    variance: list[VarianceKind] = Field(["elementwise"], min_length=1)
    """elementwise: over all activations; pooled: over the width of the token mean."""
    epsilon: Annotated[list[float], POSITIVE] = [0.01]
    """Absolute sparsity thresholds."""
    quantile: Annotated[list[float], SHARES] = []
    """Sparsity thresholds as quantiles of |activation| over all layers of a tap."""
    threshold: float = Field(1.0, ge=0)
    """Propensity, |EAVSS| in multiples of its mean over layers, above which a layer can be flagged."""
    level: float = Field(0.05, gt=0, lt=1)
    """Chance that any layer of any tap is flagged where there is nothing to find."""
    draws: int = Field(9999, ge=99)
    """Randomisations of the test."""

    @model_validator(mode="after")
    def _some_threshold(self) -> Self:
        if not self.epsilon and not self.quantile:
            raise ValueError("give at least one of epsilon and quantile")
        return self

    @property
    def thresholds(self) -> tuple[tuple[EpsilonKind, float], ...]:
        """Kind and value of every sparsity threshold."""
        return tuple([("absolute", e) for e in self.epsilon] + [("quantile", q) for q in self.quantile])

    def to_inference(self, seed: int) -> Inference:
        """Return how contrasts are tested."""
        return Inference(self.draws, self.level, self.threshold, seed)


class SeparationSection(ConfigSection):
    """How well statistics of layers tell wrong answers from right ones, on held-out questions."""

    folds: int = Field(5, ge=2)
    """Folds of questions; flags are chosen inside each fold's training questions."""
    random_sets: int = Field(200, ge=1)
    """Random sets of as many layers that the flagged ones are compared with."""
    c: float = Field(1.0, gt=0)
    """Inverse strength of the penalty of the logistic regression."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Coverage of the intervals of areas under the curve."""


class HallucinationConfig(ShardedConfig):
    """Find layers whose activations differ between wrong and right answers, and see how well they tell them apart."""

    pairs: PairsSection = PairsSection()
    """The questions and answers."""
    generation: GenerationSection = GenerationSection()
    """How the model answers."""
    readings: ReadingsSection = ReadingsSection()
    """What is read of the activations."""
    contrasts: ContrastsSection = ContrastsSection()
    """What is computed from the statistics."""
    separation: SeparationSection = SeparationSection()
    """How well layers tell wrong answers from right ones."""

    @model_validator(mode="after")
    def _read_what_is_contrasted(self) -> Self:
        needed = {"change": {"answer", "question"}, "answer": {"answer"}, "last": {"last"}}
        for part in self.contrasts.parts:
            missing = needed[part] - set(self.readings.parts)
            if missing:
                raise ValueError(f"contrasts.parts {part} needs {' and '.join(sorted(missing))} in readings.parts")
        return self
