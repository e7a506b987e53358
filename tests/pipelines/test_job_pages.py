"""Pages of the jobs search and mitigation, built from tables: what they say, and how a browser shows them."""

from dataclasses import replace
from pathlib import Path

import pytest
from selenium import webdriver

from stratoscope.mitigation import Variant
from stratoscope.pipelines.mitigation.report import build_page as mitigation_page
from stratoscope.pipelines.search.eavss.report import build_page as definition_page
from stratoscope.pipelines.search.pruning.figures import MAX_LINES, MAX_ROWS
from stratoscope.pipelines.search.pruning.report import build_page as pruning_page
from stratoscope.results import COLOURS, MUTED, Page, render, write_table
from stratoscope.tables.pruning import ComparisonRow, FrontRow
from tests.pages import page_faults
from tests.pipelines.page_runs import LONG_NAME, MANY_METRICS, definition_run, mitigation_run, search_run

FLAGGED, RANDOM, ALL = Variant("flagged", 0, (1, 2)), Variant("random", 0, (3, 4)), Variant("all", 0, tuple(range(8)))
PRUNED = Variant("given", 0, (0, 2), (1,))


def plain(text: str) -> str:
    """Return a text with ordinary spaces."""
    return text.replace("\N{NO-BREAK SPACE}", " ")


def faults(browser: webdriver.Chrome, page: Page, folder: Path) -> list[str]:
    path = folder / "report.html"
    path.write_bytes(render(page))
    return page_faults(browser, path)


SEARCHES: dict[str, dict] = {
    "few-random-sets": {"ratios": [0.25], "num_random": 2, "metrics": ["avss"]},
    "one-ratio": {"ratios": [0.25], "metrics": MANY_METRICS, "num_layers": 30, "num_thresholds": 3, "model": LONG_NAME},
    "several-ratios": {
        "ratios": [0.1, 0.2, 0.3, 0.5], "metrics": MANY_METRICS, "num_layers": 40, "num_random": 100,
        "num_thresholds": 3, "model": LONG_NAME,
    },
}  # fmt: skip
MITIGATIONS: dict[str, dict] = {
    "few-items": {"variants": {FLAGGED: 0.3}, "num_items": 4, "datasets": ["first"], "num_steps": 1},
    "several-variants": {
        "variants": {FLAGGED: 0.3, RANDOM: 0.0, ALL: -0.2},
        "datasets": [f"a_data_set_with_a_long_name_{i}" for i in range(8)],
        "model": LONG_NAME,
        "num_steps": 1000,
        "num_layers": 40,
    },
    "recovery": {"variants": {PRUNED: 0.1, replace(PRUNED, seed=1): 0.0}},
}
DEFINITIONS: dict[str, dict] = {
    "one-trial": {"differences": {"first": 0.1}, "confirmed": {}, "num_trials": 1, "random_sets": 2},
    "many": {
        "differences": {f"a_data_set_with_a_long_name_{i}": 0.1 - 0.02 * i for i in range(9)},
        "confirmed": {"second": 0.1},
        "num_trials": 90,
        "model": LONG_NAME,
    },
}


@pytest.mark.parametrize("case", SEARCHES)
def test_pages_of_a_search_have_no_faults(case: str, browser: webdriver.Chrome, tmp_path: Path) -> None:
    assert faults(browser, pruning_page(search_run(tmp_path, **SEARCHES[case])), tmp_path) == []


@pytest.mark.parametrize("case", MITIGATIONS)
def test_pages_of_a_mitigation_have_no_faults(case: str, browser: webdriver.Chrome, tmp_path: Path) -> None:
    assert faults(browser, mitigation_page(mitigation_run(tmp_path, **MITIGATIONS[case])), tmp_path) == []


@pytest.mark.parametrize("case", DEFINITIONS)
def test_pages_of_definitions_have_no_faults(case: str, browser: webdriver.Chrome, tmp_path: Path) -> None:
    assert faults(browser, definition_page(definition_run(tmp_path, **DEFINITIONS[case])), tmp_path) == []


@pytest.mark.parametrize(
    ("chosen", "num_random", "title", "says"),
    [
        (0.9, 20, "2 of 8 layers dropped: 90 % kept (82 to 98 %)", "All 20 random sets of as many layers keep less"),
        (0.4, 20, "2 of 8 layers dropped: 40 % kept (32 to 48 %)", "The choice is no better than chance can explain"),
        (1.0, 2, "2 of 8 layers dropped: 100 % kept (92 to 108 %)", "No difference could be shown with 2 random sets"),
    ],
)
def test_a_search_says_what_is_kept_and_whether_random_sets_keep_as_much(
    chosen: float, num_random: int, title: str, says: str, tmp_path: Path
) -> None:
    page = pruning_page(search_run(tmp_path, chosen_value=chosen, num_random=num_random))
    assert plain(page.title) == title
    assert page.verdict
    kept, random, chance = map(plain, page.verdict.paragraphs)
    assert ("which includes no loss" in kept) == (chosen == 1.0)
    assert random.startswith(says)
    assert "a_task_with_a_long_name the whole model is not above chance" in chance


def test_a_search_without_a_choice_says_why(tmp_path: Path) -> None:
    run = search_run(tmp_path)
    write_table(run.storage, "front", FrontRow.table([], ["pick"]))
    run.manifest.facts |= {"verdicts": ["No trial has a retention, so no set was chosen."], "against_random": None}
    page = pruning_page(run)
    assert page.title == "No set of layers chosen: no trial has a retention"
    assert page.verdict
    assert page.verdict.paragraphs == ["No trial has a retention, so no set was chosen."]


def test_a_search_on_tasks_at_chance_gives_no_retention_in_its_title(tmp_path: Path) -> None:
    run = search_run(tmp_path)
    rows = [replace(row, above_chance=None) for row in ComparisonRow.read(run.table("comparison"))]
    write_table(run.storage, "comparison", ComparisonRow.table(rows))
    assert pruning_page(run).title == "2 of 8 layers dropped: no task can show what is kept"


def test_plots_of_retention_fit_the_data_and_show_intervals(tmp_path: Path) -> None:
    sections = {s.heading: s for s in pruning_page(search_run(tmp_path, ratios=[0.25])).sections}
    figure = sections["Retention by score"].figures[0]
    low, high = figure.layout.xaxis.range
    ends = [x + e for trace in figure.data for x, e in zip(trace.x, trace.error_x.array, strict=True)]
    starts = [x - e for trace in figure.data for x, e in zip(trace.x, trace.error_x.arrayminus, strict=True)]
    assert low < min(starts)
    assert max(ends) < high
    assert high - low < 1.2 * (max(ends) - min(starts))
    assert figure.layout.meta["title"] == "model, mean over tasks"
    headings = {s.heading for s in pruning_page(search_run(tmp_path / "several")).sections}
    assert "Retention by ratio" in headings
    assert "Retention against speed and size" not in sections


def test_many_sets_are_drawn_as_the_best_of_each_size(tmp_path: Path) -> None:
    sections = {s.heading: s for s in pruning_page(search_run(tmp_path, **SEARCHES["several-ratios"])).sections}
    (raster,) = sections["Dropped layers"].figures
    assert len(raster.data[0].y) == MAX_ROWS
    assert "sets are drawn" in sections["Dropped layers"].paragraphs[1]
    assert {len(figure.data) for figure in sections["Retention by ratio"].figures} == {MAX_LINES}


@pytest.mark.parametrize(
    ("variants", "num_items", "title", "says"),
    [
        ({FLAGGED: 0.3}, 60, "Two layers fine-tuned: mc1, mc2 and perplexity better", "improved mc1 on first from 0.3"),
        ({ALL: -0.2}, 60, "Eight layers fine-tuned: mc1, mc2 and perplexity worse", "worsened mc1 on first from 0.3"),
        ({FLAGGED: 0.0}, 60, "Two layers fine-tuned: no change beyond noise", "changed no metric beyond noise: mc1"),
        ({FLAGGED: 0.3}, 4, "Two layers fine-tuned: no change could be shown", "No difference could be shown with 4"),
    ],
)
def test_a_fine_tuning_says_what_changed_beyond_noise(
    variants: dict, num_items: int, title: str, says: str, tmp_path: Path
) -> None:
    page = mitigation_page(mitigation_run(tmp_path, variants, num_items=num_items))
    assert page.title == title
    assert page.verdict
    assert says in page.verdict.paragraphs[0]
    (figure,) = page.verdict.figures
    is_change = "better" in title or "worse" in title
    assert [trace.marker.color for trace in figure.data] == [COLOURS[0] if is_change else MUTED]


def test_variants_are_compared_and_problems_stated_in_the_verdict(tmp_path: Path) -> None:
    page = mitigation_page(mitigation_run(tmp_path, {FLAGGED: 0.3, RANDOM: 0.0}, diverged=True))
    assert page.verdict
    assert page.verdict.paragraphs[1] == "flagged-0 and random-0 diverged; 'All findings' says why."
    assert page.verdict.paragraphs[2].startswith("By mc1, flagged is better than random (+0.300, ")
    sections = {s.heading: s for s in page.sections}
    loss = sections["Training"].figures[0]
    assert (loss.layout.xaxis.dtick, loss.layout.yaxis.exponentformat) == (1, "power")


def test_a_recovery_says_what_is_kept_before_and_after_training(tmp_path: Path) -> None:
    page = mitigation_page(mitigation_run(tmp_path, {PRUNED: 0.1}))
    assert plain(page.title) == "1 of 8 layers dropped and recovered: 133 % of mc1 kept, 67 % before training"
    assert page.verdict
    assert "against 0.300 of the whole model" in page.verdict.paragraphs[0]


@pytest.mark.parametrize(
    ("differences", "confirmed", "num_sets", "title"),
    [
        ({"a": 0.1}, {"b": 0.2}, 200, "flagged layers beat random ones on b, which no trial used"),
        ({"a": 0.1}, {"b": 0.0}, 200, "flagged layers are no better than random ones on data that no trial used"),
        ({"a": 0.1, "b": 0.0}, {}, 200, "flagged layers beat random ones on a (of 2 data sets)"),
        ({"a": 0.1}, {}, 2, "too few random sets to show that its flagged layers are better"),
    ],
)
def test_a_search_for_definitions_says_what_was_confirmed(
    differences: dict, confirmed: dict, num_sets: int, title: str, tmp_path: Path
) -> None:
    page = definition_page(definition_run(tmp_path, differences, confirmed=confirmed, random_sets=num_sets))
    assert page.title == f"Best of 6 settings: {title}"
    assert page.verdict
    assert any("thresholds.confirm_on" in text for text in page.verdict.paragraphs) == (not confirmed)
