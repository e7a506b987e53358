"""Fields of the hallucination job."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from stratoscope.activations import Tap
from stratoscope.data import AUTO, FORMATS, Answers, PairChoice, PairSource, Quoting, check_encoding
from stratoscope.pipelines.runtime.config import ConfigSection
from stratoscope.pipelines.runtime.validators import (
    DISTINCT,
    Count,
    CountOrZero,
    Draws,
    Fraction,
    NotNegative,
    Place,
    Positive,
    named,
)
from stratoscope.pipelines.sharded.config import ShardedConfig
from stratoscope.scoring import (
    DEFINITIONS,
    FEWEST_QUESTIONS,
    AnswerView,
    EpsilonKind,
    Inference,
    Part,
    ReadPart,
    SeparationSettings,
    VarianceKind,
    check_distinct,
)


class PairsSection(ConfigSection):
    """The questions, and the answers that are read."""

    source: Annotated[list[Place], DISTINCT] = Field(["sciq"], min_length=1)
    """Known sets (sciq, nq_open, triviaqa), files, folders or hub names, separated by commas; each is a data set."""
    format: Annotated[list[str], named((AUTO, *FORMATS), "format")] = Field([AUTO], min_length=1)
    """truthfulqa, sciq, halueval, wikiqa, nq_open, triviaqa, pairs; one for all sources or one each, or auto."""
    answers: Answers = "given"
    """given: those of the data; gold_and_own: right ones, and the model's own if wrong; own: the model's alone."""
    limit: Count | None = 200
    """Maximum questions per data set, without duplicates and those without usable answers; null keeps all."""
    answers_per_question: Count = 8
    """Maximum right answers, and maximum wrong ones, per question: the first of the data."""
    split: str | None = None
    """Split of a hub set; null is train."""
    subset: str | None = None
    """Configuration of a hub set."""
    revision: str | None = None
    """Branch, tag or commit of a hub set."""
    encoding: Annotated[str | None, AfterValidator(check_encoding)] = None
    """Encoding of text files, such as cp1252; null detects UTF-8 and UTF-16, and refuses others."""
    quoting: Quoting = "auto"
    """Whether quotes enclose fields of CSV and TSV files; auto: always in CSV, and in TSV where that is evident."""

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if len(self.format) not in (1, len(self.source)):
            raise ValueError(
                f"there are {len(self.source)} sources and {len(self.format)} formats; give one, or as many"
            )
        return self

    def to_sources(self) -> list[PairSource]:
        """Return the sources of the questions."""
        formats = self.format * len(self.source) if len(self.format) == 1 else self.format
        return [
            PairSource(source, name, self.split, self.subset, self.revision, self.encoding, self.quoting)
            for source, name in zip(self.source, formats, strict=True)
        ]

    def to_choice(self, seed: int, shots: int = 0) -> PairChoice:
        """Return the selection of questions and answers, with shots before questions that the model answers."""
        num_shots = 0 if self.answers == "given" else shots
        return PairChoice(self.answers, self.limit, self.answers_per_question, seed, num_shots)


class GenerationSection(ConfigSection):
    """Generation of the model's own answers, if these are read: greedy, up to the end of the line."""

    max_tokens: Count = 16
    """Maximum tokens of an answer."""
    shots: CountOrZero = 5
    """Number of other questions of the data set, with their right answers, before each question as examples."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """transformers, inside the actors; or vllm, through ray.data.llm, on GPUs with vllm installed."""


class ReadingsSection(ConfigSection):
    """The activations to read."""

    taps: Annotated[list[Tap], DISTINCT] = Field([Tap.BLOCK, Tap.UPDATE], min_length=1)
    """Taps: the places in each block to read."""
    parts: Annotated[list[ReadPart], DISTINCT] = Field(["answer"], min_length=1)
    """Tokens to read: answer (all of it), last (its last token), question (which the contrast 'change' needs too)."""
    epsilons: Annotated[list[Positive], DISTINCT] = [0.01]
    """Absolute thresholds under which activations are counted exactly; any other snaps to the nearest bin edge."""

    @field_validator("parts")
    @classmethod
    def _some_answer(cls, values: list[str]) -> list[str]:
        if values == ["question"]:
            raise ValueError("question alone reads no answer; give answer or last too")
        return values


class ContrastsSection(ConfigSection):
    """The contrasts to compute from the statistics, without the model. The first of each flags the layers."""

    definitions: Annotated[list[str], DISTINCT, named(DEFINITIONS, "definition")] = Field(["eavss"], min_length=1)
    """eavss, standardized, dprime, difference, ratio, hallucinated_only; all are ours."""
    parts: Annotated[list[Part], DISTINCT] = Field(["answer"], min_length=1)
    """answer, last, change (an answer relative to its question)."""
    variance: Annotated[list[VarianceKind], DISTINCT] = Field(["elementwise"], min_length=1)
    """elementwise: over all activations; pooled: over the width of the token mean."""
    epsilon: Annotated[list[Positive], DISTINCT] = [0.01]
    """Absolute sparsity thresholds."""
    quantile: Annotated[list[Fraction], DISTINCT] = []
    """Sparsity thresholds as quantiles of |activation| over all layers of a tap and all parts that are read, except
    questions."""
    threshold: NotNegative = 1.0
    """Propensity, |EAVSS| in multiples of its mean over layers, above which a layer can be flagged."""
    level: Fraction = 0.05
    """Probability that any layer of any tap is flagged where no layer has an effect."""
    draws: Draws = Field(9999, ge=99)
    """Number of randomisations of the test."""

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
        """Return the settings of the layer tests."""
        return Inference(self.draws, self.level, self.threshold, seed)

    def to_views(self) -> list[AnswerView]:
        """Return every view of the answers."""
        return [
            AnswerView(part, variance, threshold)
            for part in self.parts
            for variance in self.variance
            for threshold in range(len(self.thresholds))
        ]


class SeparationSection(ConfigSection):
    """How well statistics of layers separate wrong answers from right ones, on held-out questions."""

    folds: int = Field(5, ge=2, le=1000)
    """Number of folds of questions; layers are flagged inside the training questions of each fold."""
    random_sets: Draws = 200
    """Number of random sets of as many layers, with which the flagged ones are compared."""
    c: Positive = 1.0
    """Inverse strength of the L2 penalty of the logistic regression."""
    confidence: Fraction = 0.95
    """Coverage of the intervals of areas under the curve."""

    @property
    def fewest_questions(self) -> int:
        """Minimum number of questions: every fold holds one out, and its training questions are enough for a test."""
        return max(self.folds, -(-FEWEST_QUESTIONS * self.folds // (self.folds - 1)))

    def to_settings(self, seed: int) -> SeparationSettings:
        """Return the settings of the separation."""
        return SeparationSettings(self.folds, self.random_sets, self.c, seed)


class HallucinationConfig(ShardedConfig):
    """Find layers whose activations differ between wrong and right answers, and measure how well they separate them."""

    pairs: PairsSection = PairsSection()
    """The questions and answers."""
    generation: GenerationSection = GenerationSection()
    """Generation of the model's own answers."""
    readings: ReadingsSection = ReadingsSection()
    """The activations to read."""
    contrasts: ContrastsSection = ContrastsSection()
    """The contrasts to compute from the statistics."""
    separation: SeparationSection = SeparationSection()
    """How well layers separate wrong answers from right ones."""

    @model_validator(mode="after")
    def _read_what_is_contrasted(self) -> Self:
        needed = {"change": {"answer", "question"}, "answer": {"answer"}, "last": {"last"}}
        for part in self.contrasts.parts:
            missing = needed[part] - set(self.readings.parts)
            if missing:
                raise ValueError(f"contrasts.parts {part} needs {' and '.join(sorted(missing))} in readings.parts")
        return self

    @model_validator(mode="after")
    def _distinct_thresholds(self) -> Self:
        check_distinct(self.contrasts.epsilon, "contrasts.epsilon", self.readings.epsilons, "readings.epsilons")
        return self
