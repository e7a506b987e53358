"""The objective of the search with target eavss."""

from dataclasses import replace

import pyarrow as pa
import pytest
from pydantic import ValidationError

from stratoscope.data.pairs import DataSet, QuestionSet
from stratoscope.errors import InputError
from stratoscope.pipelines.hallucination.config import SeparationSection
from stratoscope.pipelines.hallucination.inputs import check_questions
from stratoscope.pipelines.hallucination.outcome import against_random
from stratoscope.pipelines.hallucination.outcome import verdicts as layer_verdicts
from stratoscope.pipelines.search.eavss.checks import split_datasets
from stratoscope.pipelines.search.eavss.config import DefinitionSearchSection
from stratoscope.pipelines.search.eavss.report import candidate_label
from stratoscope.pipelines.search.eavss.result import DefinitionResult, definition_front, outcome_row, verdicts
from stratoscope.pipelines.search.eavss.trial import objective_value
from stratoscope.pipelines.search.eavss.verdict import title
from stratoscope.scoring import AnswerView, DatasetResult, Inference
from stratoscope.scoring.definition_outcome import DefinitionOutcome
from stratoscope.scoring.definition_space import DefinitionCandidate
from stratoscope.tables.eavss import DefinitionOutcomeRow, DefinitionTrialRow
from tests.scoring.test_layer_tests import answers, find, readings


def outcome(auroc: float, over_random: float) -> DefinitionOutcome:
    return DefinitionOutcome(
        dataset="d",
        auroc=auroc,
        ci_low=auroc - 0.02,
        ci_high=auroc + 0.02,
        random=auroc - over_random,
        over_random=over_random,
        over_random_low=over_random - 0.01,
        over_random_high=over_random + 0.01,
        detectable=0.02,
        share_of_random_below=0.9,
        num_layers=2.0,
        flagged_layers=(1, 2),
        epsilon=0.01,
    )


def test_least_over_random_is_the_least_gain_over_data_sets() -> None:
    outcomes = [outcome(0.6, 0.08), outcome(0.7, 0.02)]
    assert objective_value(outcomes, "least_over_random") == pytest.approx(0.02)
    assert objective_value(outcomes, "over_random") == pytest.approx(0.05)
    assert objective_value(outcomes, "auroc") == pytest.approx(0.65)


def test_a_difference_is_one_only_where_its_interval_leaves_0_out() -> None:
    assert against_random(0.01, 0.05, 0.02, 2.0, 200).startswith("better")
    assert against_random(-0.05, -0.01, 0.02, 2.0, 200).startswith("worse")
    assert "could show 0.020" in against_random(-0.01, 0.05, 0.02, 2.0, 200)


def test_nothing_flagged_and_everything_flagged_are_no_comparison() -> None:
    assert against_random(0.0, 0.0, None, 0.0, 200).startswith("no fold's training questions flag a layer")
    assert against_random(0.0, 0.0, None, 6.0, 200).startswith("random sets of as many layers are the same layers")


def test_the_title_of_a_search_that_flags_nothing_claims_nothing() -> None:
    none = replace(outcome(0.5, 0.0), num_layers=0.0, detectable=None, flagged_layers=())
    rows = [outcome_row("0", "chosen_on", own) for own in (none, outcome(0.7, 0.1))]
    assert title(rows[:1], 200, 3) == "Best of 3 settings: nothing can be compared with random layers"
    assert title(rows, 200, 3) == "Best of 3 settings: flagged layers beat random ones on d (of 2 data sets)"


def test_few_random_sets_of_layers_are_no_finding() -> None:
    assert against_random(0.01, 0.05, 0.02, 2.0, 19).startswith("better")
    text = against_random(0.01, 0.05, 0.02, 2.0, 2)
    assert text == ("no difference could be shown with 2 random sets of as many layers (the least possible p is 0.33)")
    assert text in list(verdicts(result("0", 0.7), [], random_sets=2))[1]


def test_a_test_that_could_flag_nothing_says_so() -> None:
    labels = answers(40, 0)
    (test,) = find("eavss", {"block": readings(labels, 3, 1)}, labels, Inference(draws=99, level=0.001))
    outcome = DatasetResult("d", AnswerView("answer", "elementwise", 0), "eavss", 40, (test,))
    assert list(layer_verdicts([], [outcome], random_sets=200)) == [
        "d, tap block: no layer is flagged (no difference could be shown with so few questions or randomisations "
        "(the least possible p is 0.01))."
    ]


def result(trial_id: str, objective: float, num_layers: float = 2.0) -> DefinitionResult:
    candidate = DefinitionCandidate("eavss", "block", "answer", "elementwise", 0, 1.0, 0.05)
    outcomes = (replace(outcome(objective, 0.1), num_layers=num_layers),)
    return DefinitionResult(trial_id, "grid", candidate, ("quantile", 0.2), objective, outcomes, 1.0, None)


def test_the_front_holds_trials_that_no_other_dominates_with_as_few_layers() -> None:
    failed = replace(result("2", 0.9), objective=float("-inf"), outcomes=(), error="no memory")
    results = [result("0", 0.7, 4.0), result("1", 0.6, 2.0), failed, result("3", 0.65, 5.0)]
    assert [r.trial_id for r in definition_front(results)] == ["0", "1"]
    done, error = DefinitionTrialRow.read(DefinitionTrialRow.table([results[0].row(), failed.row()]))
    assert (done.auroc, done.num_layers, done.epsilon, done.status) == (0.7, 4.0, 0.01, "done")
    assert (error.objective, error.auroc, error.epsilon, error.error) == (None, None, 0.2, "no memory")


def test_outcomes_become_rows_and_sentences() -> None:
    row = outcome_row("0", "confirmed_on", outcome(0.7, 0.1))
    (read,) = DefinitionOutcomeRow.read(DefinitionOutcomeRow.table([row]))
    assert (read.role, read.auroc, list(read.flagged_layers)) == ("confirmed_on", 0.7, [1, 2])
    lines = list(verdicts(result("0", 0.7), [], random_sets=200))
    assert lines[0].startswith("Best of the trials: eavss on tap block")
    assert "layers 1 2; AUROC 0.700" in lines[1]
    assert "name others in thresholds.confirm_on" in lines[2]
    assert "d (confirmed on)" in list(verdicts(result("0", 0.7), [outcome(0.6, 0.1)], random_sets=200))[2]


def test_data_sets_are_compared_on_unless_they_confirm() -> None:
    section = DefinitionSearchSection(confirm_on=["b"])
    enough = dict.fromkeys("abc", 40)
    assert split_datasets(section, ["a", "b", "c"], enough, "run") == (("a", "c"), ("b",))
    with pytest.raises(InputError, match="has no data set 'b'"):
        split_datasets(section, ["a"], enough, "run")
    with pytest.raises(InputError, match="leaves no data set"):
        split_datasets(section, ["b"], {"b": 40}, "run")


def test_data_sets_that_the_run_could_not_test_are_left_out_or_refused_before_any_trial() -> None:
    assert split_datasets(DefinitionSearchSection(), ["a", "b"], {"a": 40}, "run") == (("a",), ())
    for role in ("choose_on", "confirm_on"):
        with pytest.raises(InputError, match="could not test data set 'b'"):
            split_datasets(DefinitionSearchSection(**{role: ["b"]}), ["a", "b"], {"a": 40}, "run")


def test_more_folds_than_questions_are_refused() -> None:
    section = DefinitionSearchSection(separation={"folds": 41})
    with pytest.raises(InputError, match="folds 41 needs 41 questions, and data set 'a' has 40"):
        split_datasets(section, ["a"], {"a": 40}, "run")
    numbers = dict.fromkeys(("rows", "read", "empty", "unusable", "duplicates", "shots", "over_limit"), 0)
    few = DataSet("a", "pairs", **numbers, kept=40, missing_answers=0, wrong_origin="given")
    questions = QuestionSet(pa.table({}), (few,), "")
    check_questions(questions, SeparationSection(folds=40))
    with pytest.raises(InputError, match="40 usable questions, and a test inside 41 folds needs 41"):
        check_questions(questions, SeparationSection(folds=41))


def test_a_threshold_without_a_value_has_a_name() -> None:
    row = replace(result("0", 0.7).row(), epsilon=float("nan"), epsilon_kind="quantile")
    (read,) = DefinitionTrialRow.read(DefinitionTrialRow.table([row]))
    assert candidate_label(read) == "eavss, block, answer, elementwise, quantile, propensity 1, level 0.05"


def test_a_level_that_no_number_of_draws_can_reach_is_refused() -> None:
    with pytest.raises(ValidationError, match="no p-value of 499 draws is as low"):
        DefinitionSearchSection(levels=[0.001, 1.0])
    assert DefinitionSearchSection(levels=[0.002], draws=499).levels == [0.002]
