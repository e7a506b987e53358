"""Lines about what a run read."""

from stratoscope.evaluation import TruncatedPrompts
from stratoscope.pipelines.reporting.data_notes import (
    nonfinite_notes,
    prompt_counts,
    question_counts,
    truncation_notes,
)
from stratoscope.results import Manifest


def test_counts_of_prompts_add_up() -> None:
    facts = {"prompts_read": 20, "num_prompts": 9, "prompts_empty": 4, "prompts_duplicate": 0}
    assert prompt_counts(facts) == "20 rows read: 9 kept, 4 empty, 0 duplicate, 7 beyond prompts.limit"


def test_counts_of_questions_name_all_that_is_left_out() -> None:
    dataset = {"read": 30, "kept": 20, "unusable": 3, "duplicates": 1}
    assert question_counts(dataset) == "30 questions read: 20 kept, 0 empty, 3 without usable answers, 1 duplicate"
    further = {"rows": 120, "empty": 1, "shots": 0, "over_limit": 5, "missing_answers": 2}
    assert question_counts(dataset | further) == (
        "30 questions read in 120 rows: 20 kept, 1 empty, 3 without usable answers, 1 duplicate, 5 beyond pairs.limit; "
        "2 missing answers were left out"
    )


def test_truncated_prompts_are_told_where_there_are_any() -> None:
    truncated = [TruncatedPrompts("sciq", 0, 60, 1024), TruncatedPrompts("boolq", 3, 1060, 1024)]
    assert truncation_notes(truncated) == [
        "boolq: 3 of 1,060 prompts are longer than the limit (1,024 tokens, the answer included) and have lost their "
        "beginning."
    ]


def test_activations_that_are_not_finite_are_a_warning_with_their_layers() -> None:
    manifest = Manifest(job="score", run_id="r", config={}, seed=0)
    manifest.counts["nonfinite"] = 0
    assert nonfinite_notes(manifest) == []
    manifest.counts["nonfinite"] = 1234
    manifest.facts["nonfinite_layers"] = {"block": [2, 3], "update": [2]}
    (note,) = nonfinite_notes(manifest)
    assert note.startswith("WARNING: 1,234 activations are NaN or infinite")
    assert "(block: layers 2 3; update: layers 2)" in note
