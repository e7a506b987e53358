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
