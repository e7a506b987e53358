"""Real DeepSpeed on one and two processes: the same loss, the same weights, frozen what is to be frozen."""

import shutil
from pathlib import Path

import pytest
import torch

from stratoscope.errors import RunError
from stratoscope.mitigation import (
    LossTerms,
    OptimizerSettings,
    Sharding,
    TrainableSpec,
    TrainingSettings,
    Weights,
    check_frozen,
    make_patch,
    patched_weights,
    read_trained,
)
from stratoscope.models import ModelCard, export_pruned, load_model
from tests.mitigation.spawned import run_training, settings

pytestmark = pytest.mark.long

CARD = ModelCard("tiny", "hand", [], trained="Two layers.")


def losses(rows: list[dict[str, float]]) -> list[float]:
    return [row["loss"] for row in rows]


@pytest.fixture(scope="module")
def alone(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, float]], Path]:
    folder = tmp_path_factory.mktemp("alone")
    return run_training(1, settings(tiny_model_folder), folder), folder


def test_two_workers_lose_what_one_loses(
    alone: tuple[list[dict[str, float]], Path], tiny_model_folder: Path, tmp_path: Path
) -> None:
    rows = run_training(2, settings(tiny_model_folder), tmp_path)
    assert losses(rows) == pytest.approx(losses(alone[0]), abs=1e-4)
    assert rows[-1]["gradient_norm"] == pytest.approx(alone[0][-1]["gradient_norm"], rel=1e-3)
    assert rows[0]["forgetting"] == pytest.approx(0, abs=1e-6)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_stopped_training_resumes_with_the_same_losses(
    alone: tuple[list[dict[str, float]], Path], tiny_model_folder: Path, tmp_path: Path
) -> None:
    stopped = run_training(1, settings(tiny_model_folder), tmp_path / "first", stop_after=2)
    assert losses(stopped) == losses(alone[0])[:2]
    rows = run_training(1, settings(tiny_model_folder), tmp_path / "second", start=tmp_path / "first")
    assert losses(rows) == pytest.approx(losses(alone[0]), abs=1e-6)
    # Those of the first start were not made again, or they would have taken another time.
    assert [row["tokens_per_s"] for row in rows[:2]] == [row["tokens_per_s"] for row in stopped]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_leaves_the_last_checkpoint(tiny_model_folder: Path, tmp_path: Path) -> None:
    # The first step leads far off, from where no loss can be computed.
    wild = settings(
        tiny_model_folder, optimizer=OptimizerSettings(1e30, 0.0, 0.0, clip=1.0, steps=6), checkpoint_every=1
    )
    rows = run_training(2, wild, tmp_path)
    assert [row["step"] for row in rows] == [1]
    assert rows[0]["loss"] < 100


def test_only_the_trained_layers_change(
    alone: tuple[list[dict[str, float]], Path], tiny_model_folder: Path, tmp_path: Path
) -> None:
    model = load_model(str(tiny_model_folder), head=True)
    ids = torch.arange(4, 20)[None]
    before = model.network(ids).logits
    patch = make_patch(read_trained(alone[1]), settings(tiny_model_folder))
    assert {name.split(".")[2] for name in patch} == {"1", "3"}
    with patched_weights(model, patch):
        assert not torch.equal(model.network(ids).logits, before)
        export_pruned(model, (), tmp_path / "trained", CARD)
    assert torch.equal(model.network(ids).logits, before)
    names = set(model.network.state_dict()) - set(patch)
    assert check_frozen(model, tmp_path / "trained", (1, 3), ()) == len(
        [name for name in names if not name.startswith("lm_head") or not model.network.config.tie_word_embeddings]
    )
    with pytest.raises(RunError, match="was frozen"):
        check_frozen(model, tmp_path / "trained", (1,), ())
    with pytest.raises(RunError, match="does not fit"), patched_weights(model, {"model.norm.weight": torch.ones(3)}):
        pass


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"sharding": Sharding(stage=2)},
        {"sharding": Sharding(stage=3)},
        {"sharding": Sharding(stage=1, gradient_checkpointing=True)},
    ],
    ids=["zero2", "zero3", "checkpointing"],
)
def test_partitioning_and_recomputation_change_no_loss_and_no_weight(
    changes: dict,
    alone: tuple[list[dict[str, float]], Path],
    tiny_model_folder: Path,
    tmp_path: Path,
) -> None:
    wanted = settings(tiny_model_folder, **changes)
    assert losses(run_training(2, wanted, tmp_path)) == pytest.approx(losses(alone[0]), abs=1e-4)
    expected = make_patch(read_trained(alone[1]), settings(tiny_model_folder))
    for name, tensor in make_patch(read_trained(tmp_path), wanted).items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-4, rtol=0)


@pytest.mark.slow
def test_accumulated_gradients_are_those_of_the_whole_step(tiny_model_folder: Path, tmp_path: Path) -> None:
    # Without the contrast, whose wrong answers are those of a micro-batch.
    terms = LossTerms(Weights(likelihood=1.0, margin=0.5, forgetting=1.0, text=0.3))
    whole = run_training(1, settings(tiny_model_folder, terms=terms), tmp_path / "whole")
    parts = run_training(2, settings(tiny_model_folder, terms=terms, micro_batches=2), tmp_path / "parts")
    assert losses(parts) == pytest.approx(losses(whole), abs=1e-4)


@pytest.mark.slow
def test_adapters_are_merged_into_the_layers_that_they_are_on(tiny_model_folder: Path, tmp_path: Path) -> None:
    wanted = settings(tiny_model_folder, trainable=TrainableSpec((1, 3), "lora", rank=4))
    one, two = run_training(1, wanted, tmp_path / "one"), run_training(2, wanted, tmp_path / "two")
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    model = load_model(str(tiny_model_folder), head=True)
    own = model.network.state_dict()
    patch = make_patch(read_trained(tmp_path / "two"), wanted)
    changed = {name for name, tensor in patch.items() if not torch.equal(tensor, own[name])}
    assert {name.split(".")[2] for name in changed} == {"1", "3"}
    assert all(name.endswith("proj.weight") for name in changed)
    assert {name.split(".")[-2] for name in read_trained(tmp_path / "two")} <= {"lora_A", "lora_B", "default"}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_pruned_model_recovers_towards_the_whole_one(dtype: str, tiny_model_folder: Path, tmp_path: Path) -> None:
    wanted = recovery_settings(tiny_model_folder, dtype)
    rows = run_training(2, wanted, tmp_path / "run")
    assert rows[-1]["forgetting"] < rows[0]["forgetting"]
    assert rows[-1]["hidden"] < rows[0]["hidden"]
    patch = make_patch(read_trained(tmp_path / "run"), wanted)
    assert {name.split(".")[2] for name in patch} == {"0", "1", "3"}
    model = load_model(str(tiny_model_folder), dtype=dtype, head=True)
    with patched_weights(model, patch):
        export_pruned(model, (2,), tmp_path / "recovered", CARD)
    assert check_frozen(model, tmp_path / "recovered", (0, 1, 3), (2,)) > 0
    assert load_model(str(tmp_path / "recovered"), head=True).network.config.num_hidden_layers == 3
    shutil.rmtree(tmp_path)


def recovery_settings(folder: Path, dtype: str) -> TrainingSettings:
    base = settings(folder)
    return settings(
        folder,
        loading=type(base.loading)(base.loading.source, "cpu", dtype, None, False, False),
        dropped=(2,),
        trainable=TrainableSpec((0, 1, 3)),
        # All of them in each step, so that steps can be compared.
        texts_per_step=10,
        terms=LossTerms(Weights(forgetting=1.0, hidden=0.5, text=0.3)),
    )
