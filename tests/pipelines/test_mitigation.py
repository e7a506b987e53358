"""The parts of the mitigation pipeline that need neither Ray nor training."""

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from rich.console import Console

from stratoscope.digest import file_digest
from stratoscope.errors import InputError, RunError
from stratoscope.evaluation import Resampling, Score, TextSampling
from stratoscope.execution import Trial, WorkerResources
from stratoscope.mitigation import BASE, TERMS, Variant, apply_point, fine_tuning_variants, parse_layers, resized_layers
from stratoscope.models import describe_model, encode_text, load_tokenizer, resolve_source, weights_fingerprint
from stratoscope.phases import announcing
from stratoscope.pipelines.mitigation import MitigationConfig, MitigationJob
from stratoscope.pipelines.mitigation.config import FlagsSection, TuneSection
from stratoscope.pipelines.mitigation.dataset import TrainingInputs, load_data
from stratoscope.pipelines.mitigation.estimate import estimate, need
from stratoscope.pipelines.mitigation.layers import LayerChoice, flagged_layers
from stratoscope.pipelines.mitigation.outcome import (
    compare_models,
    layer_notes,
    outcome_tables,
    training_problems,
    variant_row,
)
from stratoscope.pipelines.mitigation.report import build_page, summary_table
from stratoscope.pipelines.mitigation.run import choose_workers, read_counts
from stratoscope.pipelines.mitigation.samples import SamplerSettings, read_samples, sample_rows, with_samples
from stratoscope.pipelines.mitigation.store import LayerSeparation, ModelScores, TrainedVariant, VariantStore
from stratoscope.pipelines.mitigation.train import _curves, curve_values
from stratoscope.pipelines.mitigation.tune import best_trial, plan_trials, read_search
from stratoscope.pipelines.reporting.data_notes import part_counts
from stratoscope.pipelines.runtime.cards import checkpoint_name
from stratoscope.pipelines.runtime.command_line import parse_command_line
from stratoscope.pipelines.runtime.config import validate
from stratoscope.results import Manifest, Run, RunFolder, Storage, render, write_table
from stratoscope.tables.mitigation import TABLES, TextSampleRow, TrainingStepRow
from tests.jobs.reacting import pairs_file
from tests.mitigation.spawned import settings

__all__ = ["pairs_file"]
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
        Trial({"x": 1}, {"objective": 0.9, "training_iteration": 1}, None),
        Trial({"x": 2}, {"objective": 0.5, "training_iteration": 2}, None),
        Trial({"x": 3}, {"objective": 0.6, "training_iteration": 2}, None),
        Trial({"x": 4}, {"objective": 0.7, "training_iteration": 2}, "lost"),
    ]
    assert best_trial(trials) is trials[2]
    assert best_trial(trials[3:]) is None


def test_a_trial_whose_objective_is_not_finite_is_not_chosen() -> None:
    trials = [
        Trial({"learning_rate": rate}, {"objective": objective, "training_iteration": 2}, None)
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


def test_no_question_or_text_is_in_two_parts(tiny_model_folder: Path, pairs_file: Path, prompts_file: Path) -> None:
    fields = {
        "pairs": {"source": [str(pairs_file)], "limit": 10},
        "texts": {"source": [str(prompts_file)], "limit": 20, "max_tokens": 12},
        "evaluation": {"limit": 6, "only": ["second"], "text": str(prompts_file)},
        "tune": {"num_samples": 1, "limit": 4},
    }
    tokenizer = load_tokenizer(resolve_source(str(tiny_model_folder)))
    config = validate(MitigationConfig, fields)
    first = load_data(config, tokenizer, frozenset(), 64)
    assert first.counts["first"] == {"trained": 10, "validated": 4, "held_out": 6, "left_out": 0}
    assert first.counts["second"] == {"trained": 0, "validated": 0, "held_out": 6, "left_out": 0}
    validation, held_out = ({q.question_id for q in part.questions} for part in (first.validation, first.held_out))
    assert not held_out & (validation | first.used)
    assert validation <= first.used
    assert not {text.text_id for text in first.held_out.texts} & first.used
    seen = frozenset(list(held_out)[:3])
    again = load_data(config, tokenizer, seen, 64)
    assert not {q.question_id for q in again.held_out.questions} & seen
    assert again.fingerprint != first.fingerprint
    assert {name: len(examples) for name, examples in again.held_out.separation.items()} == {"first": 6, "second": 6}


def write_questions(path: Path, prompts: Sequence[str]) -> str:
    """Write questions whose answers differ, also where they have the same prompt."""
    rows = [{"question": prompt, "right": [f"w{i}"], "wrong": [f"w{i + 1}"]} for i, prompt in enumerate(prompts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_no_held_out_question_is_trained_on_from_another_row_or_data_set(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    prompts = [f"w{i // 2} w3 w{i // 2 % 5}" for i in range(80)]
    sources = [write_questions(tmp_path / f"{name}.jsonl", prompts[:n]) for name, n in (("every", 80), ("hard", 20))]
    fields = {
        "layers": "1",
        "pairs": {"source": sources, "limit": 30},
        "evaluation": {"limit": 10, "only": ["hard"]},
        "texts": {"source": ["boolq"], "limit": 4},
        "tune": {"num_samples": 1, "limit": 4},
    }
    tokenizer = load_tokenizer(resolve_source(str(tiny_model_folder)))
    data = load_data(validate(MitigationConfig, fields), tokenizer, frozenset(), 64)
    evaluated = (*data.held_out.questions, *data.validation.questions)
    trained = {example.question for example in data.corpus.questions}
    assert len(trained) > 10
    assert not trained & {tuple(encode_text(tokenizer, question.prompt)) for question in evaluated}
    assert not {q.prompt for q in data.held_out.questions} & {q.prompt for q in data.validation.questions}
    assert not {q.question_id for q in data.held_out.questions} & data.used


def test_questions_that_are_too_long_are_not_counted_as_trained(tiny_model_folder: Path, tmp_path: Path) -> None:
    long = " ".join(f"w{j}" for j in range(90))
    prompts = [f"w{i} {long if i % 2 else ''} w{i // 3}" for i in range(60)]
    fields = {
        "layers": "1",
        "pairs": {"source": [write_questions(tmp_path / "mixed.jsonl", prompts)], "limit": 40},
        "evaluation": {"limit": 8},
        "objective": {"forgetting": 0},
    }
    tokenizer = load_tokenizer(resolve_source(str(tiny_model_folder)))
    data = load_data(validate(MitigationConfig, fields), tokenizer, frozenset(), 64)
    counts = data.counts["mixed"]
    assert 0 < counts["trained"] == len(data.corpus.questions) < 40
    assert counts["trained"] + counts["left_out"] == 40
    says = f", {counts['left_out']} left out of training (longer than the model's limit"
    assert says in part_counts(counts)
    assert says in read_counts({"datasets": [asdict(each) for each in data.datasets], "questions": data.counts})[0]
    fields["pairs"]["source"] = [write_questions(tmp_path / "long.jsonl", prompts[1::2])]
    with pytest.raises(InputError, match="no question is left for training, 22 left out of training"):
        load_data(validate(MitigationConfig, fields), tokenizer, frozenset(), 64)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"texts": {"source": []}}, "texts.source: there are no texts to train on"),
        (
            {"samples": {"number": 4}, "objective": {"forgetting": 0}},
            "samples.number: no term of the objective is computed on texts",
        ),
        ({"texts": {"source": ["sciq", "sst2"], "limit": [4, 5, 6]}}, "2 sources and 3 numbers in limit"),
        ({"texts": {"limit": [0]}}, "texts.limit"),
        ({"samples": {"number": 4, "max_tokens": 1}}, "samples.max_tokens"),
        ({"samples": {"number": 4, "temperature": 0}}, "samples.temperature"),
    ],
)
def test_texts_that_cannot_be_are_refused(fields: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        validate(MitigationConfig, fields)


def test_each_source_of_texts_may_have_its_own_limit(tiny_model_folder: Path, prompts_file: Path) -> None:
    other = prompts_file.with_name("others.txt")
    other.write_text("".join(f"w{i} w{i + 1} w3\n" for i in range(40)), encoding="utf-8")
    tokenizer = load_tokenizer(resolve_source(str(tiny_model_folder)))
    fields = {"drop": "1", "texts": {"source": [str(prompts_file), str(other)], "limit": [7, 20]}}
    data = load_data(validate(MitigationConfig, fields), tokenizer, frozenset(), 64)
    assert [source.num_prompts for source in data.sources] == [7, 20]
    fields["texts"]["limit"] = 9  # as configurations of earlier versions have it
    config = validate(MitigationConfig, fields)
    assert config.texts.limits == [9, 9]
    for arguments, limits in ((["null"], [None, None]), (["3,4"], [3, 4]), (["5"], [5, 5])):
        given = ["--texts.source", "sciq,sst2", "--texts.limit", *arguments]
        assert parse_command_line(MitigationConfig, "mitigation", given).texts.limits == limits


def test_generated_texts_are_for_training_and_a_part_of_them_for_the_search(tiny_model_folder: Path) -> None:
    tokenizer = load_tokenizer(resolve_source(str(tiny_model_folder)))
    fields = {
        "drop": "1",
        "texts": {"source": [], "max_tokens": 12},
        "samples": {"number": 20},
        "tune": {"num_samples": 1, "limit": 4},
    }
    config = validate(MitigationConfig, fields)
    assert (config.num_samples, config.tokens_per_sample) == (24, 12)
    data = load_data(config, tokenizer, frozenset(), 64)
    assert not data.corpus.texts
    facts = describe_model(resolve_source(str(tiny_model_folder)))
    memory = need(config, facts, data, 3, 128)
    plan = dict(estimate(config, facts, data, memory))
    assert plan["samples"].startswith(
        "24 texts of at most 12 tokens that the model generates, 4 of them for the search"
    )
    assert "about 48 tokens a step" in plan["work"]
    samples = [(i, i + 1) for i in range(24)]
    whole = data.with_samples(samples, config.num_validation_texts)
    assert whole.corpus.texts == tuple(samples[4:])
    assert [text.ids for text in whole.validation.texts] == samples[:4]
    assert whole.num_samples == 20
    without = validate(MitigationConfig, fields | {"tune": {}})
    assert without.num_samples == 20
    assert data.with_samples(samples, 0).num_samples == 24


def test_a_resumed_run_uses_the_texts_that_were_generated_before(tiny_model_folder: Path, tmp_path: Path) -> None:
    source = resolve_source(str(tiny_model_folder))
    config = validate(MitigationConfig, {"drop": "1", "texts": {"source": []}, "samples": {"number": 8}})
    settings = SamplerSettings(config.model.to_loading(source, 0), TextSampling(8, 8, seed=5), num_threads=1)
    rows = sample_rows(settings)
    assert [row.sample for row in rows] == [*range(len(rows))] != []
    assert all(row.text.split() == [f"w{token - 4}" for token in row.tokens if token > 3] for row in rows)
    storage = Storage(str(tmp_path))
    write_table(storage, "samples", TABLES["samples"].table(rows))
    data = load_data(config, load_tokenizer(source), frozenset(), 64)
    inputs = TrainingInputs(config, source, 4, "float32", data, 64, 64, WorkerResources(1, 1, 0), {}, 64)
    # No Ray runs here, so nothing can be generated.
    again = with_samples(SimpleNamespace(storage=storage), inputs)
    assert again.data.corpus.texts == tuple(tuple(row.tokens) for row in rows)
    write_table(storage, "samples", TABLES["samples"].table([]))
    with pytest.raises(RunError, match="the model generated no text"):
        with_samples(SimpleNamespace(storage=storage), inputs)


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
