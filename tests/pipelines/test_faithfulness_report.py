"""The page of a faithfulness run, from tables made here."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from stratoscope.forecasting import GridCell, Measurement, deviation_ratios, differences, spreads
from stratoscope.pipelines.faithfulness.report import build_page
from stratoscope.pipelines.faithfulness.verdict import EACH_ALONE
from stratoscope.results import Manifest, Page, Run, Storage, TableCell, write_table
from stratoscope.results.report import render
from stratoscope.tables.faithfulness import (
    CellRow,
    DeviationRatioRow,
    DifferenceRow,
    ForecastRow,
    SpreadRow,
    WorstCaseRow,
)
from tests.pages import VIEWS, open_page, page_faults

SEEDS = (1, 2, 3)
NARROW = next(view for view in VIEWS if view.name == "narrow")
NOTE = "rows were newest first by 'date' and are turned round"


def measurements(forecaster: str, error: float, growths: dict[tuple[str, float], float]) -> list[Measurement]:
    """Measurements of all seeds, whose errors differ by one percent, and grow under perturbations."""
    result = []
    for seed in SEEDS:
        clean = error * (1 + 0.01 * (seed - 2))
        for (name, level), growth in {("none", 0.0): 0.0, **growths}.items():
            mae = clean * (1 + growth)
            result.append(Measurement("waves", forecaster, "plain", seed, 8, name, level, mae, mae**2, 0.1, 1.0))
    return result


def forecast_rows(cells: list[Measurement]) -> list[ForecastRow]:
    return [
        ForecastRow(
            dataset=m.dataset, forecaster=m.forecaster, training=m.training, seed=m.seed, horizon=m.horizon,
            channel="a", step=step, value=step / 9 if step > 0 else None, truth=0.5,
        )
        for m in cells
        if m.perturbation == "none"
        for step in range(-7, 9)
    ]  # fmt: skip


def faithfulness_run(folder: Path, cells: list[Measurement], failed: tuple[GridCell, ...] = ()) -> Run:
    storage = Storage(str(folder))
    rows = [*map(CellRow.done, cells), *(CellRow.failed(cell, "out of memory") for cell in failed)]
    tables = {
        "cells": CellRow.table(rows),
        "spreads": SpreadRow.table([SpreadRow(**vars(spread)) for spread in spreads(cells, SEEDS)]),
        "forecasts": ForecastRow.table(forecast_rows(cells)),
        "differences": DifferenceRow.table([]),
        "worst_case": WorstCaseRow.table([]),
    }
    for name, table in tables.items():
        write_table(storage, name, table)
    series = {"rows": 600, "columns": ["a"], "windows": "9 test windows of horizon 8", "notes": [NOTE]}
    facts = {"device": "cpu", "series": {"waves": series}, "verdicts": ["In words."]}
    config = {"verdict": {"spread": 0.05, "degradation": 0.1}}
    return Run(storage, Manifest("faithfulness", "run", config, 0, facts=facts, counts={"cells": len(rows)}))


def with_ratios(run: Run, cells: list[Measurement]) -> Run:
    """Add the table of ratios of deviations, which older versions did not write."""
    rows = [DeviationRatioRow(**vars(ratio)) for ratio in deviation_ratios(cells)]
    write_table(run.storage, "deviation_ratios", DeviationRatioRow.table(rows))
    return run


LINEAR = measurements("dlinear", 0.5, {("gaussian", 0.1): 0.01, ("gaussian", 0.2): 0.05, ("missing", 0.2): 0.5})
SIEVE = measurements("timesieve", 0.3, {("gaussian", 0.1): 0.02, ("gaussian", 0.2): 0.4, ("missing", 0.2): 2.5})


def first_screen(page: Page) -> str:
    return "\n".join([page.title, *page.verdict.paragraphs])


def test_a_grid_says_who_survives_what(tmp_path: Path, browser: webdriver.Chrome) -> None:
    page = build_page(faithfulness_run(tmp_path, [*LINEAR, *SIEVE]))
    assert page.title == "DLinear survives 1 of 2 perturbations; TimeSieve 0"
    (grid,) = page.verdict.tables
    assert list(grid.header) == ["forecaster", "another seed", "gaussian", "missing"]
    assert grid.rows[0][2] == TableCell("✓ survives", tone="good")
    assert grid.rows[1][2] == TableCell("✗ does not at 0.2", tone="bad")
    text = first_screen(page)
    assert text.endswith(f"Series waves: {NOTE}.")
    costliest = "Costliest: missing 0.2 raises the error of TimeSieve (plain, waves, horizon 8) by 250"
    assert costliest in text.replace("\N{NO-BREAK SPACE}", " ")
    path = tmp_path / "report.html"
    path.write_bytes(render(page))
    assert page_faults(browser, path) == []


NAMES = ("dlinear", "timesieve", "patchtst", "patchtsmixer")
PERTURBATIONS = ("adversarial", "gaussian", "missing", "parameter", "residual")


@pytest.mark.parametrize(
    ("forecasters", "series", "horizons"),
    [
        (NAMES[:1], ("waves", "tides"), (24,)),
        (NAMES, ("waves", "the_tides_of_a_sea_with_a_long_name", "winds"), (8, 96)),
    ],
)
def test_the_grid_fits_the_first_screen_whatever_its_size(
    forecasters: Sequence[str],
    series: Sequence[str],
    horizons: Sequence[int],
    browser: webdriver.Chrome,
    tmp_path: Path,
) -> None:
    growths = {(name, level): 0.03 * (1 + i) for i, name in enumerate(PERTURBATIONS) for level in (0.1, 0.2)}
    cells = [
        replace(m, dataset=dataset, horizon=horizon)
        for name, dataset, horizon in product(forecasters, series, horizons)
        for m in measurements(name, 0.5, growths)
    ]
    path = tmp_path / "report.html"
    path.write_bytes(render(build_page(faithfulness_run(tmp_path, cells))))
    assert page_faults(browser, path) == []
    open_page(browser, path, NARROW)
    # A telephone shows the outcomes below the name of their row, without scrolling sideways.
    (grid,) = browser.find_elements(By.CSS_SELECTOR, "#verdict .wide")
    assert int(grid.get_property("scrollWidth")) <= int(grid.get_property("clientWidth"))
    assert int(grid.get_property("clientHeight")) >= 150
    assert "parameter ✗ does not" in pseudo_text(browser)


def pseudo_text(browser: webdriver.Chrome) -> str:
    """Return the texts of the first row of the grid, with the labels that the style puts before them."""
    return browser.execute_script(
        "return [...document.querySelectorAll('#verdict tbody tr:first-child td')].map((cell) =>"
        "eval(getComputedStyle(cell, '::before').content.replace('none', '\"\"')) + cell.textContent).join(' ')"
    )


def test_what_was_not_measured_with_certainty_is_undecided(tmp_path: Path) -> None:
    one_seed = [m for m in LINEAR if m.seed == 1]
    page = build_page(faithfulness_run(tmp_path, one_seed))
    assert page.title == "DLinear survives 0 of 2 perturbations"
    (grid,) = page.verdict.tables
    assert grid.rows[0][1:] == ["one seed", *[TableCell("? undecided", tone="warn")] * 2]


def test_questioned_scales_and_failed_cells_stand_on_the_first_screen(tmp_path: Path) -> None:
    large = [replace(m, mse=1e5) for m in SIEVE]
    failed = GridCell("waves", "linear", "plain", 1, 8)
    page = build_page(faithfulness_run(tmp_path, [*LINEAR, *large], (failed,)))
    text = first_screen(page)
    assert page.title == "DLinear survives 1 of 2 perturbations; TimeSieve 0; linear 0"
    assert page.summary.startswith("6 fitted forecasters")
    assert (
        "WARNING: 1 of 2 results are questioned: squared errors of up to 100,000 in standard units by TimeSieve" in text
    )
    assert "WARNING: 1 cells failed and are excluded: waves-linear-8-1-plain." in text
    assert set(page.verdict.tables[0].rows[1][1:]) == {TableCell("! questioned", tone="warn")}
    only = build_page(faithfulness_run(tmp_path / "only", large))
    assert only.title.startswith("No result can be trusted")


def test_a_forecaster_survives_only_where_all_its_results_can_be_trusted(tmp_path: Path) -> None:
    """DLinear fails on one of two series; TimeSieve's plain training is questioned, its longer training is not."""
    other = [replace(m, dataset="tides") for m in SIEVE]
    longer = [replace(m, training="longer", mae=m.mae if m.perturbation == "none" else 0.3) for m in [*SIEVE, *other]]
    questioned = [replace(m, mse=1e5) for m in [*SIEVE, *other]]
    failed = tuple(GridCell("tides", "dlinear", "plain", seed, 8) for seed in SEEDS)
    page = build_page(faithfulness_run(tmp_path, [*LINEAR, *questioned, *longer], failed))
    assert page.title == "DLinear survives 0 of 2 perturbations; TimeSieve 0"
    assert "TimeSieve 2 instead of 0 with training 'longer'" in first_screen(page)


def test_the_number_of_seeds_is_that_of_the_results(tmp_path: Path) -> None:
    fewer = [m for m in SIEVE if m.seed != 2]
    text = first_screen(build_page(faithfulness_run(tmp_path, [*LINEAR, *fewer])))
    assert "interval over 2 to 3 seeds" in text.replace("\N{NO-BREAK SPACE}", " ")


def test_without_perturbations_the_title_is_about_seeds(tmp_path: Path) -> None:
    clean = [m for m in LINEAR if m.perturbation == "none"]
    page = build_page(faithfulness_run(tmp_path, clean))
    assert page.title in ("DLinear survives another seed", "No forecaster is shown to survive another seed")
    same = [replace(m, mae=0.5, mse=0.25) for m in clean]
    assert build_page(faithfulness_run(tmp_path / "same", same)).title == "DLinear survives another seed"
    unlike = [replace(m, dataset="tides", mse=0.25 + m.seed / 9) for m in same]
    page = build_page(faithfulness_run(tmp_path / "unlike", [*same, *unlike]))
    assert page.title == "No forecaster is shown to survive another seed"


def test_the_first_screen_states_which_training_makes_seeds_matter_less(tmp_path: Path) -> None:
    errors = {
        "plain": (0.5, 0.6, 0.4, 0.55),
        "longer": (0.5, 0.6, 0.45, 0.52),
        "distilled": (0.5, 0.58, 0.44, 0.53),
        "faithful_from_first": (0.5, 0.5001, 0.4999, 0.5001),
    }
    cells = [
        Measurement("waves", "dlinear", training, seed, 8, "none", 0.0, error, error**2, 0.0, 1.0)
        for training, values in errors.items()
        for seed, error in enumerate(values)
    ]
    without = build_page(faithfulness_run(tmp_path / "older", cells))
    assert "Compared with" not in first_screen(without)
    page = build_page(with_ratios(faithfulness_run(tmp_path / "newer", cells), cells))
    text = first_screen(page)
    assert (
        "Compared with training 'longer', another seed moves the squared error less in 1 of 2 cases, most after "
        in text
    )
    assert "'faithful_from_first' (DLinear, waves, horizon 8: 0.00 times, 0.00 to " in text
    assert (
        f"and more in 0{EACH_ALONE}.\nSeeds that share a teacher or a start (..._first) agree by construction" in text
    )
    assert len(page.sections) == len(without.sections) + 1


def test_long_tables_say_which_part_they_are(tmp_path: Path) -> None:
    cells = [
        Measurement("waves", "dlinear", training, seed, horizon, "none", 0.0, 0.5 + seed / 9, 0.2 + seed / 9, 0.0, 1.0)
        for training in ("plain", "longer", "distilled", "faithful")
        for seed in SEEDS
        for horizon in range(1, 40)
    ]
    run = with_ratios(faithfulness_run(tmp_path, cells), cells)
    write_table(run.storage, "differences", DifferenceRow.table(DifferenceRow(**vars(d)) for d in differences(cells)))
    texts = [paragraph for section in build_page(run).sections for paragraph in section.paragraphs]
    for name in ("differences", "deviation_ratios"):
        number = run.table(name).num_rows
        assert number > 400
        assert any(text.endswith(f" 400 of {number:,} rows; {name}.parquet has all of them.") for text in texts)


def test_figures_name_the_forecaster_and_the_unit_and_show_seeds_as_points(tmp_path: Path) -> None:
    page = build_page(faithfulness_run(tmp_path, SIEVE))
    (section,) = [section for section in page.sections if section.figures]
    titles = [figure.layout.meta["title"] for figure in section.figures]
    assert titles == [
        "TimeSieve: errors under perturbations, waves, horizon 8",
        "Squared errors by seed, without perturbation, waves, horizon 8",
        "TimeSieve: forecasts of one window, waves, horizon 8",
    ]
    levels, by_seed, _ = section.figures
    assert levels.layout.yaxis.title.text == "absolute error, standardised"
    low, high = levels.layout.yaxis.range
    assert 0.2 < low < 0.3 * 0.99
    assert 0.3 * 3.5 < high < 1.2
    assert {trace.type for trace in by_seed.data} == {"scatter"}
    assert len(by_seed.data[0].x) == len(SEEDS)
