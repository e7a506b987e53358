"""The first screen of the faithfulness page: what forecasters survive, the costliest perturbation, and warnings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stratoscope.forecasting import (
    DESIGNS,
    TRAININGS,
    DeviationRatio,
    Measurement,
    Outcome,
    PerturbationOutcome,
    is_questioned,
    perturbation_outcomes,
    reference_ratios,
    seed_outcome,
)
from stratoscope.pipelines.faithfulness.config import VerdictSection
from stratoscope.pipelines.reporting.formatting import (
    NO_BREAK,
    interval_text,
    list_text,
    number_text,
    percent_interval,
    percent_text,
)
from stratoscope.results import Table, TableCell
from stratoscope.tables.faithfulness import CellRow, DeviationRatioRow, SpreadRow

if TYPE_CHECKING:
    from stratoscope.results.report import Tone

NAMES = {
    "dlinear": "DLinear",
    "patchtst": "PatchTST",
    "patchtsmixer": "PatchTSMixer",
    "timesieve": "TimeSieve",
}
"""Names of forecasters as written in their papers."""
SIGNS: Mapping[Outcome, tuple[str, "Tone"]] = {
    "survives": ("✓ survives", "good"),
    "undecided": ("? undecided", "warn"),
    "does not survive": ("✗ does not", "bad"),
}
"""Text and tone of each outcome. For colour-blind readers, a sign conveys the same as the tone."""
EACH_ALONE = f" (each at 95{NO_BREAK}%)"
"""Says that the intervals of several cases are not corrected for their number."""
_ORDER: Mapping[str, int] = {training: number for number, training in enumerate(TRAININGS)}
MAX_ROWS = 8
"""Number of rows above which the grid has a filter."""


def forecaster_name(name: str) -> str:
    """Return the name of a forecaster as shown in texts."""
    return NAMES.get(name, name.replace("_", " "))


@dataclass(frozen=True)
class ModelOutcomes:
    """What a forecaster survives with one training, on one series and at one horizon."""

    spread: SpreadRow
    """Spread of its squared error over seeds."""
    seed: Outcome | None
    """Whether it survives another seed; None for a single seed."""
    perturbations: Mapping[str, Sequence[PerturbationOutcome]]
    """Outcomes at all levels, by name of the perturbation."""

    @property
    def name(self) -> str:
        """Forecaster, training, series and horizon in words."""
        spread = self.spread
        place = f"{spread.training}, {spread.dataset}, horizon {spread.horizon}"
        return f"{forecaster_name(spread.forecaster)} ({place})"

    def outcome(self, perturbation: str) -> Outcome | None:
        """Return whether it survives a perturbation at all levels; None if the perturbation was not applied."""
        outcomes = {each.outcome for each in self.perturbations.get(perturbation, ())}
        order: tuple[Outcome, ...] = ("does not survive", "undecided", "survives")
        return next((outcome for outcome in order if outcome in outcomes), None)


def model_outcomes(
    measurements: Sequence[Measurement], spreads: Sequence[SpreadRow], limits: VerdictSection
) -> list[ModelOutcomes]:
    """Return the outcomes of each forecaster, training, series and horizon.

    Args:
        measurements: measurements of all fitted forecasters.
        spreads: their spread over seeds.
        limits: thresholds of the verdict.
    """
    models = []
    for spread in spreads:
        if spread.metric == "mse":
            key = spread.dataset, spread.forecaster, spread.training, spread.horizon
            own = [m for m in measurements if (m.dataset, m.forecaster, m.training, m.horizon) == key]
            by_name: dict[str, list[PerturbationOutcome]] = {}
            for each in perturbation_outcomes(own, limits.degradation):
                by_name.setdefault(each.perturbation, []).append(each)
            models.append(ModelOutcomes(spread, seed_outcome(spread, limits.spread), by_name))
    return models


@dataclass(frozen=True)
class _Survival:
    """What a forecaster survives with one training, on all series, at all horizons and levels."""

    forecaster: str
    training: str
    survived: int
    """Number of perturbations that it survives everywhere."""
    number: int
    """Number of perturbations."""
    seed: bool
    """Whether it survives another seed everywhere."""

    @property
    def share(self) -> float:
        return self.survived / max(self.number, 1)


def _tried(models: Sequence[ModelOutcomes], failed: Sequence[CellRow]) -> list[SpreadRow | CellRow]:
    """Return a row for everything that was tried, with or without a result."""
    return [*(model.spread for model in models), *failed]


def _survivals(models: Sequence[ModelOutcomes], failed: Sequence[CellRow]) -> list[_Survival]:
    """Return what each forecaster survives with each training, plain training first.

    A series and horizon at which all its cells failed, or whose result is questioned, is not survived.
    """
    rows = _tried(models, failed)
    places = {(row.dataset, row.horizon) for row in rows}
    tried = dict.fromkeys((row.forecaster, row.training) for row in rows)
    every = {name for model in models for name in model.perturbations}
    survivals = []
    for forecaster, training in sorted(tried, key=lambda key: _ORDER.get(key[1], len(_ORDER))):
        own = [m for m in models if (m.spread.forecaster, m.spread.training) == (forecaster, training)]
        names = {name for model in own for name in model.perturbations} if own else every
        trusted = [model for model in own if not is_questioned(model.spread)]
        complete = len(trusted) == len(places)
        survived = sum(complete and all(m.outcome(name) in ("survives", None) for m in trusted) for name in names)
        seed = complete and all(model.seed == "survives" for model in trusted)
        survivals.append(_Survival(forecaster, training, survived, len(names), seed))
    return survivals


def _first_trainings(survivals: Sequence[_Survival]) -> list[_Survival]:
    """Return each forecaster's survival with its first training, which is the plain one if it was configured."""
    first: dict[str, _Survival] = {}
    for each in survivals:
        first.setdefault(each.forecaster, each)
    return sorted(first.values(), key=lambda each: -each.share)


def title(models: Sequence[ModelOutcomes], failed: Sequence[CellRow]) -> str:
    """Return the result of the run in one line.

    Args:
        models: outcomes of all forecasters.
        failed: cells that failed.
    """
    trusted = [model for model in models if not is_questioned(model.spread)]
    if not trusted:
        largest = max(model.spread.mean for model in models)
        return f"No result can be trusted: squared errors of up to {largest:,.0f} in standard units"
    best, *others = firsts = _first_trainings(_survivals(models, failed))
    if not best.number:
        return _seed_title(trusted, firsts)
    parts = [f"{forecaster_name(best.forecaster)} survives {best.survived} of {best.number} perturbations"]
    for each in others[:2]:
        of = "" if each.number == best.number else f" of {each.number}"
        parts.append(f"{forecaster_name(each.forecaster)} {each.survived}{of}")
    rest = len(others) - 2
    text = "; ".join([*parts, *([f"{rest} more forecaster{'' if rest == 1 else 's'} below"] if rest > 0 else [])])
    return text[:1].upper() + text[1:]


def _seed_title(trusted: Sequence[ModelOutcomes], firsts: Sequence[_Survival]) -> str:
    names = [forecaster_name(each.forecaster) for each in firsts if each.seed]
    if all(model.seed is None for model in trusted):
        return "One seed and no perturbation: errors without a verdict"
    return (
        f"{list_text(names)} survive{'s' if len(names) == 1 else ''} another seed"
        if names
        else "No forecaster is shown to survive another seed"
    )


def warnings(models: Sequence[ModelOutcomes], failed: Sequence[CellRow]) -> Iterator[str]:
    """Yield what a reader must know before interpreting the results.

    Args:
        models: outcomes of all forecasters.
        failed: cells that failed.
    """
    questioned = [model for model in models if is_questioned(model.spread)]
    if questioned:
        largest = max(questioned, key=lambda model: model.spread.mean)
        yield (
            f"WARNING: {len(questioned)} of {len(models)} results are questioned: squared errors of up to "
            f"{largest.spread.mean:,.0f} in standard units by {largest.name}. Check the scale and the missing values "
            "of the series, and the learning rate."
        )
    if failed:
        cells = list(dict.fromkeys(row.key for row in failed))
        yield f"WARNING: {len(cells)} cells failed and are excluded: {list_text(cells)}."


def notes(series: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield a line on each series with notes, such as repaired values. The page shows them after the findings."""
    yield from (f"Series {name}: {'; '.join(own)}." for name, own in series.items() if own)


def sentences(
    models: Sequence[ModelOutcomes],
    limits: VerdictSection,
    ratios: Sequence[DeviationRatioRow],
    failed: Sequence[CellRow],
) -> Iterator[str]:
    """Yield sentences on what forecasters survive, the costliest perturbation, and the effect of other trainings.

    Args:
        models: outcomes of all forecasters.
        limits: thresholds of the verdict.
        ratios: ratios of deviations over seeds between trainings.
        failed: cells that failed.
    """
    trusted = [model for model in models if not is_questioned(model.spread)]
    if any(model.perturbations for model in trusted):
        seeds = sorted({model.spread.seeds for model in trusted})
        number = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
        places = {(row.dataset, row.horizon) for row in _tried(models, failed)}
        yield (
            "A forecaster survives a perturbation if it raises the absolute error by at most "
            f"{percent_text(limits.degradation)}, with the whole 95{NO_BREAK}% interval over {number} seeds, at every "
            f"level{', series and horizon' if len(places) > 1 else ''}."
        )
        yield from _costliest(trusted)
        yield from _other_trainings(_survivals(models, failed))
    yield from _seed_effects(ratios)


def _costliest(models: Sequence[ModelOutcomes]) -> Iterator[str]:
    grown = [(each, model) for model in models for own in model.perturbations.values() for each in own]
    each, model = max(grown, key=lambda pair: float("inf") if pair[0].growth is None else pair[0].growth)
    if each.growth is None:
        yield f"Costliest: {each.perturbation} {each.level:g} to {model.name}, whose error was 0."
    else:
        interval = percent_interval(each.low, each.high)
        yield (
            f"Costliest: {each.perturbation} {each.level:g} raises the error of {model.name} by "
            f"{percent_text(each.growth)}{f' ({interval})' if interval else ''}."
        )


def _other_trainings(survivals: Sequence[_Survival]) -> Iterator[str]:
    """Yield a sentence on the trainings that change the number of perturbations that a forecaster survives."""
    first = {each.forecaster: each for each in _first_trainings(survivals)}
    others = [each for each in survivals if each is not first[each.forecaster]]
    if not others:
        return
    changes = [
        f"{forecaster_name(each.forecaster)} {each.survived} instead of {first[each.forecaster].survived} with "
        f"training '{each.training}'"
        for each in others
        if each.survived != first[each.forecaster].survived
    ]
    trainings = list_text([f"'{name}'" for name in dict.fromkeys(each.training for each in others)])
    same = f"With training {trainings}, forecasters survive as many perturbations."
    yield f"Perturbations survived by training: {list_text(changes)}." if changes else same


def _seed_effects(ratios: Sequence[DeviationRatioRow]) -> Iterator[str]:
    """Yield a sentence for each reference training on how often other trainings change the effect of another seed."""
    own = [ratio for ratio in reference_ratios(ratios) if ratio.ci_low is not None and ratio.ci_high is not None]
    for other in dict.fromkeys(ratio.other for ratio in own):
        group = [ratio for ratio in own if ratio.other == other]
        less = [ratio for ratio in group if ratio.ci_high is not None and ratio.ci_high < 1]
        more = sum(ratio.ci_low is not None and ratio.ci_low > 1 for ratio in group)
        best = f", most after {_ratio_text(min(less, key=lambda r: r.ratio or 0.0))}" if less else ""
        yield (
            f"Compared with training '{other}', another seed moves the squared error less in {len(less)} of "
            f"{len(group)} cases{best}, and more in {more}{EACH_ALONE if len(group) > 1 else ''}."
        )
        if any("first" in (DESIGNS[ratio.training].start, DESIGNS[ratio.training].teacher) for ratio in less):
            yield "Seeds that share a teacher or a start (..._first) agree by construction; that is not robustness."


def _ratio_text(ratio: DeviationRatio) -> str:
    place = f"{forecaster_name(ratio.forecaster)}, {ratio.dataset}, horizon {ratio.horizon}"
    interval = interval_text(ratio.ci_low, ratio.ci_high, ".2f")
    return f"'{ratio.training}' ({place}: {number_text(ratio.ratio, '.2f')} times, {interval})"


def grid(models: Sequence[ModelOutcomes]) -> Table:
    """Return the outcomes by model and perturbation. Columns with the same value in all rows are left out."""
    perturbations = list(dict.fromkeys(name for model in models for name in model.perturbations))
    columns: dict[str, list[str]] = {
        "forecaster": [forecaster_name(model.spread.forecaster) for model in models],
        "training": [model.spread.training for model in models],
        "series": [model.spread.dataset for model in models],
        "horizon": [str(model.spread.horizon) for model in models],
    }
    shown = {name: texts for name, texts in columns.items() if name == "forecaster" or len(set(texts)) > 1}
    names = list(zip(*shown.values(), strict=True))
    rows: list[list[str | TableCell]] = []
    for model, place in zip(models, names, strict=True):
        rows.append([*place, _seed_cell(model), *(_cell(model, name) for name in perturbations)])
    label = "Show only rows with" if len(rows) > MAX_ROWS else None
    return Table([*shown, "another seed", *perturbations], rows, label)


def _seed_cell(model: ModelOutcomes) -> str | TableCell:
    if is_questioned(model.spread):
        return TableCell("! questioned", tone="warn")
    return TableCell(SIGNS[model.seed][0], tone=SIGNS[model.seed][1]) if model.seed else "one seed"


def _cell(model: ModelOutcomes, perturbation: str) -> str | TableCell:
    outcome = model.outcome(perturbation)
    if outcome is None:
        return ""
    if is_questioned(model.spread):
        return TableCell("! questioned", tone="warn")
    text, tone = SIGNS[outcome]
    outcomes = model.perturbations[perturbation]
    if len({each.outcome for each in outcomes}) > 1:
        text = f"{text} at {min(each.level for each in outcomes if each.outcome == outcome):g}"
    return TableCell(text, tone=tone)
