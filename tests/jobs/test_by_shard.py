"""Large runs, whose statistics are kept per shard of prompts."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from rich.console import Console

import stratoscope
from stratoscope.errors import InputError
from stratoscope.pipelines.runtime.config import validate
from stratoscope.pipelines.score import ScoreConfig, ScoreJob
from stratoscope.pipelines.score.layout import FEWEST_MERGED_SHARDS, lay_out
from stratoscope.pipelines.score.report import build_page
from stratoscope.pipelines.sharded.layout import MAX_SHARDS, ShardLayout, Shards
from stratoscope.results import Manifest, ShardStore
from tests.jobs.small import Fields

pytestmark = pytest.mark.usefixtures("local_ray")
RESERVOIR = 20


@pytest.fixture(scope="module")
def grouped(small_run: Fields, many_prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Fields:
    """Fields of a run over three groups, with every metric."""
    path = tmp_path_factory.mktemp("grouped") / "rows.jsonl"
    rows = [{"text": text, "kind": "abc"[i % 3]} for i, text in enumerate(many_prompts.read_text().splitlines())]
    path.write_text("\n".join(map(json.dumps, rows)))
    metrics = ["avss", "variance", "sparsity", "block_influence", "angular_distance"]

    def build(**changes: object) -> dict:
        return (
            small_run(
                prompts={"source": str(path), "limit": None, "group": "kind"},
                activations={"taps": ["block", "mlp"], "epsilons": [0.01], "spans": [2]},
                scores={
                    "metrics": metrics,
                    "variance": ["elementwise", "pooled"],
                    "epsilon": [0.01, 0.3],
                    "quantile": [0.2],
                },
            )
            | changes
        )

    return build


@pytest.fixture(scope="module")
def runs(grouped: Fields) -> dict[str, stratoscope.ScoreRun]:
    """The same prompts in the same batches, with their statistics kept both ways."""
    batching = {"shard_size": 5, "max_tokens": 256}
    by_prompt = stratoscope.score(**grouped(run_id="by-prompt", batching=batching))
    keep = {"keep": "shard", "reservoir": RESERVOIR}
    return {
        "prompt": by_prompt,
        "shard": stratoscope.score(**grouped(run_id="by-shard", batching=batching, statistics=keep)),
    }


def test_groups_and_counts_are_in_the_terminal_and_on_the_page(runs: dict[str, stratoscope.ScoreRun]) -> None:
    for run in runs.values():
        facts, page = run.manifest.facts, build_page(run)
        assert sum(facts["groups"].values()) == facts["num_prompts"]
        console = Console(width=200, record=True, file=io.StringIO())
        ScoreJob.show(run, console)
        (section,) = [section for section in page.sections if section.heading == "Groups"]
        terminal = console.export_text()
        for group, size in facts["groups"].items():
            assert re.search(rf"│ {group} +│ +{size} │", terminal)
            assert any(row[:2] == [group, str(size)] for row in section.tables[0].rows)
        counts = f"{facts['prompts_read']:,} rows read: {facts['num_prompts']:,} kept"
        assert counts in terminal
        assert counts in page.summary


def test_scores_are_those_of_the_prompts(runs: dict[str, stratoscope.ScoreRun]) -> None:
    by_prompt, by_shard = (runs[kind].layer_scores for kind in ("prompt", "shard"))
    keys = ["layer", "tap", "metric", "variance", "epsilon_kind", "epsilon", "group", "rank"]
    assert by_shard.select(keys).equals(by_prompt.select(keys))
    assert set(by_shard["group"].to_pylist()) == {"all", "a", "b", "c"}
    np.testing.assert_allclose(by_shard["score"], by_prompt["score"], rtol=1e-9)


def test_groups_share_one_threshold(runs: dict[str, stratoscope.ScoreRun]) -> None:
    scores = runs["prompt"].layer_scores
    of_block = pc.and_(pc.equal(scores["epsilon_kind"], "quantile"), pc.equal(scores["tap"], "block"))
    thresholds = scores.filter(of_block)["epsilon"].to_pylist()
    assert len(set(thresholds)) == 1, "or the sparsity of groups could not be compared"


def test_intervals_over_shards_are_like_those_over_prompts(runs: dict[str, stratoscope.ScoreRun]) -> None:
    """Shards are random subsets of the prompts, so the two bootstraps estimate the same spread."""
    widths = []
    for kind in ("prompt", "shard"):
        scores = runs[kind].layer_scores
        of_all = scores.filter(pc.and_(pc.equal(scores["group"], "all"), pc.equal(scores["metric"], "variance")))
        widths.append(of_all["ci_high"].to_numpy() - of_all["ci_low"].to_numpy())
    ratio = widths[1] / widths[0]
    assert 0.6 < np.median(ratio) < 1.6


def test_the_reservoir_is_the_beginning_of_the_seeded_order(runs: dict[str, stratoscope.ScoreRun]) -> None:
    kept, everything = (runs[kind].table("prompt_stats") for kind in ("shard", "prompt"))
    assert kept.num_rows == RESERVOIR * 4 * 2
    assert kept.equals(everything.slice(0, kept.num_rows))
    assert runs["shard"].table("span_stats").num_rows == RESERVOIR * 3


def test_every_count_is_kept_once(runs: dict[str, stratoscope.ScoreRun]) -> None:
    shards, prompts = runs["shard"].table("shard_stats"), runs["prompt"].table("prompt_stats")
    of_all = shards.filter(pc.is_null(shards["group"]))
    in_groups = shards.filter(pc.is_valid(shards["group"]))
    assert of_all.num_rows == 64 * 4 * 2
    for name in ("tokens", "count", "nonfinite"):
        totals = [pc.sum(table[name]).as_py() for table in (of_all, in_groups, prompts)]
        assert len(set(totals)) == 1, name
    assert pc.sum(of_all["prompts"]).as_py() == 320 * 4 * 2


def test_a_run_by_shard_goes_on_where_it_stopped_to_the_bit(
    runs: dict[str, stratoscope.ScoreRun], grouped: Fields
) -> None:
    from stratoscope.execution import ActorPool
    from stratoscope.pipelines.score.run import worker_settings
    from stratoscope.pipelines.score.worker import ScoreWorker

    fields = grouped(
        run_id="resumed-by-shard",
        batching={"shard_size": 5, "max_tokens": 256},
        statistics={"keep": "shard", "reservoir": RESERVOIR},
    )
    config = validate(ScoreConfig, fields)
    job = ScoreJob(config)
    job.prepare()
    job.context.folder.write_manifest(
        Manifest(
            job="score",
            run_id="resumed-by-shard",
            config=config.model_dump(mode="json"),
            seed=0,
            facts={"shard_size": 5, "by_shard": True},
        )
    )
    worker = ScoreWorker(worker_settings(config, job.inputs, ActorPool(1, 1, 1, 1, 0)))
    for table in Shards(job.inputs.layout, job.inputs.prompts.table, range(0, 64, 2)):
        ShardStore(job.context.storage).write(worker(table.to_pylist()[0]))
    resumed = stratoscope.score(**fields)
    assert (resumed.manifest.counts["shards_computed"], resumed.manifest.counts["shards_skipped"]) == (32, 32)
    for name in ("shard_stats", "shard_spans", "prompt_stats", "layer_scores", "stability"):
        assert resumed.table(name).equals(runs["shard"].table(name)), name


def layout(num_prompts: int, rows: int = 60, **fields: object) -> ShardLayout:
    return lay_out(validate(ScoreConfig, fields), num_prompts, rows)


def test_runs_are_laid_out_by_their_size() -> None:
    assert layout(256) == ShardLayout(256, 32, by_shard=False)
    assert not layout(16_666).by_shard
    assert layout(16_667).by_shard
    assert layout(16_667, statistics={"keep": "prompt"}) == ShardLayout(16_667, 32, by_shard=False)
    million = layout(1_000_000)
    assert (million.num_shards, million.by_shard) == (1024, True)
    assert layout(10_000_000, 160).num_shards == MAX_SHARDS
    small = layout(320, statistics={"keep": "shard"})
    assert small.num_shards >= FEWEST_MERGED_SHARDS
    for given in (1, 7, 32, 40):
        assert layout(1000, batching={"shard_size": given}).shard_size == given


def test_too_few_shards_are_refused() -> None:
    with pytest.raises(InputError, match="needs at least 50 prompts, not 49"):
        layout(49, statistics={"keep": "shard"})
    with pytest.raises(InputError, match=r"shard_size 32 makes fewer than 50 shards of 320 prompts.*give at most 6"):
        layout(320, statistics={"keep": "shard"}, batching={"shard_size": 32})


def test_every_prompt_is_in_one_shard() -> None:
    table = pa.table({name: [f"{name}{i}" for i in range(103)] for name in ("prompt_id", "group", "text")})
    cut = ShardLayout(103, 10, by_shard=False)
    rows = [row for part in Shards(cut, table, range(cut.num_shards)) for row in part.to_pylist()]
    assert [row["start"] for row in rows] == list(range(0, 103, 10))
    assert [text for row in rows for text in row["text"]] == table["text"].to_pylist()
