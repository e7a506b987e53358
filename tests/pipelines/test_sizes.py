"""Division of work into shards and batches, on CPUs and on GPUs."""

from pathlib import Path
from typing import Literal

import pytest

from stratoscope.activations import Tap, measure_rate
from stratoscope.errors import InputError
from stratoscope.models import LoadSpec, ModelFacts, load_model, resolve_source
from stratoscope.pipelines.hallucination import HallucinationConfig
from stratoscope.pipelines.hallucination import inputs as hallucination_inputs
from stratoscope.pipelines.runtime.config import validate
from stratoscope.pipelines.score import ScoreConfig
from stratoscope.pipelines.score.inputs import lay_out_inputs, open_inputs
from stratoscope.pipelines.score.layout import lay_out
from stratoscope.pipelines.sharded import layout
from stratoscope.pipelines.sharded.layout import MAX_SHARDS, SHARD_BYTES, GpuWork, ShardLayout, recorded_layout
from stratoscope.pipelines.sharded.sizes import (
    BatchSizes,
    batch_sizes,
    evaluation_tokens,
    gpu_work,
    measured_tokens,
    recorded_tokens,
    tokens_with_logits,
)
from stratoscope.results import Manifest, ShardResult, ShardStore, Storage
from stratoscope.statistics.histogram import NUM_BINS

LLAMA_8B = ModelFacts("LlamaForCausalLM", 32, 4096, 8_000_000_000, 8192)
TAPS = (Tap.BLOCK, Tap.UPDATE)


@pytest.fixture
def store(tmp_path: Path) -> ShardStore:
    return ShardStore(Storage(str(tmp_path)))


def config(**fields: object) -> ScoreConfig:
    return validate(ScoreConfig, fields)


@pytest.mark.parametrize(
    ("num_units", "tokens", "actors", "expected"),
    [
        (1_000_000, 512.0, 1, 977),  # at most 1,024 shards
        (10_000, 512.0, 1, 320),  # 20 batches of 16 prompts
        (10_000, 20.0, 1, 2500),  # four shards for the actor, each of at least a batch of 409 prompts
        (256, 20.0, 8, 409),  # a single batch
        (10_000, 8192.0, 8, 20),  # batches of one prompt
        (10_000, 1.0, 1, 2500),
    ],
)
def test_shards_on_gpus_are_cut_by_tokens(num_units: int, tokens: float, actors: int, expected: int) -> None:
    size = GpuWork(tokens, 8192, 485, actors).shard_size(num_units)
    assert size == expected
    assert -(-num_units // size) <= MAX_SHARDS


def test_work_is_cut_by_tokens_on_gpus_alone() -> None:
    assert gpu_work(config(), LLAMA_8B, TAPS, {"CPU": 8}, 20.0) is None
    assert gpu_work(config(actors={"gpus": 0}), LLAMA_8B, TAPS, {"GPU": 8}, 20.0) is None
    whole = gpu_work(config(), LLAMA_8B, TAPS, {"GPU": 8}, 20.0)
    assert whole is not None
    assert (whole.batch_tokens, whole.num_actors) == (8192, 8)
    halves = gpu_work(config(actors={"gpus": 0.5}, batching={"max_tokens": 999}), LLAMA_8B, TAPS, {"GPU": 1}, 20.0)
    assert halves is not None
    assert (halves.batch_tokens, halves.num_actors) == (999, 2)
    nodes_to_come = gpu_work(config(actors={"gpus": 1, "max": 6}), LLAMA_8B, TAPS, {"CPU": 8}, 20.0)
    assert nodes_to_come is not None
    assert nodes_to_come.num_actors == 6


def test_statistics_by_shard_keep_their_fifty_shards_on_gpus() -> None:
    work = GpuWork(20.0, 8192, 485, 1)
    assert lay_out(config(), 20_000, 60, work) == ShardLayout(20_000, 400, by_shard=True)
    assert lay_out(config(batching={"shard_size": 7}), 1000, 60, work).shard_size == 7


def test_shards_whose_statistics_are_kept_until_they_are_written_fit_into_memory() -> None:
    work = gpu_work(config(), LLAMA_8B, TAPS, {"GPU": 1}, 20.0)
    assert work is not None
    assert work.shard_size(1_000_000, merged=True) == 20 * 409
    kept = work.shard_size(1_000_000)
    assert 0.9 * SHARD_BYTES < kept * work.unit_bytes <= SHARD_BYTES
    several = gpu_work(config(), LLAMA_8B, TAPS, {"GPU": 1}, 20.0, sets_per_unit=4.0)
    assert several is not None
    assert several.shard_size(1_000_000) == pytest.approx(max(kept / 4, 1_000_000 / MAX_SHARDS), abs=1)
    assert lay_out(config(), 15_000, 60, work).shard_size == work.shard_size(15_000)
    assert lay_out(config(statistics={"keep": "shard"}), 1_000_000, 64, work).shard_size == 20 * 409


def test_sizes_of_batches_by_device() -> None:
    batching = config().batching
    assert batch_sizes(batching, LLAMA_8B, TAPS, None, on_gpu=False) == BatchSizes(2048, 256)
    assert batch_sizes(batching, LLAMA_8B, TAPS, None, on_gpu=True) == BatchSizes(None, 1024)
    assert batch_sizes(batching, LLAMA_8B, TAPS, 4096, on_gpu=True) == BatchSizes(4096, 1024)
    assert batch_sizes(batching, LLAMA_8B, tuple(Tap), None, on_gpu=True) == BatchSizes(None, 517)
    given = config(batching={"max_tokens": 512}).batching
    assert batch_sizes(given, LLAMA_8B, TAPS, 4096, on_gpu=True) == BatchSizes(512, 1024)


@pytest.mark.parametrize(
    ("given", "gpus", "recorded", "expected"), [(512, 1, 4096, 512), ("auto", 0, None, 2048), ("auto", 1, 4096, 4096)]
)
def test_batches_of_evaluators_are_given_usual_or_those_of_an_earlier_start(
    given: int | Literal["auto"], gpus: int, recorded: int | None, expected: int
) -> None:
    previous = Manifest(job="search", run_id="x", config={}, seed=0)
    if recorded:
        previous.facts = {"batch_tokens": recorded}
    loading = LoadSpec(
        resolve_source("smollm2"), "cuda" if gpus else "cpu", "auto", None, trust_remote_code=False, spread=False
    )
    assert evaluation_tokens(given, LLAMA_8B, loading, previous, cpus=1, gpus=gpus) == expected


@pytest.mark.parametrize(
    ("free", "vocabulary", "expected"), [(60e9, 128_000, 8192), (1e6, 128_000, 1), (4e9, 49_152, 1024)]
)
def test_logits_fit_into_a_quarter_of_the_free_memory(free: float, vocabulary: int, expected: int) -> None:
    tokens = tokens_with_logits(free, vocabulary)
    assert tokens == expected
    assert tokens == 1 or 12 * tokens * vocabulary <= free / 4 < 24 * tokens * vocabulary


def test_an_earlier_start_decides_shards_and_batches(store: ShardStore) -> None:
    manifest = Manifest(job="score", run_id="x", config={}, seed=0)
    assert (recorded_layout(store, manifest, 100), recorded_tokens(store)) == (None, None)
    store.write(ShardResult(3, {}, {"batch_tokens": 4096}))
    with pytest.raises(InputError, match="does not say how large they are; choose another run_id"):
        recorded_layout(store, manifest, 100)
    manifest.facts = {"shard_size": 13, "by_shard": True}
    assert recorded_layout(store, manifest, 100) == ShardLayout(100, 13, by_shard=True)
    assert recorded_tokens(store) == 4096


def test_prompts_are_laid_out_by_their_tokens(tiny_model_folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"w{i % 90} w{i // 90} " + "w1 " * 30 for i in range(3000)), encoding="utf-8")
    chosen = config(
        model={"source": str(tiny_model_folder)},
        prompts={"source": str(prompts), "limit": None},
        batching={"max_tokens": 320},
        statistics={"keep": "prompt"},
    )
    inputs = open_inputs(chosen)
    on_cpus, on_gpus = (lay_out_inputs(chosen, inputs, available) for available in ({"CPU": 2.0}, {"GPU": 1.0}))
    assert on_cpus.layout.shard_size == 32
    assert on_gpus.layout.shard_size == 20 * int(320 / 32)


@pytest.mark.parametrize("parts", [["answer"], ["answer", "question"]])
def test_questions_are_laid_out_by_the_memory_of_all_that_is_read_of_them(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, parts: list[str]
) -> None:
    chosen = validate(
        HallucinationConfig,
        {
            "model": {"source": str(tiny_model_folder)},
            "pairs": {"source": ["sciq"], "limit": 600},
            "readings": {"taps": ["block"], "parts": parts},
            "batching": {"max_tokens": 256},
        },
    )
    inputs = hallucination_inputs.open_inputs(chosen)
    bytes_per_set = 4 * NUM_BINS * 4  # four layers, 32 bits
    monkeypatch.setattr(layout, "SHARD_BYTES", 200 * bytes_per_set)
    on_gpus = hallucination_inputs.lay_out_inputs(chosen, inputs, {"GPU": 1.0, "CPU": 4.0})
    answers = sum(len(question.answers) for question in inputs.questions) / len(inputs.questions)
    assert on_gpus.layout.shard_size == pytest.approx(200 / (answers * len(parts)), rel=0.05)


def test_the_rate_of_a_real_model_is_measured(tiny_model_folder: Path) -> None:
    model = load_model(str(tiny_model_folder))
    rate = measure_rate(model, 256)
    assert rate is not None
    assert rate > 0
    assert measured_tokens(model) in {2**n for n in range(10, 17)}
