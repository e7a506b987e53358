"""Searches for layers to prune that are refused before a model is loaded."""

from pathlib import Path

import pytest

from stratoscope.cli import main
from tests.evaluation.filtered import write_filtered_task


def refusal(capsys: pytest.CaptureFixture[str], model: Path, output: Path, *options: str) -> str:
    """Return the one line with which a dry run is refused."""
    given = ["--model.source", str(model), "--output", str(output), "--evaluation.tasks", "passages", *options]
    code = main(["search", "--dry_run", *given])
    error = capsys.readouterr().err
    assert code == 2, error
    assert error.count("\n") == 1
    return error


def test_answers_that_leave_no_room_for_a_prompt_are_refused(
    tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = Path(write_filtered_task(tmp_path, ["w1 w2"] * 20, ["w3"] * 20))
    task.write_text(task.read_text().replace("max_gen_toks: 6", "max_gen_toks: 64"))
    error = refusal(capsys, tiny_model_folder, tmp_path, "--evaluation.tasks", str(task), "--space.ratios", "0.5")
    assert "words generates up to 64 tokens" in error


@pytest.mark.parametrize(("algorithm", "least"), [("beam", 6), ("greedy_from_scores", 4)])
def test_a_budget_that_reaches_no_set_of_the_size_is_refused(
    algorithm: str, least: int, tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--search.algorithm", algorithm, "--search.num_samples", "3", "--space.ratios", "0.5"]
    error = refusal(capsys, tiny_model_folder, tmp_path, *options)
    assert f"too small for {algorithm} to reach the 2 layers of space.ratios 0.5; give at least {least}" in error
