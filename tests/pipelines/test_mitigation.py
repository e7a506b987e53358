"""The parts of the mitigation pipeline that need neither Ray nor training."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from ray.tune.schedulers import TrialScheduler
from rich.console import Console

from stratoscope.digest import file_digest
from stratoscope.errors import InputError, RunError
from stratoscope.evaluation import Resampling, Score
from stratoscope.execution import Trial
from stratoscope.execution.tuning import _scheduler
from stratoscope.mitigation import BASE, TERMS, Variant, apply_point, fine_tuning_variants, parse_layers, resized_layers
from stratoscope.phases import announcing
from stratoscope.pipelines.mitigation import MitigationConfig
from stratoscope.pipelines.mitigation.config import TuneSection
from stratoscope.pipelines.mitigation.layers import LayerChoice
from stratoscope.pipelines.mitigation.outcome import (
    compare_models,
    layer_notes,
    outcome_tables,
    training_problems,
    variant_row,
)
from stratoscope.pipelines.mitigation.report import build_page, summary_table
from stratoscope.pipelines.mitigation.run import choose_workers
from stratoscope.pipelines.mitigation.samples import read_samples
from stratoscope.pipelines.mitigation.store import LayerSeparation, ModelScores, TrainedVariant, VariantStore
from stratoscope.pipelines.mitigation.train import _curves, curve_values
from stratoscope.pipelines.mitigation.tune import best_trial, plan_trials, read_search
from stratoscope.pipelines.runtime.cards import checkpoint_name
from stratoscope.pipelines.runtime.config import validate
from stratoscope.results import Manifest, Run, Storage, render, write_table
from stratoscope.tables.mitigation import TABLES, TextSampleRow, TrainingStepRow
from tests.mitigation.spawned import settings

VARIANT, PRUNED = Variant("flagged", 0, (1,)), Variant("given", 0, (0, 2), (1,))
STEP = {
    "step": 1.0,
    "loss": 2.0,
    "margin": 0.5,
    "gradient_norm": 1.0,
    "learning_rate": 1e-4,
    "tokens": 10.0,
    "tokens_per_s": 5.0,
    "peak_memory_bytes": 1e9,
    "peak_gpu_memory_bytes": 2e9,
}


def trained(variant: Variant, *, diverged: bool = False) -> TrainedVariant:
    return TrainedVariant(variant, variant.layers, 1e-4, [STEP], 100, diverged, 1.5)


def scores(first: list[float], second: list[float]) -> ModelScores:
    values = {"first": first, "second": second}
    return ModelScores(
        [Score(dataset, "mc1", str(i), v) for dataset, own in values.items() for i, v in enumerate(own)],
        [LayerSeparation("first", 0, 2, 0.1, 0.6)],
    )


def write_run(folder: Path, variant: Variant, models: dict[str, ModelScores]) -> Run:
    """Write the tables of a run as the job does, and the part of its manifest that a report reads."""
    outcome = compare_models([variant], models, Resampling(draws=200))
    storage = Storage(str(folder))
    for name, rows in outcome_tables(outcome, [trained(variant)], models, {}).items():
        write_table(storage, name, TABLES[name].table(rows))
    config = MitigationConfig(drop="1" if variant.dropped else None)
    manifest = Manifest("mitigation", "run", config.model_dump(mode="json"), 0)
    manifest.fingerprints = {"weights": "w"}
    manifest.facts = {
        "architecture": "llama", "num_layers": 3, "num_parameters": 10, "device": "cpu", "dtype": "float32",
        "workers": 1, "threads_per_worker": 1, "questions": {}, "texts": 0, "terms": {}, "flags": None,
        "recovery": bool(variant.dropped), "verdicts": outcome.verdicts, "models": [], "frozen_tensors": None,
    }  # fmt: skip
    return Run(storage, manifest)


@pytest.mark.parametrize("variant", [VARIANT, PRUNED], ids=["fine-tuning", "recovery"])
def test_a_base_of_0_is_not_defined_in_words_everywhere(variant: Variant, tmp_path: Path) -> None:
    models = {BASE: scores([0.0] * 8, [1.0] * 8), variant.key: scores([1.0] * 4 + [0.0] * 4, [0.5] * 8)}
    models[variant.pruned_key] = scores([0.0] * 8, [0.25] * 8)
    run = write_run(tmp_path, variant, models)
    first, *_ = run.manifest.facts["verdicts"]
    assert "first 0.000 -> 0.500 (+0.500, relative change not defined for a base of 0" in first
    rows = [r for r in run.table("evaluation").to_pylist() if (r["variant"], r["dataset"]) == (variant.name, "first")]
    assert [(r["retention"], r["retention_low"], r["difference"]) for r in rows] == [(None, None, 0.5)]
    assert {r["relative"] for r in run.table("comparison").to_pylist() if r["dataset"] == "first"} == {None}
    outcome = compare_models([variant], models, Resampling(draws=200))
    card = outcome.card_rows()[variant.key]
    assert card[0] == ["first", "mc1", "0.000", "0.500", "not defined (within noise)", "8"]
    page = build_page(run)
    shown = [str(cell) for section in page.sections for table in section.tables for row in table.rows for cell in row]
    texts = [*run.manifest.facts["verdicts"], *shown, *(cell for row in card for cell in row)]
    assert not [text for text in texts if "nan" in text or "inf" in text.replace("infoNCE", "")]
    assert "not defined" in shown
    assert len(render(page)) > 10_000
    console = Console(record=True, width=200)
    console.print(summary_table(run))
    assert "0.500" in console.export_text()


def test_a_model_whose_scores_are_no_numbers_is_reported_without_them(tmp_path: Path) -> None:
    models = {BASE: scores([1.0] * 4, [1.0] * 4), VARIANT.key: scores([math.nan] * 4, [1.0] * 4)}
    run = write_run(tmp_path, VARIANT, models)
    assert "first 1.000 -> not defined" in run.manifest.facts["verdicts"][0]
    (row,) = (r for r in run.table("comparison").to_pylist() if r["dataset"] == "first")
    assert (row["mean"], row["difference"], row["p_value"]) == (None, None, 1.0)
    assert len(render(build_page(run))) > 10_000


def test_a_verdict_on_few_items_says_that_they_could_show_nothing(tmp_path: Path) -> None:
    models = {BASE: scores([0.25] * 4, [0.0] * 8), VARIANT.key: scores([0.75] * 4, [1.0] * 8)}
    run = write_run(tmp_path, VARIANT, models)
    first, second = run.manifest.facts["verdicts"][0].split("; ")
    assert "(+200.0%, no difference could be shown with 4 items (the least possible p is 0.12))" in first
    assert "no difference" not in second
    assert "within noise" not in second
    rows = {row["dataset"]: row for row in run.table("comparison").to_pylist()}
    assert rows["first"]["p_value"] == rows["first"]["least_p"] == pytest.approx(2 / 2**4)


@pytest.mark.parametrize(
    ("ones", "others", "draws", "says"),
    [
        (8, 0, 400, "flagged is better than random by mc1"),
        (0, 8, 400, "flagged is worse than random by mc1"),
        (4, 4, 400, "flagged is not different, within noise, from random by mc1"),
        (2, 0, 400, "flagged and random: no difference could be shown with 4 items (the least possible p is 0.12) by"),
        (8, 0, 20, "no difference could be shown with so few draws (evaluation.bootstrap)"),
    ],
)
def test_variants_are_compared_in_words_as_far_as_the_items_allow(
    ones: int, others: int, draws: int, says: str
) -> None:
    other = Variant("random", 0, (2,))
    num_items = max(ones, others)
    first, second = ([1.0] * n + [0.0] * (num_items - n) for n in (ones, others))
    models = {BASE: scores(second, second), VARIANT.key: scores(first, first), other.key: scores(second, second)}
    *_, verdict = compare_models([VARIANT, other], models, Resampling(draws=draws)).verdicts
    assert says in verdict


@pytest.mark.parametrize("layers", ["1,2", "all"])
def test_layers_given_by_hand_are_called_given_and_not_flagged(layers: str) -> None:
    config = validate(MitigationConfig, {"layers": layers, "compare": ["flagged", "random", "all"]})
    given = parse_layers(layers, 4, "layers")
    choice = LayerChoice(config, 4, given, None)
    variants = choice.variants()
    assert [variant.name for variant in variants] == ["given", "random", "all"]
    assert variants[0].layers == given
    assert checkpoint_name("owner/model", variants[0].change) == "model-fine-tuned-given-0"
    assert [choice.chosen_by(variant) for variant in variants] == ["hand (given as numbers)", "chance", "taking all"]
    dropped = LayerChoice(validate(MitigationConfig, {"drop": "1"}), 4, None, (1,))
    assert dropped.chosen_by(dropped.variants()[0]) == "hand (given as numbers)"


def test_problems_name_the_variant() -> None:
    lines = list(training_problems([trained(VARIANT, diverged=True)], {PRUNED: "out of memory"}))
    assert lines[0].startswith("flagged-0 diverged")
    assert lines[1] == "given-0 failed and is in no comparison: out of memory."


def test_random_layers_that_include_flagged_ones_are_noted() -> None:
    def models(size: int) -> list[TrainedVariant]:
        variants = fine_tuning_variants(["flagged", "random", "all"], tuple(range(size)), 6, [0, 1])
        return [trained(variant) for variant in variants]

    assert list(layer_notes(models(3), 6)) == []
    (note,) = layer_notes(models(4), 6)
    assert "it trains 4 of 6 layers, and only 2 are not flagged or given" in note


def test_every_column_is_described_and_terms_have_their_columns() -> None:
    for name, row_type in TABLES.items():
        assert row_type.__doc__, name
        assert all(column.meaning for column in row_type.columns()), name
    names = [column.name for column in TrainingStepRow.columns()]
    assert tuple(names[4:10]) == TERMS
    assert TABLES["variants"].schema().field("layers").type == pa.list_(pa.int32())


def test_stored_parts_are_read_as_they_were_written(tmp_path: Path) -> None:
    store = VariantStore(Storage(str(tmp_path)))
    assert store.read_training(VARIANT) is None
    assert store.read_scores(VARIANT.key) is None
    storage = Storage(str(tmp_path))
    storage.write(VariantStore.patch(VARIANT), b"tensors")
    store.write_training(trained(VARIANT))
    assert store.read_training(VARIANT) == trained(VARIANT)
    written = scores([1.0, math.nan], [0.5])
    store.write_scores(VARIANT.key, written)
    read = store.read_scores(VARIANT.key)
    assert read is not None
    assert read.separations == written.separations
    assert [s.item_id for s in read.scores] == [s.item_id for s in written.scores]
    assert math.isnan(read.scores[1].value)
    store.clear()
    assert store.read_training(VARIANT) is None


@pytest.mark.parametrize("damaged", ["flagged-0.json", "flagged-0.safetensors"])
def test_a_damaged_training_is_removed_with_its_evaluation(damaged: str, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    store = VariantStore(storage)
    storage.write(VariantStore.patch(VARIANT), b"tensors")
    whole = replace(trained(VARIANT), digest=file_digest(tmp_path / VariantStore.patch(VARIANT)))
    store.write_training(whole)
    store.write_scores(VARIANT.key, scores([1.0], [0.5]))
    assert store.read_training(VARIANT) == whole
    storage.write(f"variants/{damaged}", b"{ensors")
    lines: list[str] = []
    with announcing("mitigation", lines.append):
        assert store.read_training(VARIANT) is None
    assert any(damaged in line and "the training is repeated" in line for line in lines)
    assert store.read_scores(VARIANT.key) is None
    assert storage.names("variants") == ["flagged-0.separation.parquet"]


def test_damaged_samples_and_searches_are_removed_so_that_they_are_made_again(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert (read_samples(storage), read_search(storage, "flagged")) == (None, None)
    rows = [TextSampleRow(sample=0, tokens=(1, 2), text="x")]
    write_table(storage, "samples", TextSampleRow.table(rows))
    storage.write("tuned-flagged.json", b'{"point": {}, "trials": []}')
    assert [row.text for row in read_samples(storage) or []] == ["x"]
    assert read_search(storage, "flagged") == {"point": {}, "trials": []}
    lines: list[str] = []
    for name in ("samples.parquet", "tuned-flagged.json"):
        storage.write(name, storage.read(name)[:10])
    with announcing("mitigation", lines.append):
        assert (read_samples(storage), read_search(storage, "flagged")) == (None, None)
    assert ["generated again" in line or "search is repeated" in line for line in lines] == [True, True]
    assert storage.names() == []


def test_the_search_takes_all_points_or_starts_from_the_first() -> None:
    section = TuneSection(num_samples=4, learning_rates=[1e-4, 1e-3], temperatures=[0.1, 0.5], num_layers=[1, 2])
    assert section.to_space(with_layers=True).size == 8
    space = section.to_space(with_layers=False)
    points = space.points()
    assert [(p["learning_rate"], p["temperature"]) for p in points] == [
        (1e-4, 0.1), (1e-3, 0.1), (1e-4, 0.5), (1e-3, 0.5),
    ]  # fmt: skip
    assert plan_trials(space, section, 1, 0).points == points
    few = plan_trials(space, section.model_copy(update={"num_samples": 3}), 1, 0)
    assert (few.points, few.num_samples) == (points[:1], 3)


def test_the_best_trial_was_not_stopped_early() -> None:
    trials = [
        Trial({"x": 1}, {"objective": 0.9, "rung": 1}, None),
        Trial({"x": 2}, {"objective": 0.5, "rung": 2}, None),
        Trial({"x": 3}, {"objective": 0.6, "rung": 2}, None),
        Trial({"x": 4}, {"objective": 0.7, "rung": 2}, "lost"),
    ]
    assert best_trial(trials) is trials[2]
    assert best_trial(trials[3:]) is None


def test_a_training_that_starts_anew_is_judged_by_its_own_rungs() -> None:
    """B loses a worker after its second rung, and is worse than A at the end."""
    section = validate(MitigationConfig, {"layers": "1", "tune": {"num_samples": 2, "rungs": 4}}).tune
    scheduler = _scheduler(plan_trials(section.to_space(with_layers=False), section, 1, 0))

    def run(name: str, objectives: Sequence[tuple[int, float]]) -> Trial:
        trial, last = SimpleNamespace(trial_id=name), {}
        scheduler.on_trial_add(None, trial)
        for iteration, (rung, objective) in enumerate(objectives, start=1):
            last = {"training_iteration": iteration, "rung": rung, "objective": objective}
            if scheduler.on_trial_result(None, trial, last) == TrialScheduler.STOP:
                break
        scheduler.on_trial_complete(None, trial, last)
        return Trial({"name": name}, last, None)

    steady = run("A", list(enumerate((0.50, 0.55, 0.56, 0.57), start=1)))
    restarted = run("B", [(1, 0.60), (2, 0.66), (1, 0.60), (2, 0.66), (3, 0.40), (4, 0.30)])
    assert (restarted.metrics["rung"], restarted.metrics["objective"]) == (4, 0.30)
    assert best_trial([steady, restarted]) is steady


def test_a_trial_whose_objective_is_not_finite_is_not_chosen() -> None:
    trials = [
        Trial({"learning_rate": rate}, {"objective": objective, "rung": 2}, None)
        for rate, objective in ((0.3, math.nan), (1e-4, 0.6), (3e-5, 0.5), (1.0, math.inf))
    ]
    assert best_trial(trials) is trials[1]
    assert best_trial(trials[::-1]) is trials[1]
    assert best_trial([trials[0], trials[3]]) is None


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"drop": "1", "tune": {"temperatures": [0.1, 0.2]}},
            r"tune\.temperatures: objective\.contrastive is disabled",
        ),
        ({"drop": "1", "tune": {"num_layers": [1, 2]}}, r"tune\.num_layers: drop decides which layers are trained"),
        (
            {"compare": ["all"], "tune": {"num_layers": [1, 2]}},
            r"tune\.num_layers: no variant of compare has flagged layers",
        ),
    ],
)
def test_a_search_over_a_setting_that_has_no_effect_is_refused(fields: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        validate(MitigationConfig, fields)
    fields |= {"drop": None, "compare": ["all", "random"]}
    assert validate(MitigationConfig, fields).tune.to_space(with_layers=True).size > 1


def test_a_point_changes_its_settings_and_nothing_else(tiny_model_folder: Path) -> None:
    before = settings(tiny_model_folder)

    def layers(number: int | None) -> tuple[int, ...]:
        return resized_layers(VARIANT, {2: (1, 2)}, 4, number)

    after = apply_point(before, {"learning_rate": 0.5, "contrastive": 2.0, "num_layers": 2}, layers)
    assert after.optimizer.learning_rate == 0.5
    assert after.terms.weights.contrastive == 2.0
    assert after.terms.temperature == before.terms.temperature
    assert after.trainable.layers == (1, 2)
    assert apply_point(before, {}, lambda _: before.trainable.layers) == before


def test_curves_are_grouped_and_leave_out_what_is_no_curve() -> None:
    assert curve_values({"step": 1.0, "tokens": 3.0, "loss": 2.0, "learning_rate": 0.1}) == {
        "loss/loss": 2.0,
        "training/learning_rate": 0.1,
    }


def test_curves_of_every_start_are_kept_also_where_the_training_was_stopped(tmp_path: Path) -> None:
    for storage in (Storage(str(tmp_path)), Storage(f"memory://{tmp_path.name}/run")):
        with suppress(RunError), _curves(storage, "flagged-0") as draw:
            draw({"step": 1, "loss": 1.0})
            raise RunError("stopped by SIGTERM")
        (first,) = storage.names("tensorboard/flagged-0")
        with _curves(storage, "flagged-0") as draw:
            draw({"step": 2, "loss": 0.5})
        assert len(storage.names("tensorboard/flagged-0")) == 2
        assert first in storage.names("tensorboard/flagged-0")


def test_checkpoints_keep_their_names() -> None:
    assert checkpoint_name("owner/model", VARIANT.change) == "model-fine-tuned-flagged-0"
    assert checkpoint_name("folder/model.gguf", PRUNED.change) == "model-recovered-given-0"


def test_workers_fit_the_machine_and_the_step() -> None:
    config = validate(MitigationConfig, {"train": {"questions": 4, "texts": 4}})
    assert choose_workers(config, {"CPU": 16.0}, local=True).number == 2
    on_gpus = choose_workers(config, {"CPU": 16.0, "GPU": 8.0}, local=True)
    assert (on_gpus.number, on_gpus.gpus) == (4, 1.0)
    wanted = validate(MitigationConfig, {"train": {"num_workers": 3}})
    with pytest.raises(InputError, match="3 workers of 1 CPUs are more than the 2 of this machine"):
        choose_workers(wanted, {"CPU": 2.0}, local=True)
    assert choose_workers(wanted, {"CPU": 2.0}, local=False).number == 3


def test_a_trained_variant_states_its_tokens_and_the_seconds_of_its_steps() -> None:
    steps = [STEP | {"step": 1.0}, STEP | {"step": 2.0, "tokens": 30.0, "tokens_per_s": 10.0}]
    row = variant_row(replace(trained(VARIANT), steps=steps))
    assert (row.tokens, row.step_seconds, row.seconds) == (40, 5.0, 1.5)


def test_a_trained_variant_states_the_most_memory_of_all_starts_on_the_host_and_on_gpus() -> None:
    resumed = STEP | {"peak_memory_bytes": 5e8, "peak_gpu_memory_bytes": 3e9}
    row = variant_row(replace(trained(VARIANT), steps=[STEP, resumed]))
    assert (row.peak_memory_bytes, row.peak_gpu_memory_bytes) == (10**9, 3 * 10**9)
    earlier = {name: value for name, value in STEP.items() if name != "peak_gpu_memory_bytes"}
    assert variant_row(replace(trained(VARIANT), steps=[earlier, resumed])).peak_gpu_memory_bytes is None
