"""Answers, layers and taps that cannot be read: what a hallucination run and a search leave out, and what they say."""

from dataclasses import replace

import numpy as np
import pytest

from stratoscope.errors import InputError
from stratoscope.pipelines.hallucination.config import HallucinationConfig, SeparationSection
from stratoscope.pipelines.hallucination.report import _all_section
from stratoscope.pipelines.hallucination.run import select_testable
from stratoscope.pipelines.search.eavss import trial
from stratoscope.pipelines.sharded.taps import taps_read
from stratoscope.scoring import AnswerObservations, AnswerSet, AnswerStatistics, Threshold, run_layer_tests
from stratoscope.scoring.definition_space import DefinitionSpace
from stratoscope.tables.hallucination import HallucinationScoreRow, distinct_rows, main_scores, score_rows
from tests.scoring.test_layer_tests import answers, readings

THRESHOLD = Threshold("absolute", 0.01, counted=0)
BOTH = {"variance": ["elementwise", "pooled"], "draws": 99}


def observations(num_questions: int = 40) -> AnswerObservations:
    """A data set at two taps: update has a broken answer and a broken layer, mlp_hidden no pooled variance."""
    labels = answers(num_questions, 0)
    reading = readings(labels, 6, 1)
    reading.variance[labels.wrong, 2] *= 4
    broken = reading.variance.copy()
    broken[5, 3], broken[:, 4] = np.nan, np.nan
    sparse = reading.sparsity[..., None]
    return AnswerObservations(
        {"quiz": AnswerSet(labels, tuple(map(str, range(num_questions))), np.zeros(len(labels.wrong)))},
        {"update": (THRESHOLD,), "mlp_hidden": (THRESHOLD,)},
        {
            ("quiz", "update", "answer"): AnswerStatistics(broken, broken, sparse),
            ("quiz", "mlp_hidden", "answer"): AnswerStatistics(reading.variance, np.full_like(broken, np.nan), sparse),
        },
    )


def test_one_answer_that_cannot_be_read_unflags_no_tap_and_the_notes_name_what_is_left_out() -> None:
    config = HallucinationConfig(contrasts=BOTH)
    kept, notes = select_testable(observations(), config)
    assert notes == [
        "quiz: 1 of 160 answers are left out; they have no finite activations at a layer that most answers can be read "
        "at.",
        "quiz: layer 4 of tap update cannot be read (elementwise variance, part answer), so no score is given.",
        "quiz: layer 4 of tap update cannot be read (pooled variance, part answer), so no score is given.",
        "quiz: all layers of tap mlp_hidden cannot be read (pooled variance, part answer), so no score is given.",
    ]
    section = config.contrasts
    results = list(run_layer_tests(kept, ["eavss"], section.to_views(), section.to_inference(0)))
    assert [(r.view.variance, [t.tap for t in r.layer_tests]) for r in results] == [
        ("elementwise", ["update", "mlp_hidden"]),
        ("pooled", ["update"]),
    ]
    assert all(np.flatnonzero(t.flagged).tolist() == [2] for r in results for t in r.layer_tests)
    rows = HallucinationScoreRow.read(
        HallucinationScoreRow.table([row for r in results for row in score_rows(r, kept.thresholds)])
    )
    assert [(row.eavss is None, row.p_value is None, row.flagged) for row in rows[:6]] == [
        (layer == 4, layer == 4, layer == 2) for layer in range(6)
    ]


def test_a_data_set_in_which_no_layer_can_be_read_is_refused_in_one_line() -> None:
    only_hidden = replace(observations(), thresholds={"mlp_hidden": (THRESHOLD,)})
    with pytest.raises(InputError, match="no layer of taps mlp_hidden can be read in the answers to 'quiz'"):
        select_testable(only_hidden, HallucinationConfig(contrasts={"variance": ["pooled"]}))
    withdrawn = replace(observations(), thresholds={})
    with pytest.raises(InputError, match="no layer of taps none can be read"):
        select_testable(withdrawn, HallucinationConfig())


def test_fewer_questions_than_folds_are_refused_after_the_reading_too() -> None:
    with pytest.raises(InputError, match="'quiz' has 40 questions for 50 folds"):
        select_testable(observations(), HallucinationConfig(separation={"folds": 50}))


def test_a_trial_that_can_read_no_layer_says_so_and_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "load_observations", lambda *_: observations())
    space = DefinitionSpace(
        ("eavss",),
        ("update", "mlp_hidden"),
        ("answer",),
        ("elementwise", "pooled"),
        (("absolute", 0.01),),
        (1.0,),
        (0.05,),
    )
    evaluator = trial.DefinitionEvaluator("run", space, (0.01,), SeparationSection(random_sets=5), 99, 0)
    flagged, errors = [], []
    for candidate in space.grid():
        try:
            flagged.append(evaluator.evaluate(candidate, "quiz").flagged_layers)
        except ValueError as error:
            errors.append(str(error))
    assert flagged == [(2,)] * 3
    assert errors == ["no layer of tap mlp_hidden can be read in quiz by pooled variance"]


def test_taps_that_a_model_does_not_let_read_are_left_out() -> None:
    assert taps_read(["block", "mlp"], {"withdrawn": {"mlp": "its parts do not add up"}}) == ("block",)
    assert taps_read(["block", "mlp"], {}) == ("block", "mlp")


def test_a_page_of_a_run_with_a_threshold_without_a_value_is_made() -> None:
    (result,) = run_layer_tests(observations(), ["eavss"], HallucinationConfig().contrasts.to_views(), _FAST)
    nowhere = {tap: (Threshold("quantile", float("nan")),) for tap in ("update", "mlp_hidden")}
    rows = HallucinationScoreRow.read(HallucinationScoreRow.table(score_rows(result, nowhere)))
    assert [row[-2] for row in _all_section(rows).tables[0].rows] == ["", ""]


def test_views_with_the_same_threshold_at_a_tap_have_one_row_there() -> None:
    both = HallucinationConfig(contrasts={"epsilon": [], "quantile": [0.5, 0.5001], "draws": 99}).contrasts
    low, high = (Threshold("quantile", epsilon) for epsilon in (0.1, 0.2))
    placed = {"update": (low, low), "mlp_hidden": (low, high)}
    seen = observations()
    twice = {key: replace(s, sparsity=np.repeat(s.sparsity, 2, axis=2)) for key, s in seen.statistics.items()}
    seen = replace(seen, thresholds=placed, statistics=twice)
    results = list(run_layer_tests(seen, ["eavss"], both.to_views(), _FAST))
    rows = distinct_rows([row for result in results for row in score_rows(result, placed)])
    assert [(row.tap, row.epsilon, row.layer) for row in rows] == [
        (tap, epsilon, layer)
        for tap, epsilon in (("update", 0.1), ("mlp_hidden", 0.1), ("mlp_hidden", 0.2))
        for layer in range(6)
    ]
    assert [(row.tap, row.epsilon) for row in main_scores(rows)] == [("update", 0.1)] * 6 + [("mlp_hidden", 0.1)] * 6


_FAST = HallucinationConfig(contrasts=BOTH).contrasts.to_inference(0)
