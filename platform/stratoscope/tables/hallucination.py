"""Tables of the hallucination job: their row types, and rows from results."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from stratoscope.evaluation import has_word
from stratoscope.results import Int32, TableRow
from stratoscope.scoring import Auroc, DatasetAgreement, DatasetResult, SeparationResult, Threshold
from stratoscope.tables.activations import StatisticsColumns

# The columns of a row type are those of its bases, from the last base to the first, and then its own.


@dataclass(frozen=True)
class PairColumns(TableRow):
    """Columns that name a part of an answer or a question, a layer and a tap."""

    prompt_id: str
    """Id of the answer, or of the question itself."""
    group: str
    """Data set, as in the tables of score."""
    question_id: str
    """Id of the question."""
    dataset: str
    """Data set of the question."""
    right: bool | None
    """Whether the answer is right; null for the question itself."""
    part: str
    """Part that was read: answer, last (its last token) or question."""
    layer: Int32
    """Layer, numbered from 0."""
    tap: str
    """Tap: the place in the block that was read."""


@dataclass(frozen=True)
class PairStatsRow(StatisticsColumns, PairColumns):
    """Statistics of one part of an answer, or of a question, at one layer and tap."""


@dataclass(frozen=True)
class AnswerRow(TableRow):
    """An answer that was read; rows are in the order of `pair_stats`."""

    prompt_id: str
    """Id of the answer."""
    question_id: str
    """Id of the question."""
    dataset: str
    """Data set of the question."""
    right: bool
    """Whether the answer is right."""
    origin: str
    """Origin of the answer, such as gold, given or own (written by the model)."""
    text: str
    """Text of the answer."""
    tokens: int
    """Number of tokens of the answer."""
    question_tokens: int
    """Number of tokens of the question before it."""
    log_likelihood: float
    """Log-likelihood of the answer given the question."""


@dataclass(frozen=True)
class GeneratedRow(TableRow):
    """An answer that the model wrote."""

    question_id: str
    """Id of the question."""
    dataset: str
    """Data set of the question."""
    text: str
    """Text of the answer."""
    right: bool
    """Whether the answer is right."""


@dataclass(frozen=True)
class WrittenRow(TableRow):
    """A text that vLLM generated."""

    request: str
    """Digest of the prompt, the model's weights and the settings of the generation."""
    text: str | None
    """Text; null where vLLM failed."""


@dataclass(frozen=True)
class HallucinationErrorRow(TableRow):
    """A question that could not be read."""

    question_id: str
    """Id of the question."""
    error: str
    """Error message."""


@dataclass(frozen=True)
class HallucinationScoreRow(TableRow):
    """EAVSS of one layer, with its test."""

    dataset: str
    """Data set."""
    layer: Int32
    """Layer, numbered from 0."""
    tap: str
    """Tap."""
    part: str
    """Part that is contrasted: answer, last or change (an answer relative to its question)."""
    definition: str
    """Definition of EAVSS."""
    variance: str
    """Kind of variance, elementwise or pooled."""
    epsilon_kind: str
    """Kind of the sparsity threshold, absolute or quantile."""
    epsilon: float
    """Sparsity threshold as applied."""
    num_questions: int
    """Number of questions that the test uses."""
    hsav: float | None
    """Hallucination-specific activation variance; null where the layer cannot be read."""
    hss: float | None
    """Hallucination-specific sparsity; null likewise."""
    eavss: float | None
    """Sum of hsav and hss, positive where wrong answers have more AVSS; null likewise."""
    eavss_length_adjusted: float | None
    """EAVSS adjusted for the length of answers; null where the definition or the layer cannot be tested."""
    direction: str
    """Whether wrong answers have more AVSS or less, or none."""
    propensity: float
    """|EAVSS| in multiples of its mean over layers; 0 where the layer cannot be read."""
    ci_low: float | None
    """Lower end of the simultaneous interval of EAVSS; null likewise."""
    ci_high: float | None
    """Upper end of the simultaneous interval of EAVSS; null likewise."""
    null_band: float | None
    """Half-width of the band within which all layers stay in most randomisations; null likewise, and for `ratio`, whose
    band is not even around 0."""
    p_value: float | None
    """p-value, adjusted for all layers and taps; null likewise."""
    p_value_length_adjusted: float | None
    """p-value of the length-adjusted contrast, adjusted likewise; null likewise."""
    flagged: bool
    """Whether the layer is flagged."""

    @property
    def scoring(self) -> tuple[str | float, ...]:
        """What distinguishes a layer's score from its others."""
        return (self.dataset, self.tap, self.part, self.definition, self.variance, self.epsilon_kind, self.epsilon)


@dataclass(frozen=True)
class SeparationRow(TableRow):
    """How well some features separate wrong answers from right ones on held-out questions."""

    dataset: str
    """Data set."""
    tap: str | None
    """Tap; null for features without activations."""
    features: str
    """Features: flagged, random (the mean over the sets), all, avss, layer, answer_length or likelihood."""
    layer: Int32 | None
    """Layer, for features of one layer."""
    num_layers: float | None
    """Number of layers, averaged over folds."""
    auroc: float
    """Area under the ROC curve."""
    ci_low: float
    """Lower end of its interval."""
    ci_high: float
    """Upper end of its interval."""
    over_random: float | None
    """Difference to the mean of random sets of as many layers."""
    over_random_low: float | None
    """Lower end of the interval of the difference."""
    over_random_high: float | None
    """Upper end of the interval of the difference."""
    detectable: float | None
    """Smallest difference that data of this size detects in four of five cases; null where no fold flags a layer, or
    random sets are the same layers."""
    share_of_random_below: float | None
    """Share of the random sets that do worse."""


@dataclass(frozen=True)
class RandomSetRow(TableRow):
    """How well one random set of layers separates the answers."""

    dataset: str
    """Data set."""
    tap: str
    """Tap."""
    draw: Int32
    """Number of the random set."""
    auroc: float
    """Area under the ROC curve."""


@dataclass(frozen=True)
class AgreementRow(TableRow):
    """Agreement of two data sets at one tap."""

    tap: str
    """Tap."""
    dataset: str
    """Data set."""
    other: str
    """Other data set."""
    rank_correlation: float | None
    """Rank correlation of EAVSS over layers."""
    same_sign: float
    """Share of layers whose EAVSS has the same sign."""
    flagged_by_both: Int32
    """Number of layers that both data sets flag."""


@dataclass(frozen=True)
class RateRow(TableRow):
    """How often the model's own answers are wrong; an answer without a word counts as neither right nor wrong."""

    dataset: str
    """Data set."""
    answered: int
    """Number of answers that are right or have a word: a letter or a digit besides articles."""
    wrong: int
    """Number of wrong answers."""
    rate: float | None
    """Share of wrong answers; null where there is no answer."""
    ci_low: float | None
    """Lower end of Wilson's interval."""
    ci_high: float | None
    """Upper end of Wilson's interval."""


TABLES: dict[str, type[TableRow]] = {
    "pair_stats": PairStatsRow,
    "answers": AnswerRow,
    "generated": GeneratedRow,
    "written": WrittenRow,
    "errors": HallucinationErrorRow,
    "hallucination_scores": HallucinationScoreRow,
    "separation": SeparationRow,
    "random_sets": RandomSetRow,
    "agreement": AgreementRow,
    "rates": RateRow,
}


def score_rows(result: DatasetResult, thresholds: Mapping[str, Sequence[Threshold]]) -> Iterator[HallucinationScoreRow]:
    """Yield the rows of a result, tap by tap, in order of layers.

    Args:
        result: the layer tests.
        thresholds: sparsity thresholds as applied, by tap.
    """
    view = result.view
    for test in result.layer_tests:
        threshold = thresholds[test.tap][view.threshold]
        for layer, direction in enumerate(test.direction):
            yield HallucinationScoreRow(
                dataset=result.dataset,
                layer=layer,
                tap=test.tap,
                part=view.part,
                definition=result.definition,
                variance=view.variance,
                epsilon_kind=threshold.kind,
                epsilon=threshold.epsilon,
                num_questions=result.num_questions,
                hsav=test.hsav[layer],
                hss=test.hss[layer],
                eavss=test.eavss[layer],
                eavss_length_adjusted=test.adjusted[layer],
                direction=direction,
                propensity=test.propensity[layer],
                ci_low=test.low[layer],
                ci_high=test.high[layer],
                null_band=test.null[layer],
                p_value=test.p_value[layer],
                p_value_length_adjusted=test.p_value_adjusted[layer],
                flagged=bool(test.flagged[layer]),
            )


def distinct_rows(rows: Sequence[HallucinationScoreRow]) -> list[HallucinationScoreRow]:
    """Return the first row of each layer and scoring: quantiles may have the same threshold at a tap."""
    first: dict[tuple[tuple[str | float, ...], int], HallucinationScoreRow] = {}
    for row in rows:
        first.setdefault((row.scoring, row.layer), row)
    return list(first.values())


def separation_row(dataset: str, result: SeparationResult, confidence: float) -> SeparationRow:
    """Return the row of a result, with intervals of the given coverage."""
    low, high = result.auroc.interval(confidence)
    over = result.over_random
    over_low, over_high = over.interval(confidence) if over else (None, None)
    return SeparationRow(
        dataset=dataset,
        tap=result.tap,
        features=result.features,
        layer=result.layer,
        num_layers=result.num_layers,
        auroc=result.auroc.value,
        ci_low=low,
        ci_high=high,
        over_random=over.value if over else None,
        over_random_low=over_low,
        over_random_high=over_high,
        detectable=over.detectable(1 - confidence) if over else None,
        share_of_random_below=result.share_of_random_below,
    )


def random_set_rows(dataset: str, aurocs: Mapping[str, Sequence[Auroc]]) -> Iterator[RandomSetRow]:
    """Yield a row per tap and random set."""
    for tap, of_tap in aurocs.items():
        for draw, auroc in enumerate(of_tap):
            yield RandomSetRow(dataset=dataset, tap=tap, draw=draw, auroc=auroc.value)


def agreement_row(agreement: DatasetAgreement) -> AgreementRow:
    """Return the row of an agreement."""
    return AgreementRow(**asdict(agreement))


def rate_rows(rows: Sequence[GeneratedRow], confidence: float) -> Iterator[RateRow]:
    """Yield how often the model's own answers are wrong, by data set, with Wilson's interval."""
    from scipy.stats import binomtest

    for dataset in dict.fromkeys(row.dataset for row in rows):
        answers = [row for row in rows if row.dataset == dataset and (row.right or has_word(row.text))]
        wrong = sum(not row.right for row in answers)
        if not answers:
            yield RateRow(dataset=dataset, answered=0, wrong=0, rate=None, ci_low=None, ci_high=None)
            continue
        interval = binomtest(wrong, len(answers)).proportion_ci(confidence, method="wilson")
        yield RateRow(
            dataset=dataset,
            answered=len(answers),
            wrong=wrong,
            rate=wrong / len(answers),
            ci_low=float(interval.low),
            ci_high=float(interval.high),
        )


def main_scores(rows: Sequence[HallucinationScoreRow]) -> list[HallucinationScoreRow]:
    """Return the scores that flag the layers: those of the first definition, view and threshold."""
    first = rows[0]
    same = [
        row
        for row in rows
        if (row.part, row.definition, row.variance, row.epsilon_kind)
        == (first.part, first.definition, first.variance, first.epsilon_kind)
    ]
    epsilon = {row.tap: row.epsilon for row in reversed(same)}
    return [row for row in same if row.epsilon == epsilon[row.tap]]
