"""The layers that other runs give to a mitigation run."""

from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from stratoscope.errors import InputError
from stratoscope.execution import WorkerResources
from stratoscope.models import resolve_source, weights_fingerprint
from stratoscope.pipelines.mitigation import MitigationConfig, MitigationJob
from stratoscope.pipelines.mitigation.config import FlagsSection
from stratoscope.pipelines.mitigation.dataset import TrainingInputs
from stratoscope.pipelines.mitigation.layers import LayerChoice, flagged_layers
from stratoscope.pipelines.runtime.config import validate
from stratoscope.results import Manifest, Run, RunFolder, Storage, write_table
from tests.jobs.reacting import pairs_file
from tests.models.test_positions import LIMIT, PHI3, save

__all__ = ["pairs_file"]


def write_flags(output: Path, model: Path, layer: int) -> None:
    """Write a finished hallucination run that flags one layer, in the place of an earlier one of the same name."""
    folder = RunFolder(str(output), "hallucination", "flags")
    manifest = Manifest("hallucination", "flags", {}, 0, status="done", facts={"num_layers": 4})
    manifest.fingerprints = {"weights": weights_fingerprint(resolve_source(str(model)))}
    folder.write_manifest(manifest)
    rows = [
        {"tap": "update", "definition": "eavss", "dataset": "a", "layer": i, "flagged": i == layer, "propensity": 1.0}
        for i in range(4)
    ]
    write_table(folder.storage, "hallucination_scores", pa.Table.from_pylist(rows))
    write_table(folder.storage, "answers", pa.table({"question_id": ["none"]}))


def test_the_layers_that_another_run_gives_are_in_the_identity(
    tiny_model_folder: Path, pairs_file: Path, prompts_file: Path, tmp_path: Path
) -> None:
    fields = {
        "output": str(tmp_path),
        "model": {"source": str(tiny_model_folder)},
        "layers": "flags",
        "flags": {"num_layers": None},
        "pairs": {"source": [str(pairs_file)]},
        "texts": {"source": [str(prompts_file)], "limit": 4},
        "evaluation": {"limit": 4},
    }

    def fingerprints(layer: int) -> dict[str, str]:
        write_flags(tmp_path, tiny_model_folder, layer)
        job = MitigationJob(validate(MitigationConfig, fields))
        job.prepare()
        assert job.choice.variants()[0].layers == (layer,)
        workers = WorkerResources(1, 1, 0)
        inputs = TrainingInputs(job.config, job.source, 4, "float32", job.data, 64, 64, workers, job.choice.flagged, 64)
        job._record_fingerprints(inputs)
        return job.context.manifest.fingerprints

    first, second = fingerprints(0), fingerprints(3)
    assert first == fingerprints(0)
    assert {name for name in first if first[name] != second[name]} == {"layers"}


def test_dropped_layers_and_those_of_the_search_are_in_the_fingerprint(tmp_path: Path, tiny_model_folder: Path) -> None:
    recovery = validate(MitigationConfig, {"drop": "0"})
    assert len({LayerChoice(recovery, 4, None, dropped).fingerprint for dropped in ((0,), (1,))}) == 2
    search = {"layers": "flags", "flags": {"num_layers": 4}, "tune": {"num_samples": 2, "num_layers": [1, 2]}}
    fingerprints = set()
    for layer in (0, 3):
        write_flags(tmp_path, tiny_model_folder, layer)
        run = Run(RunFolder(str(tmp_path), "hallucination", "flags").storage, SimpleNamespace(facts={"num_layers": 4}))
        choice = LayerChoice(validate(MitigationConfig, search), 4, None, None, run)
        assert choice.variants()[0].layers == (0, 1, 2, 3)
        fingerprints.add(choice.fingerprint)
    assert len(fingerprints) == 2


def test_layers_of_a_hallucination_run_are_read_by_tap_definition_and_data_set(tmp_path: Path) -> None:
    rows = [
        {
            "tap": tap,
            "definition": "eavss",
            "part": "answer",
            "dataset": dataset,
            "layer": layer,
            "flagged": layer == flag,
            "propensity": 1.0,
        }
        for tap, dataset, flag in (("block", "a", 0), ("block", "b", 1), ("update", "a", 2), ("update", "b", 2))
        for layer in range(3)
    ]
    run = Run(Storage(str(tmp_path)), SimpleNamespace(facts={"num_layers": 3}))
    write_table(run.storage, "hallucination_scores", pa.Table.from_pylist(rows))
    everything = FlagsSection(num_layers=None)
    assert flagged_layers(run, everything) == (0, 1)
    assert flagged_layers(run, FlagsSection(num_layers=None, tap="update")) == (2,)
    assert flagged_layers(run, FlagsSection(num_layers=None, datasets=["b"])) == (1,)
    with pytest.raises(InputError, match=r"flags.tap: the run .* has none called 'mlp'; it has block, update"):
        flagged_layers(run, FlagsSection(tap="mlp"))
    with pytest.raises(InputError, match=r"flags.datasets: .* has none called 'c'; it has a, b"):
        flagged_layers(run, FlagsSection(datasets=["c"]))


def test_the_part_that_flags_the_layers_is_named_if_there_are_several(tmp_path: Path) -> None:
    rows = [
        {"tap": "block", "definition": "eavss", "part": part, "dataset": "a", "layer": i, "flagged": i == flag}
        | {"propensity": 1.0}
        for part, flag in (("answer", 0), ("last", 2))
        for i in range(3)
    ]
    run = Run(Storage(str(tmp_path)), SimpleNamespace(facts={"num_layers": 3}))
    write_table(run.storage, "hallucination_scores", pa.Table.from_pylist(rows))
    assert flagged_layers(run, FlagsSection(num_layers=None, part="last")) == (2,)
    with pytest.raises(InputError, match=r"flags.part: the run .* contrasts several parts \(answer, last\); name one"):
        flagged_layers(run, FlagsSection(num_layers=None))
    with pytest.raises(InputError, match=r"flags.part: .* has none called 'change'; it has answer, last"):
        flagged_layers(run, FlagsSection(part="change"))


def test_sequences_of_a_training_are_scaled_alike(
    tiny_model_folder: Path, pairs_file: Path, prompts_file: Path, tmp_path: Path
) -> None:
    longest = {}
    for model in (str(tiny_model_folder), save(PHI3, tmp_path / "phi3")):
        fields = {
            "output": str(tmp_path),
            "model": {"source": model},
            "drop": "0",
            "pairs": {"source": [str(pairs_file)]},
            "texts": {"source": [str(prompts_file)], "limit": 4},
            "evaluation": {"limit": 4},
        }
        job = MitigationJob(validate(MitigationConfig, fields))
        job.prepare()
        longest[model] = job.max_length
    assert list(longest.values()) == [64, LIMIT]
