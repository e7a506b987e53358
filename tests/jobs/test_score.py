"""The scoring job on a real local Ray."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from selenium import webdriver

import stratoscope
from stratoscope.cli import main
from stratoscope.errors import InputError
from stratoscope.pipelines.runtime.config import validate
from stratoscope.pipelines.score import ScoreConfig
from stratoscope.pipelines.score import run as run_module
from stratoscope.pipelines.score.load_statistics import StatisticsTables, score_tables
from stratoscope.pipelines.score.worker import ScoreWorker
from stratoscope.results import Manifest, ShardResult, ShardStore, Storage, from_parquet, read_table, write_table
from stratoscope.statistics import spearman
from stratoscope.tables import score as tables
from stratoscope.tables.activations import statistics_of_tap
from tests.jobs.faulty import fail_while_loading
from tests.jobs.small import settings_of, shards_of
from tests.pages import open_page, page_faults

pytestmark = pytest.mark.usefixtures("local_ray")
TAPS = ["block", "update", "attention", "mlp", "mlp_hidden"]
METRICS = ["avss", "variance", "sparsity", "block_influence", "angular_distance", "magnitude", "random", "last"]

Fields = Callable[..., dict]


@pytest.fixture(scope="module")
def fields(tiny_model_folder: Path, prompts_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Fields:
    """Fields of a small run, any of them replaced."""
    output = tmp_path_factory.mktemp("runs")

    def build(**changes: dict) -> dict:
        base: dict = {
            "output": str(output),
            "model": {"source": str(tiny_model_folder)},
            "prompts": {"source": str(prompts_file)},
            "activations": {"taps": TAPS, "epsilons": [0.01, 0.5], "spans": [1, 2]},
            "scores": {"metrics": METRICS, "variance": ["elementwise", "pooled"], "epsilon": [0.5], "quantile": [0.2]},
            "batching": {"shard_size": 8, "max_tokens": 64},
            "actors": {"min": 1, "max": 1},
        }
        return base | changes

    return build


@pytest.fixture(scope="module")
def run(fields: Fields) -> stratoscope.ScoreRun:
    return stratoscope.score(**fields(run_id="two-actors", actors={"min": 2, "max": 2}))


def plain_loop(config: ScoreConfig, folder: Path) -> StatisticsTables:
    """Statistics of all shards by a worker in this process, written to a folder."""
    job, settings = settings_of(config)
    worker = ScoreWorker(settings)
    results = [worker(shard) for shard in shards_of(job)]
    storage = Storage(str(folder))
    for name in ("prompt_stats", "span_stats"):
        write_table(storage, name, pa.concat_tables([from_parquet(r.files[name]) for r in results]))
    write_table(storage, "layers", from_parquet(results[0].files["layers"]))
    return StatisticsTables(storage, by_shard=False, taps=tuple(TAPS), epsilons=settings.epsilons)


def layer_scores(source: StatisticsTables, config: ScoreConfig) -> pa.Table:
    scorings = score_tables(source, config.scores.to_settings(config.seed))
    return tables.LayerScoreRow.table(
        [row for group, scoring in scorings for row in tables.layer_score_rows(scoring, group)]
    )


def test_tables_have_their_columns_and_rows(run: stratoscope.ScoreRun) -> None:
    expected = {
        "prompt_stats": 40 * 4 * 5,
        "span_stats": 40 * 7,
        "layer_scores": 4 * (5 * (4 + 2 + 2) + 5),
        "stability": 5 * (4 + 2 + 2) + 5,
        "errors": 0,
        "layers": 4,
    }
    for name, rows in expected.items():
        table = run.table(name)
        assert table.schema.equals(tables.TABLES[name].schema()), name
        assert table.num_rows == rows, name
    ranks = run.layer_scores.group_by(["tap", "metric", "variance", "epsilon_kind"]).aggregate([("rank", "list")])
    assert all(sorted(row) == [0, 1, 2, 3] for row in ranks["rank_list"].to_pylist())


def test_the_manifest_tells_the_run(run: stratoscope.ScoreRun) -> None:
    m = run.manifest
    assert (m.status, m.exit_code) == ("done", 0)
    assert {"weights", "prompts", "activations"} == set(m.fingerprints)
    assert m.counts["prompts"] == m.counts["scored"] == 40
    assert m.counts["tokens"] <= m.counts["padded_tokens"] <= 1.2 * m.counts["tokens"]
    assert (m.counts["shards_computed"], m.counts["shards_skipped"]) == (5, 0)
    assert m.tokens_per_second
    assert m.peak_memory_bytes
    assert m.peak_gpu_memory_bytes == 0, "host memory is not counted as GPU memory"
    names = {path.name for path in Path(run.path).iterdir()}
    assert {"manifest.json", "report.html", "log.txt"} <= names
    assert "shards" not in names


def test_the_page_names_the_layers_that_do_least(run: stratoscope.ScoreRun, browser: webdriver.Chrome) -> None:
    path = Path(run.path, "report.html")
    assert page_faults(browser, path) == []
    open_page(browser, path)
    assert re.search(r"^llama: (layers? .* least|no stable order of layers) by AVSS \(update\)$", browser.title)


def test_scores_equal_those_of_a_plain_loop_to_the_bit(
    run: stratoscope.ScoreRun, fields: Fields, tmp_path: Path
) -> None:
    config = validate(ScoreConfig, fields(run_id="plain"))
    plain = plain_loop(config, tmp_path)
    for name in ("prompt_stats", "span_stats"):
        assert read_table(Storage(str(tmp_path)), name).equals(run.table(name))
    assert layer_scores(plain, config).equals(run.layer_scores)


def test_another_batch_size_changes_rounding_alone(run: stratoscope.ScoreRun, fields: Fields, tmp_path: Path) -> None:
    config = validate(ScoreConfig, fields(run_id="small", batching={"shard_size": 7, "max_tokens": 24}))
    other = plain_loop(config, tmp_path)
    for tap in TAPS:
        a, first = statistics_of_tap(run.table("prompt_stats"), tap, (0.01, 0.5))
        b, same = statistics_of_tap(read_table(Storage(str(tmp_path)), "prompt_stats"), tap, (0.01, 0.5))
        assert first["prompt_id"] == same["prompt_id"]
        np.testing.assert_allclose(b.variance, a.variance, rtol=1e-5)
        np.testing.assert_allclose(b.pooled_variance, a.pooled_variance, rtol=1e-5)
        # Only activations next to a threshold may change sides: one in a thousand at most.
        assert np.abs(b.below - a.below).sum() <= 1e-3 * a.count.sum()
    scores = (run.layer_scores, layer_scores(other, config))
    ranks = [np.array(table["rank"].to_pylist(), float).reshape(-1, 4) for table in scores]
    assert all(spearman(x, y) == pytest.approx(1) for x, y in zip(*ranks, strict=True))


def test_a_started_run_does_what_is_missing_and_another_number_of_actors_changes_nothing(
    run: stratoscope.ScoreRun, fields: Fields
) -> None:
    config = validate(ScoreConfig, fields(run_id="resumed"))
    job, settings = settings_of(config)
    job.context.folder.write_manifest(
        Manifest(job="score", run_id="resumed", config=config.model_dump(mode="json"), seed=0, facts={"shard_size": 8})
    )
    worker = ScoreWorker(settings)
    for shard in shards_of(job, 1, 3):
        ShardStore(job.context.storage).write(worker(shard))
    resumed = stratoscope.score(**fields(run_id="resumed"))
    assert (resumed.manifest.counts["shards_computed"], resumed.manifest.counts["shards_skipped"]) == (3, 2)
    assert resumed.manifest.counts["tokens"] == run.manifest.counts["tokens"]
    for name in ("prompt_stats", "span_stats", "layer_scores", "stability", "layers"):
        assert resumed.table(name).equals(run.table(name)), name


def test_bad_prompts_go_to_the_errors_and_other_prompts_under_the_same_name_are_refused(
    fields: Fields, prompts_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text(prompts_file.read_text())
    changed = fields(run_id="refuse", prompts={"source": str(path), "max_tokens": 12, "too_long": "refuse"})
    some = stratoscope.score(**changed)
    counts = some.manifest.counts
    assert counts["errors"] == some.table("errors").num_rows > 0
    assert counts["errors"] + counts["scored"] == 40
    assert some.table("errors")["error"][0].as_py().startswith("too long:")
    kept = set(some.table("prompt_stats")["prompt_id"].to_pylist())
    assert not kept & set(some.table("errors")["prompt_id"].to_pylist())
    folder = Path(some.path)
    (folder / "manifest.json").write_text(
        json.dumps(json.loads((folder / "manifest.json").read_text()) | {"status": "running"})
    )
    ShardStore(Storage(str(folder))).write(ShardResult(0, {}, counts | {"peak_memory_bytes": 1, "attempts": 1}))
    path.write_text("".join(f"w{i} w{i + 2}\n" for i in range(20)))
    for _ in range(2):
        with pytest.raises(InputError, match="started with other prompts and activations"):
            stratoscope.score(**changed)


def test_a_prompt_that_is_too_long_is_cut(fields: Fields) -> None:
    prompts = fields()["prompts"] | {"max_tokens": 12}
    job, settings = settings_of(validate(ScoreConfig, fields(run_id="cut", prompts=prompts)))
    worker = ScoreWorker(settings)
    counts = [worker(shard).counts for shard in shards_of(job)]
    assert sum(c["truncated"] for c in counts) == sum(i % 20 + 2 > 12 for i in range(40))
    assert sum(c["scored"] for c in counts) == 40


def test_a_batch_that_fails_loses_only_the_culprit(fields: Fields) -> None:
    job, settings = settings_of(validate(ScoreConfig, fields(run_id="culprit")))
    worker = ScoreWorker(settings)
    shard = shards_of(job, 0)[0]
    victim = max(range(8), key=lambda i: len(shard["text"][i]))
    longest = len(shard["text"][victim].split())

    def fail(_module: object, _args: object, output: object) -> None:
        if output.shape[1] >= longest:
            raise RuntimeError("out of memory")

    worker.model.anatomy.blocks[1].module.register_forward_hook(fail)
    result = worker(shard)
    errors = from_parquet(result.files["errors"]).to_pylist()
    assert errors == [{"prompt_id": shard["prompt_id"][victim], "error": "RuntimeError: out of memory"}]
    assert result.counts["scored"] == 7


def arguments(fields: Fields, **changes: str) -> list[str]:
    base = fields()
    given = {
        "output": base["output"],
        "model.source": base["model"]["source"],
        "prompts.source": base["prompts"]["source"],
        "prompts.limit": "16",
        "actors.max": "1",
    } | changes
    return ["score", *(part for name, value in given.items() for part in (f"--{name}", value))]


def test_the_command_ends_with_the_path_and_repeats_for_free(
    run: stratoscope.ScoreRun, fields: Fields, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    written = (Path(run.path) / "manifest.json").read_bytes()
    file = tmp_path / "score.yaml"
    file.write_text(json.dumps(fields(run_id="two-actors")))
    assert main(["score", "--config", str(file)]) == 0
    out, err = capfd.readouterr()
    assert out.splitlines()[-1] == f"run: {fields()['output']}/score/two-actors"
    assert "least important first" in out
    assert all(line.startswith("score: ") for line in err.splitlines())
    assert (Path(run.path) / "manifest.json").read_bytes() == written


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.source": "smolm2"}, "did you mean 'smollm2'?"),
        ({"prompts.source": "scqi"}, "did you mean 'sciq'?"),
        ({"prompts.source": "missing.jsonl"}, "not a known set, file or hub name"),
        ({"run_id": "a/b"}, "no path separator"),
        ({"run_id": "two-actors"}, "with other settings"),
        ({"activations.spans": "9"}, "has only 4 layers"),
        ({"prompts.max_tokens": "9999"}, "more than the 64 positions"),
        ({"prompts.chat": "true"}, "has no chat template"),
        ({"scores.metrics": "avs"}, "did you mean 'avss'?"),
    ],
)
def test_input_that_cannot_be_used_exits_2_with_one_line(
    fields: Fields, run: stratoscope.ScoreRun, changes: dict[str, str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = (Path(run.path) / "manifest.json").read_bytes()
    capfd.readouterr()
    assert main(arguments(fields, **changes)) == 2
    out, err = capfd.readouterr()
    assert out in ("", "score: loading libraries\n")  # the configuration itself may be refused before
    assert len(err.splitlines()) == 1
    assert err.startswith("score: ")
    assert message in err
    assert (Path(run.path) / "manifest.json").read_bytes() == before


def test_a_dry_run_says_what_it_takes_and_writes_nothing(fields: Fields, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments(fields, run_id="dry"), "--dry_run"]) == 0
    out, _ = capfd.readouterr()
    assert "16 of" in out
    assert f"{16 * 4 * 2:,} in prompt_stats.parquet" in out
    assert "GB for each actor" in out
    assert "time: roughly" in out
    assert not (Path(fields()["output"]) / "score" / "dry").exists()


def test_a_failure_while_running_exits_1_and_says_where_to_look(
    fields: Fields, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_module, "make_worker", fail_while_loading)
    code = main(arguments(fields, run_id="broken"))
    _, err = capfd.readouterr()
    assert code == 1
    assert len(err.splitlines()) == 1
    assert "log.txt" in err
    manifest = json.loads((Path(fields()["output"]) / "score" / "broken" / "manifest.json").read_text())
    assert (manifest["status"], manifest["exit_code"]) == ("failed", code)


def test_the_real_model_shows_what_was_measured_before(tmp_path: Path) -> None:
    """SmolLM2-135M on SciQ: the layers that AVSS takes on tap update, and the massive activations from layer 11 on."""
    run = stratoscope.score(output=str(tmp_path), run_id="real", prompts={"limit": 48}, batching={"shard_size": 24})
    scores = run.layer_scores.to_pylist()
    for tap, metric in {(row["tap"], row["metric"]) for row in scores}:
        assert sorted(r["layer"] for r in scores if (r["tap"], r["metric"]) == (tap, metric)) == list(range(30))
    lowest = {r["layer"] for r in scores if r["tap"] == "update" and r["metric"] == "avss" and r["rank"] < 8}
    assert len(lowest & {3, 4, 5, 6, 7, 12, 13, 14}) >= 7
    variance = {r["layer"]: r["score"] for r in scores if r["tap"] == "block" and r["metric"] == "variance"}
    assert 20 < variance[10] < 100
    assert 10_000 < variance[11] < 100_000
    assert run.manifest.counts["nonfinite"] == 0
