"""All runs of an output in SQL."""

import uuid
from pathlib import Path

import pyarrow as pa
import pytest

from stratoscope.errors import InputError
from stratoscope.results import History, Manifest, RunFolder, write_table


def finished(output: str, run_id: str, table: pa.Table | None = None, **facts: object) -> None:
    folder = RunFolder(output, "score", run_id)
    manifest = Manifest("score", run_id, {"name": run_id}, 0, facts=facts, timings={"measure": 2.0, "report": 1.0})
    manifest.status = "done"
    folder.write_manifest(manifest)
    if table is not None:
        write_table(folder.storage, "layer_scores", table)


@pytest.fixture(params=["local", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}"


def test_runs_made_before_a_column_was_added_are_read_with_those_that_have_it(output: str) -> None:
    finished(output, "early", pa.table({"layer": [0, 1], "score": [0.5, 0.7]}))
    finished(output, "late", pa.table({"layer": [0], "score": [0.9], "new": ["x"]}))
    history = History(output)
    assert history.views == ["runs", "score_layer_scores"]
    answer = history.query("SELECT run_id, layer, score, new FROM score_layer_scores ORDER BY run_id, layer")
    assert answer.to_pylist() == [
        {"run_id": "early", "layer": 0, "score": 0.5, "new": None},
        {"run_id": "early", "layer": 1, "score": 0.7, "new": None},
        {"run_id": "late", "layer": 0, "score": 0.9, "new": "x"},
    ]
    # The same history answers again: a view is made once.
    assert history.query("SELECT count(*) AS n FROM score_layer_scores").to_pylist() == [{"n": 3}]


@pytest.mark.parametrize("folder", ["layer=99/seed=7", "runs[1]", "run*", "a'b"])
def test_any_name_of_a_folder_may_hold_the_runs(output: str, folder: str) -> None:
    finished(f"{output}/runs1", "another", pa.table({"layer": [5], "seed": [5]}))
    finished(f"{output}/{folder}", "one", pa.table({"layer": [0, 1], "seed": [1, 2]}))
    answer = History(f"{output}/{folder}").query("SELECT run_id, layer, seed FROM score_layer_scores ORDER BY layer")
    assert answer.to_pylist() == [
        {"run_id": "one", "layer": 0, "seed": 1},
        {"run_id": "one", "layer": 1, "seed": 2},
    ]


def test_manifests_are_rows_with_their_sections_as_json(output: str) -> None:
    finished(output, "one", None, num_layers=4)
    answer = History(output).query(
        "SELECT job, run_id, state, seconds, json_extract(facts, '$.num_layers') AS n FROM runs"
    )
    assert answer.to_pylist() == [{"job": "score", "run_id": "one", "state": "done", "seconds": 3.0, "n": "4"}]


def test_a_wrong_question_is_refused_with_what_there_is(output: str) -> None:
    finished(output, "one", pa.table({"layer": [0]}))
    with pytest.raises(InputError, match=r"the query failed.*Views: runs, score_layer_scores"):
        History(output).query("SELECT nothing FROM nowhere")
    with pytest.raises(InputError, match=r"the query failed.*Could not convert"):
        History(output).query("SELECT CAST(run_id AS INTEGER) FROM runs")


@pytest.mark.parametrize(
    "statement",
    [
        "COPY runs TO '{folder}/copied.csv'",
        "SELECT 1; COPY runs TO '{folder}/copied.csv'",
        "EXPLAIN ANALYZE COPY runs TO '{folder}/score/one/layer_scores.parquet' (USE_TMP_FILE false)",
        "EXPORT DATABASE '{folder}/exported'",
        "ATTACH '{folder}/attached.db'",
        "CREATE TABLE copied AS SELECT 1",
        "DELETE FROM runs",
        "SET lock_configuration = false",
        "INSTALL httpfs",
        "SELECT * FROM read_csv('{folder}/other.csv')",
        "SELECT * FROM '{folder}/other.csv'",
        "SELECT * FROM statement",
        "",
    ],
)
def test_a_query_writes_nothing_and_reads_nothing_but_the_runs(tmp_path: Path, statement: str) -> None:
    finished(str(tmp_path), "one", pa.table({"layer": [0]}))
    (tmp_path / "other.csv").write_text("a\n1\n")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(InputError, match=r"history only reads|the query failed"):
        History(str(tmp_path)).query(statement.format(folder=tmp_path))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_large_result_is_read_in_batches(tmp_path: Path) -> None:
    finished(str(tmp_path), "one")
    batches = History(str(tmp_path)).batches("SELECT range AS x FROM range(10000000000)", 1000)
    assert [len(next(batches)) for _ in range(3)] == [1000, 1000, 1000]


def test_a_file_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        History(str(tmp_path / "file"))


def test_a_store_without_credentials_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(InputError, match=r"output 's3://bucket' cannot be reached"):
        History("s3://bucket")
