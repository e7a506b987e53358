"""Pages of the jobs search and mitigation, built from tables and opened in a browser."""

from pathlib import Path

import pytest
from selenium import webdriver

from stratoscope.mitigation import Variant
from stratoscope.pipelines.mitigation.report import build_page as mitigation_page
from stratoscope.pipelines.search.eavss.report import build_page as definition_page
from stratoscope.pipelines.search.pruning.report import build_page as pruning_page
from stratoscope.results import Page, render
from tests.pages import page_faults
from tests.pipelines.page_runs import LONG_NAME, MANY_METRICS, definition_run, mitigation_run, search_run

FLAGGED, RANDOM, ALL = Variant("flagged", 0, (1, 2)), Variant("random", 0, (3, 4)), Variant("all", 0, tuple(range(8)))
PRUNED = Variant("given", 0, (0, 2), (1,))


def faults(browser: webdriver.Chrome, page: Page, folder: Path) -> list[str]:
    path = folder / "report.html"
    path.write_bytes(render(page))
    return page_faults(browser, path)


SEARCHES: dict[str, dict] = {
    "several-ratios": {},
    "one-ratio": {"ratios": [0.25]},
    "one-ratio-few-random-sets": {"ratios": [0.25], "num_random": 2, "metrics": ["avss"]},
    "no-random-sets": {"ratios": [0.25], "num_random": 0},
    "many": {
        "ratios": [0.1, 0.2, 0.3, 0.5], "metrics": MANY_METRICS, "num_layers": 40, "num_random": 100,
        "num_thresholds": 3, "model": LONG_NAME,
    },
    "one-ratio-long-names": {
        "ratios": [0.25], "metrics": MANY_METRICS, "num_layers": 30, "num_thresholds": 3, "model": LONG_NAME,
    },
}  # fmt: skip


@pytest.mark.parametrize("case", SEARCHES)
def test_pages_of_a_search_have_no_faults(case: str, browser: webdriver.Chrome, tmp_path: Path) -> None:
    assert faults(browser, pruning_page(search_run(tmp_path, **SEARCHES[case])), tmp_path) == []


MITIGATIONS: dict[str, dict] = {
    "one-variant": {"variants": {FLAGGED: 0.3}},
    "nothing-changed": {"variants": {FLAGGED: 0.0}},
    "few-items": {"variants": {FLAGGED: 0.3}, "num_items": 4, "datasets": ["first"], "num_steps": 1},
    "several-variants": {"variants": {FLAGGED: 0.3, RANDOM: 0.0, ALL: -0.2}, "num_steps": 60},
    "several-seeds": {"variants": {Variant("flagged", seed, (1, 2)): 0.1 * seed for seed in range(5)}},
    "recovery": {"variants": {PRUNED: 0.1}},
    "long-names": {
        "variants": {FLAGGED: 0.3, RANDOM: 0.0},
        "datasets": [f"a_data_set_with_a_long_name_{i}" for i in range(8)],
        "model": LONG_NAME,
        "num_steps": 1000,
        "num_layers": 40,
    },
}


@pytest.mark.parametrize("case", MITIGATIONS)
def test_pages_of_a_mitigation_have_no_faults(case: str, browser: webdriver.Chrome, tmp_path: Path) -> None:
    assert faults(browser, mitigation_page(mitigation_run(tmp_path, **MITIGATIONS[case])), tmp_path) == []


DEFINITIONS: dict[str, dict] = {
    "confirmed": {"differences": {"first": 0.1}, "confirmed": {"second": 0.2}},
    "nothing": {"differences": {"first": 0.01, "second": -0.2}, "confirmed": {}},
    "one-trial": {"differences": {"first": 0.1}, "confirmed": {}, "num_trials": 1, "random_sets": 2},
    "many": {
        "differences": {f"a_data_set_with_a_long_name_{i}": 0.1 - 0.02 * i for i in range(9)},
        "confirmed": {"second": 0.1},
        "num_trials": 90,
        "model": LONG_NAME,
    },
}


@pytest.mark.parametrize("case", DEFINITIONS)
def test_pages_of_a_search_for_definitions_have_no_faults(case: str, browser: webdriver.Chrome, tmp_path: Path) -> None:
    assert faults(browser, definition_page(definition_run(tmp_path, **DEFINITIONS[case])), tmp_path) == []
