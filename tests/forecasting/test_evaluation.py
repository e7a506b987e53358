"""Fitting and measuring a cell of the grid, without Ray and without a run's folder."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from stratoscope.data import Series
from stratoscope.forecasting import (
    CellSettings,
    FaithfulLoss,
    FitSettings,
    GridCell,
    SearchSettings,
    TimeSieveSettings,
    example_forecast,
    fit_cell,
    grid_cells,
    measure_errors,
    measure_worst_cases,
)
from stratoscope.tables.faithfulness import CellRow

PLAIN = GridCell("waves", "timesieve", "plain", 1, 8)
SETTINGS = CellSettings(
    lookback=16,
    fit=FitSettings(epochs=1, learning_rate=1e-3),
    loss=None,
    timesieve=TimeSieveSettings(),
    perturbations=("gaussian", "parameter", "adversarial"),
    levels=(0.0, 0.2),
    search=SearchSettings(windows=4, steps=2),
    seed=0,
)


@pytest.fixture(scope="module")
def series() -> Series:
    time = np.arange(300)
    values = np.stack([np.sin(time / 3), np.cos(time / 5)], axis=1).astype(np.float32)
    return Series("waves", ("a", "b"), values, np.array([0.0, 5.0]), np.array([1.0, 2.0]), (200, 240, 300), "")


def test_plain_cells_come_first_and_a_forecaster_without_weights_has_no_others() -> None:
    cells = grid_cells(["waves"], ["linear", "last_value"], ["faithful", "plain"], [1, 2], [8])
    assert [cell.training for cell in cells] == ["plain"] * 4 + ["faithful"] * 2
    assert {cell.forecaster for cell in cells[4:]} == {"linear"}
    assert cells[4].start(first_seed=2) == cells[0]


def test_the_key_of_a_cell_is_a_short_plain_name_of_its_own() -> None:
    assert GridCell("waves.1_é", "timesieve", "plain", 2021, 24).key == "waves.1_é-timesieve-24-2021-plain"
    long = ["é" * 119, "é" * 118 + "e", "prices[1]", "prices(1)", "prices 1 ", "a\nb"]
    names = ("x", "x-a", "x-a-b"), ("b-c", "a-b-c", "c", "a", "b")
    keys = [GridCell(series, forecaster, "plain", 1, 24).key for series in names[0] for forecaster in names[1]]
    assert len(set(keys)) == len(keys)
    cells = [GridCell(name, "timesieve", "plain", seed, 24) for name in long for seed in (1, 2)]
    keys = [cell.key for cell in cells]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"[\w.-]+", key) and len(key.encode()) <= 180 for key in keys)
    row = CellRow.failed(cells[0], "diverged")
    assert row.key == cells[0].key


@pytest.mark.parametrize(
    ("training", "start", "teacher"),
    [
        ("plain", None, None),
        ("longer", 1, None),
        ("distilled", 1, 1),
        ("faithful", 1, 1),
        ("distilled_to_first", 1, 2),
        ("faithful_to_first", 1, 2),
        ("longer_from_first", 2, None),
        ("faithful_from_first", 2, 2),
    ],
)
def test_a_training_has_its_start_and_teacher(training: str, start: int | None, teacher: int | None) -> None:
    cell = replace(PLAIN, training=training)

    def plain(seed: int | None) -> GridCell | None:
        return None if seed is None else replace(PLAIN, seed=seed)

    assert (cell.start(first_seed=2), cell.teacher(first_seed=2)) == (plain(start), plain(teacher))


def test_equal_cells_have_equal_measurements(series: Series) -> None:
    first, second = ([replace(m, seconds=0.0) for m in measurements(PLAIN, series)] for _ in range(2))
    assert first == second
    assert [(m.perturbation, m.level) for m in first] == [
        ("none", 0.0),
        ("gaussian", 0.2),
        ("parameter", 0.2),
        ("adversarial", 0.2),
    ]
    assert first[0].moved == 0
    assert all(m.moved > 0 for m in first[1:])


def measurements(cell: GridCell, series: Series) -> list:
    return list(measure_errors(fit_cell(cell, SETTINGS, series), SETTINGS))


def test_parameter_noise_needs_a_bottleneck(series: Series) -> None:
    linear = replace(PLAIN, forecaster="linear")
    assert {m.perturbation for m in measurements(linear, series)} == {"none", "gaussian", "adversarial"}


def test_faithful_training_starts_from_the_plain_weights_as_its_teacher(series: Series) -> None:
    plain = fit_cell(PLAIN, SETTINGS, series)
    settings = replace(SETTINGS, loss=FaithfulLoss())
    faithful = fit_cell(replace(PLAIN, training="faithful"), settings, series, weights=plain.model.state_dict())
    assert torch.equal(faithful.teacher_forecast, plain.forecast)
    assert not torch.equal(faithful.forecast, plain.forecast)
    values = {m.condition: m.value for m in measure_worst_cases(faithful, settings)}
    assert all(values[condition] > 0 for condition in ("sib", "cps", "snp"))


def test_a_teacher_may_be_another_forecaster_than_the_one_that_training_starts_from(series: Series) -> None:
    plain = fit_cell(PLAIN, SETTINGS, series).model.state_dict()
    first = fit_cell(replace(PLAIN, seed=2), SETTINGS, series)
    settings = replace(SETTINGS, loss=FaithfulLoss(ascent=None))
    cell = replace(PLAIN, training="distilled_to_first")
    common = fit_cell(cell, settings, series, weights=plain, teacher_weights=first.model.state_dict())
    own = fit_cell(replace(PLAIN, training="distilled"), settings, series, weights=plain)
    assert torch.equal(common.teacher_forecast, first.forecast)
    distances = [(fitted.forecast - first.forecast).abs().mean() for fitted in (common, own)]
    assert distances[0] < distances[1]


def test_worst_cases_have_nulls_without_a_teacher_or_bottleneck(series: Series) -> None:
    rows = list(measure_worst_cases(fit_cell(replace(PLAIN, forecaster="linear"), SETTINGS, series), SETTINGS))
    assert [m.condition for m in rows] == ["sib", "snp"] * 6 + ["cps"]
    assert all(m.value is None for m in rows if m.condition != "snp")
    assert all(m.value >= m.mean > 0 for m in rows if m.condition == "snp")


def test_an_example_is_in_the_units_of_the_series(series: Series) -> None:
    fitted = fit_cell(replace(PLAIN, forecaster="last_value"), SETTINGS, series)
    points = [p for p in example_forecast(fitted, series) if p.channel == "b"]
    assert [p.step for p in points] == list(range(-15, 9))
    assert all(p.value is None for p in points[:16])
    # The forecaster repeats the last value of the window.
    assert all(p.value == points[15].truth for p in points[16:])
    assert 3 <= min(p.truth for p in points) <= max(p.truth for p in points) <= 7
