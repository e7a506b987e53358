"""Page and terminal table of a faithfulness run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table as TerminalTable

from stratoscope.forecasting import NONE, Measurement
from stratoscope.pipelines.faithfulness import figures, verdict
from stratoscope.pipelines.faithfulness.config import VerdictSection
from stratoscope.pipelines.faithfulness.facts import SeriesFacts
from stratoscope.pipelines.faithfulness.verdict import SIGNS, ModelOutcomes, forecaster_name
from stratoscope.pipelines.reporting.formatting import interval_text, number_text, run_facts
from stratoscope.results import Manifest, Page, PageSection, Run, Table, TableCell
from stratoscope.tables.faithfulness import (
    CellRow,
    DeviationRatioRow,
    DifferenceRow,
    ForecastRow,
    SpreadRow,
    WorstCaseRow,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


MAX_ROWS = 400
"""Maximum number of rows of a comparison of trainings, to keep the page small."""


def summary_table(run: Run) -> TerminalTable:
    """Return each forecaster's errors, their spread over seeds, and the perturbation that raises the error most."""
    measurements = _measurements(CellRow.read(run.table("cells")))
    table = TerminalTable(title="Errors in standard units, means over seeds", title_justify="left")
    texts = ("data set", "forecaster", "training", "costliest")
    for name in ("data set", "forecaster", "training", "H", "mae", "mse", "sd", "costliest"):
        table.add_column(name, justify="left" if name in texts else "right")
    for spread in SpreadRow.read(run.table("spreads")):
        if spread.metric != "mse":
            continue
        key = spread.dataset, spread.forecaster, spread.training, spread.horizon
        errors = _mean_errors([m for m in measurements if (m.dataset, m.forecaster, m.training, m.horizon) == key])
        clean = errors[NONE, 0.0]
        numbers = f"{clean:.4f}", f"{spread.mean:.4f}", number_text(spread.deviation, ".4f")
        table.add_row(*map(str, key), *numbers, _costliest(errors, clean))
    return table


def _measurements(rows: Sequence[CellRow]) -> list[Measurement]:
    return [row.measurement() for row in rows if row.status == "done"]


def _mean_errors(measurements: Sequence[Measurement]) -> dict[tuple[str, float], float]:
    """Return the absolute error by perturbation and level, averaged over seeds."""
    errors: dict[tuple[str, float], list[float]] = {}
    for m in measurements:
        errors.setdefault((m.perturbation, m.level), []).append(m.mae)
    return {key: float(np.mean(values)) for key, values in errors.items()}


def _costliest(errors: Mapping[tuple[str, float], float], clean: float) -> str:
    perturbed = {key: error for key, error in errors.items() if key[0] != NONE}
    if not perturbed:
        return ""
    name, level = max(perturbed, key=perturbed.__getitem__)
    return f"{name} {level:g}: {perturbed[name, level] / clean - 1:+.1%}" if clean else f"{name} {level:g}"


def build_page(run: Run) -> Page:
    """Compose the report of a run from its tables."""
    manifest = run.manifest
    rows = CellRow.read(run.table("cells"))
    failed = [row for row in rows if row.status == "failed"]
    spreads = SpreadRow.read(run.table("spreads"))
    measurements = _measurements(rows)
    limits = VerdictSection(**manifest.config.get("verdict", {}))
    models = verdict.model_outcomes(measurements, spreads, limits)
    # Older versions did not write the table.
    ratios = DeviationRatioRow.read(run.table("deviation_ratios")) if "deviation_ratios" in run.tables else []
    sections = [
        *_growth_sections(models, limits),
        *_figure_sections(measurements, ForecastRow.read(run.table("forecasts"))),
        _spread_section(spreads),
        *_ratio_sections(ratios),
        *_difference_sections(DifferenceRow.read(run.table("differences"))),
        *_worst_case_sections(WorstCaseRow.read(run.table("worst_case"))),
        *_failure_sections(failed),
        PageSection("Verdicts in words", list(manifest.facts["verdicts"])),
    ]
    return Page(
        title=verdict.title(models, failed),
        summary=(
            f"{len({m.key for m in measurements})} fitted forecasters, each evaluated on all test windows, in standard "
            "units of the training part. Further training starts from the plain forecaster of the same seed, or of the "
            "first where its name says so."
        ),
        verdict=PageSection(
            "Verdict",
            [
                *verdict.warnings(models, failed),
                *verdict.sentences(models, limits, ratios, failed),
                *verdict.notes({name: facts.notes for name, facts in recorded_facts(manifest).items()}),
            ],
            tables=[verdict.grid(models)],
        ),
        sections=[section for section in sections if section.figures or section.tables or section.paragraphs],
        facts=list(_facts(manifest)),
    )


def recorded_facts(manifest: Manifest) -> dict[str, SeriesFacts]:
    """Return the facts of each series in a manifest."""
    return {name: SeriesFacts.recorded(facts) for name, facts in manifest.facts["series"].items()}


def series_lines(facts: Mapping[str, SeriesFacts]) -> Iterator[str]:
    """Yield the lines that the terminal shows about each series."""
    for name, each in facts.items():
        yield from (f"{label}: {text}" for label, text in each.lines(name))


def _growth_sections(models: Sequence[ModelOutcomes], limits: VerdictSection) -> Iterator[PageSection]:
    rows: list[list[str | TableCell]] = [
        [
            forecaster_name(model.spread.forecaster),
            model.spread.training,
            model.spread.dataset,
            str(model.spread.horizon),
            f"{each.perturbation} {each.level:g}",
            "" if each.growth is None else f"{each.growth:+.1%}",
            interval_text(each.low, each.high, "+.1%"),
            TableCell(SIGNS[each.outcome][0], tone=SIGNS[each.outcome][1]),
        ]
        for model in models
        for name in model.perturbations
        for each in model.perturbations[name]
    ]
    if not rows:
        return
    text = (
        "Growth of the absolute error under a perturbation, relative to the error without it, of means over seeds, "
        f"with Fieller's 95 % interval. The limit of survival is {limits.degradation:.0%}. An empty interval is not "
        "finite, or there is one seed only."
    )
    header = ["forecaster", "training", "series", "H", "perturbation", "growth", "interval", "outcome"]
    yield PageSection("Cost of perturbations", [text], [], [Table(header, rows, "Show only rows with")])


def _figure_sections(measurements: Sequence[Measurement], forecasts: Sequence[ForecastRow]) -> Iterator[PageSection]:
    """Yield a section of figures for each series and horizon."""
    for dataset, horizon in dict.fromkeys((m.dataset, m.horizon) for m in measurements):
        name = f"{dataset}, horizon {horizon}"
        own = [m for m in measurements if (m.dataset, m.horizon) == (dataset, horizon)]
        windows = [f for f in forecasts if (f.dataset, f.horizon) == (dataset, horizon)]
        text = (
            "Errors under perturbations are means over seeds; bands range from the smallest to the largest value. Each "
            "point of the spread is a seed. Forecasts are those of the middle window of the test part."
        )
        drawn = [*_level_figures(own, name), *_seed_figures(own, windows, name)]
        yield PageSection(f"Series {name}", [text], drawn)


def _level_figures(measurements: Sequence[Measurement], name: str) -> Iterator["Figure"]:
    for forecaster in dict.fromkeys(m.forecaster for m in measurements):
        own = [m for m in measurements if m.forecaster == forecaster]
        if any(m.perturbation != NONE for m in own):
            yield figures.degradation(own, "mae", f"{forecaster_name(forecaster)}: errors under perturbations, {name}")


def _seed_figures(measurements: Sequence[Measurement], windows: Sequence[ForecastRow], name: str) -> Iterator["Figure"]:
    """Yield the figures of the spread over seeds: the errors, and each forecaster's forecasts of one window."""
    if len({m.seed for m in measurements}) > 1:
        yield figures.seeds(measurements, "mse", f"Squared errors by seed, without perturbation, {name}")
    for forecaster in dict.fromkeys(f.forecaster for f in windows):
        title = f"{forecaster_name(forecaster)}: forecasts of one window, {name}"
        yield figures.forecasts(windows, forecaster, windows[0].channel, title)


def _table(rows: Sequence[Mapping[str, str]], filtered: str | None = None) -> Table:
    """Return rows as a table of the page. Each row maps headers to texts."""
    return Table(list(rows[0]), [list(row.values()) for row in rows], filtered=filtered)


def _spread_section(spreads: Sequence[SpreadRow]) -> PageSection:
    rows = [
        {
            "series": spread.dataset,
            "forecaster": forecaster_name(spread.forecaster),
            "training": spread.training,
            "horizon": str(spread.horizon),
            "metric": spread.metric,
            "seeds": str(spread.seeds),
            "mean": f"{spread.mean:.4f}",
            "sd": number_text(spread.deviation, ".5f"),
            "interval": interval_text(spread.deviation_low, spread.deviation_high, ".5f"),
            "range": f"{spread.range:.5f}",
            "preference, %": number_text(spread.preference, ".1f"),
        }
        for spread in spreads
    ]
    text = (
        "Without perturbation. Preference is the measure of the papers: 100 % where the error of a faithful forecaster "
        "does not change with the seed at all, 0 where it changes as much as that of the plain one; median over seeds, "
        "each against the first."
    )
    return PageSection("Spread over seeds", [text], [], [_table(rows)])


def _ratio_sections(ratios: Sequence[DeviationRatioRow]) -> Iterator[PageSection]:
    if not ratios:
        return
    rows = [
        {
            "series": row.dataset,
            "forecaster": forecaster_name(row.forecaster),
            "H": str(row.horizon),
            "metric": row.metric,
            "training": row.training,
            "against": row.other,
            "seeds": str(row.seeds),
            "sd": f"{row.deviation:.5f}",
            "other": f"{row.other_deviation:.5f}",
            "ratio": number_text(row.ratio, ".2f"),
            "interval": interval_text(row.ci_low, row.ci_high, ".2f"),
        }
        for row in ratios[:MAX_ROWS]
    ]
    text = (
        "Ratio of the standard deviations over seeds after two trainings, without perturbation, with the 95 % interval "
        "of Pitman and Morgan for paired samples, which assumes that the errors of both are jointly normal over seeds. "
        "An interval below 1 shows that another seed matters less. Trainings with one teacher for all seeds make these "
        "agree with it, which is not robustness; compare them with 'distilled_to_first', which has nothing else. The "
        "intervals are for each row separately: one in twenty misses."
    )
    text += _cut_text(len(ratios), "deviation_ratios")
    yield PageSection("Ratios of deviations over seeds", [text], [], [_table(rows, filtered="Show only rows with")])


def _difference_sections(differences: Sequence[DifferenceRow]) -> Iterator[PageSection]:
    if not differences:
        return
    rows = [
        {
            "series": row.dataset,
            "forecaster": forecaster_name(row.forecaster),
            "H": str(row.horizon),
            "perturbation": NONE if row.perturbation == NONE else f"{row.perturbation} {row.level:g}",
            "metric": row.metric,
            "training": row.training,
            "against": row.other,
            "seeds": str(row.seeds),
            "mean": f"{row.mean:.4f}",
            "other": f"{row.other_mean:.4f}",
            "difference": f"{row.difference:+.4f}",
            "interval": interval_text(row.ci_low, row.ci_high, "+.4f"),
        }
        for row in differences[:MAX_ROWS]
    ]
    text = (
        "Paired by seed, with Student's 95 % interval over seeds for each row separately: one in twenty misses. Rise "
        "is the increase of the error under a perturbation; moved is the mean absolute change of the forecast itself. "
        "Faithful training is also longer training; compare it with longer plain training where the grid includes it."
    )
    text += _cut_text(len(differences), "differences")
    yield PageSection("Comparison of trainings", [text], [], [_table(rows, filtered="Show only rows with")])


def _cut_text(number: int, table: str) -> str:
    """Return how many rows of a table the page shows, if these are not all."""
    if number <= MAX_ROWS:
        return ""
    return f" These are {MAX_ROWS} of {number:,} rows; {table}.parquet has all of them."


def _worst_case_sections(results: Sequence[WorstCaseRow]) -> Iterator[PageSection]:
    groups: dict[tuple[object, ...], list[WorstCaseRow]] = {}
    for row in results:
        if row.value is not None:
            key = row.dataset, row.forecaster, row.training, row.horizon, row.condition, row.norm, row.goal, row.radius
            groups.setdefault(key, []).append(row)
    rows = [
        {
            "series": group[0].dataset,
            "forecaster": forecaster_name(group[0].forecaster),
            "training": group[0].training,
            "horizon": str(group[0].horizon),
            "condition": group[0].condition,
            "norm": group[0].norm or "",
            "goal": group[0].goal or "",
            "radius": number_text(group[0].radius, ".3g"),
            "largest": f"{max(row.value for row in group if row.value is not None):.4f}",
            "mean": f"{np.mean([row.mean for row in group if row.mean is not None]):.4f}",
            "windows": str(group[0].windows),
        }
        for group in groups.values()
    ]
    text = (
        "Results of gradient ascent inside a ball around test windows: lower bounds of the worst case. sib: change of "
        "the bottleneck's output (beta of the papers); snp: change of the forecast (alpha 2); cps: distance of the "
        "faithful forecaster from its teacher (alpha 1). The goal is what ascent maximises: own, the condition itself; "
        "conditions, both together; error, the error of the forecast. Largest is over windows and seeds."
    )
    if rows:
        yield PageSection("Worst cases", [text], [], [_table(rows)])


def _failure_sections(failed: Sequence[CellRow]) -> Iterator[PageSection]:
    if not failed:
        return
    rows = [
        {
            "series": row.dataset,
            "forecaster": forecaster_name(row.forecaster),
            "training": row.training,
            "seed": str(row.seed),
            "horizon": str(row.horizon),
            "error": row.error or "",
        }
        for row in failed
    ]
    yield PageSection("Failed cells", [], [], [_table(rows)])


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    yield "Run", manifest.run_id
    for name, facts in recorded_facts(manifest).items():
        yield f"Series {name}", facts.text
    yield "Device", manifest.facts["device"]
    yield from run_facts(manifest)
