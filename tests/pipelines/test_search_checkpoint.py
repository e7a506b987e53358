"""The checkpoint of a search, and the mark by which a resumed run recognises it."""

import json
from pathlib import Path
from typing import Any

import pytest

from stratoscope.errors import InputError
from stratoscope.models import ModelCard
from stratoscope.models.speed import SpeedComparison
from stratoscope.pipelines.search.pruning.checkpoint import MARK, export_chosen, run_mark
from stratoscope.pipelines.search.pruning.checks import check_path
from stratoscope.pruning import TrialResult
from stratoscope.results import Manifest, Run, Storage
from tests.pruning.examples import evaluation

SPEED = SpeedComparison("forward pass", "tokens/s", 1.0, 2.0, 1.9, 1.5, 2.5)
CHOSEN = TrialResult("0000", "swap", None, (1, 2), evaluation(0.9, (1, 2)), 0.9, 0.9, 1.0, "done")


class Exporter:
    """Writes the name of a model in place of its weights."""

    def __init__(self, weights: str) -> None:
        self.weights = weights

    def call(self, _method: str, _dropped: Any, url: str, _card: ModelCard, mark: dict[str, Any]) -> list[Any]:
        with Storage(url).writing_folder(last=MARK) as folder:
            (folder / "weights").write_text(self.weights)
            (folder / MARK).write_text(json.dumps({**mark, "speed": []}))
        return []


def export(output: Path, path: Path, weights: str, started: str) -> str:
    """Export the chosen set of a run, and return the weights in the folder."""
    manifest = Manifest("search", "nightly", {}, 0)
    manifest.started, manifest.fingerprints = started, {"weights": weights}
    run = Run(Storage(str(output)), manifest)
    export_chosen(Exporter(weights), run, CHOSEN, [], SPEED, source=weights, path=str(path))
    return (path / "weights").read_text()


def test_an_export_is_not_repeated_for_the_same_start_and_weights_alone(tmp_path: Path) -> None:
    path = tmp_path / "published"
    assert export(tmp_path, path, "Monday", "1") == "Monday"
    (path / "weights").write_text("kept")
    assert export(tmp_path, path, "Monday", "1") == "kept"
    assert export(tmp_path, path, "Tuesday", "1") == "Tuesday"
    (path / "weights").write_text("old")
    assert export(tmp_path, path, "Tuesday", "2") == "Tuesday"


def test_the_checkpoint_of_another_start_is_refused(tmp_path: Path) -> None:
    manifest = Manifest("search", "nightly", {}, 0)
    manifest.started = "1"
    export(tmp_path, tmp_path / "published", "Monday", "1")
    check_path(str(tmp_path / "published"), run_mark(manifest))
    check_path(str(tmp_path / "other"), run_mark(manifest))
    manifest.started = "2"
    with pytest.raises(InputError, match="holds the checkpoint of another run \\('nightly', started 1\\)"):
        check_path(str(tmp_path / "published"), run_mark(manifest))


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("{}", "another run"),
        ("[]", "is no JSON object"),
        ('{"run', "truncated or damaged"),
        ("", "truncated or damaged"),
    ],
)
def test_an_unreadable_or_foreign_mark_is_refused(mark: str, message: str, tmp_path: Path) -> None:
    (tmp_path / MARK).write_text(mark)
    with pytest.raises(InputError, match=message):
        check_path(str(tmp_path), run_mark(Manifest("search", "nightly", {}, 0)))
