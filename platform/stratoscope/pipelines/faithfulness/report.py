"""Page and terminal table of a faithfulness run."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from rich.table import Table as TerminalTable

from stratoscope.forecasting import NONE, Measurement
from stratoscope.pipelines.faithfulness import figures
from stratoscope.pipelines.faithfulness.facts import SeriesFacts
from stratoscope.pipelines.reporting.formatting import interval_text, number_text, run_facts
from stratoscope.results import Manifest, Page, PageSection, Run, Table
from stratoscope.tables.faithfulness import CellRow, DifferenceRow, ForecastRow, SpreadRow, WorstCaseRow


def summary_table(run: Run) -> TerminalTable:
    """Return each forecaster's errors, its spread over seeds, and the perturbation that raises its error most."""
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
    rows = CellRow.read(run.table("cells"))
    measurements = _measurements(rows)
    forecasts = ForecastRow.read(run.table("forecasts"))
    sections = [PageSection("Verdict", list(run.manifest.facts["verdicts"])), *_note_sections(run.manifest)]
    for key in dict.fromkeys((m.dataset, m.horizon) for m in measurements):
        sections += _figure_sections(
            f"{key[0]}, horizon {key[1]}",
            [m for m in measurements if (m.dataset, m.horizon) == key],
            [f for f in forecasts if (f.dataset, f.horizon) == key],
        )
    sections.append(_spread_section(SpreadRow.read(run.table("spreads"))))
    sections += _difference_sections(DifferenceRow.read(run.table("differences")))
    sections.append(_worst_case_section(WorstCaseRow.read(run.table("worst_case"))))
    sections += _failure_sections([row for row in rows if row.status == "failed"])
    return Page(
        title="Do forecasts survive another seed and a little noise?",
        summary=(
            f"{run.manifest.counts['cells']} fitted forecasters, each evaluated on all test windows, in standard units "
            "of the training part. Faithful training starts from the plain forecaster of the same seed."
        ),
        sections=sections,
        facts=list(_facts(run.manifest)),
    )


def recorded_facts(manifest: Manifest) -> dict[str, SeriesFacts]:
    """Return the facts of each series in a manifest."""
    return {name: SeriesFacts.recorded(facts) for name, facts in manifest.facts["series"].items()}


def series_lines(facts: Mapping[str, SeriesFacts]) -> Iterator[str]:
    """Yield what the terminal says about each series."""
    for name, each in facts.items():
        yield from (f"{label}: {text}" for label, text in each.lines(name))


def _note_sections(manifest: Manifest) -> Iterator[PageSection]:
    notes = [f"{name}: {note}." for name, facts in recorded_facts(manifest).items() for note in facts.notes]
    if notes:
        yield PageSection("How the series were read", notes)


def _figure_sections(
    name: str, measurements: Sequence[Measurement], forecasts: Sequence[ForecastRow]
) -> Iterator[PageSection]:
    forecasters = list(dict.fromkeys(f.forecaster for f in forecasts))
    yield PageSection(
        f"One window under all seeds: {name}",
        [f"The middle window of the test part; figures in the order {', '.join(forecasters)}."],
        [figures.forecasts(forecasts, forecaster, forecasts[0].channel) for forecaster in forecasters],
    )
    yield PageSection(f"Spread over seeds: {name}", ["Each point is a seed."], [figures.seeds(measurements, "mse")])
    perturbations = [p for p in dict.fromkeys(m.perturbation for m in measurements) if p != NONE]
    if perturbations:
        yield PageSection(
            f"Error under perturbations: {name}",
            ["Means over seeds; bands range from the smallest to the largest value."],
            [figures.degradation(measurements, perturbation, "mae") for perturbation in perturbations],
        )
        yield PageSection(
            f"Cost of perturbations: {name}",
            ["Growth of the absolute error, relative to the error without perturbation, of means over seeds."],
            [figures.heat(measurements, "mae")],
        )


def _table(rows: Sequence[Mapping[str, str]], filtered: str | None = None) -> Table:
    """Return rows, each a mapping from header to text, as a table of the page."""
    return Table(list(rows[0]), [list(row.values()) for row in rows], filtered=filtered)


def _spread_section(spreads: Sequence[SpreadRow]) -> PageSection:
    rows = [
        {
            "data set": spread.dataset,
            "forecaster": spread.forecaster,
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


def _difference_sections(differences: Sequence[DifferenceRow]) -> Iterator[PageSection]:
    if not differences:
        return
    rows = [
        {
            "data set": row.dataset,
            "forecaster": row.forecaster,
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
        for row in differences
    ]
    text = (
        "Paired by seed, with Student's 95 % interval over seeds for each row separately: one in twenty misses. Rise "
        "is the increase of the error under a perturbation; moved is the mean absolute change of the forecast itself. "
        "Faithful training is also longer training; compare it with longer plain training where the grid includes it."
    )
    yield PageSection("Comparison of trainings", [text], [], [_table(rows, filtered="Show only rows with")])


def _worst_case_section(results: Sequence[WorstCaseRow]) -> PageSection:
    groups: dict[tuple[object, ...], list[WorstCaseRow]] = {}
    for row in results:
        if row.value is not None:
            key = row.dataset, row.forecaster, row.training, row.horizon, row.condition, row.norm, row.goal, row.radius
            groups.setdefault(key, []).append(row)
    rows = [
        {
            "data set": group[0].dataset,
            "forecaster": group[0].forecaster,
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
    return PageSection("Worst cases", [text], [], [_table(rows)])


def _failure_sections(failed: Sequence[CellRow]) -> Iterator[PageSection]:
    if not failed:
        return
    rows = [
        {
            "data set": row.dataset,
            "forecaster": row.forecaster,
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
