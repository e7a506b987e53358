import io
import os
import resource
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from stratoscope.errors import RunError
from stratoscope.execution import ActorPool, Attempt, Meter, plan_pool, progress, root_cause, run_shards
from stratoscope.results import ShardResult, ShardStore, Storage


class Doubler:
    """Doubles the numbers of a shard, and reports its process."""

    def __init__(self, offset: int) -> None:
        self.offset = offset

    def __call__(self, shard: dict[str, Any], attempt: Attempt) -> ShardResult:
        if shard["numbers"] == [13]:
            raise ValueError("thirteen")
        doubled = bytes(self.offset + 2 * n for n in shard["numbers"])
        return ShardResult(
            shard["shard"],
            {"doubled": doubled},
            {
                "prepared_by": shard.get("prepared_by"),
                "pid": os.getpid(),
                "attempts": attempt.number,
                "threads": int(os.environ["OMP_NUM_THREADS"]),
            },
        )


class Oversized:
    """Returns more than its process may write to a file, as if the disk were full."""

    def __call__(self, shard: dict[str, Any], attempt: Attempt) -> ShardResult:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
        return ShardResult(shard["shard"], {"doubled": bytes(2_000_000)}, {"attempts": attempt.number})


def shards(numbers: list[list[int]]) -> list[pa.Table]:
    return [pa.table({"shard": [i], "numbers": [row]}) for i, row in enumerate(numbers)]


def add_process(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"prepared_by": os.getpid()}


@pytest.mark.usefixtures("local_ray")
def test_actors_store_their_results_and_work_is_prepared_ahead_of_them(tmp_path: Path) -> None:
    """One actor of one CPU leaves a CPU to the tasks."""
    numbers = [[i, i + 1] for i in range(12)]
    store = ShardStore(Storage(str(tmp_path)))
    pool = ActorPool(1, 1, 1, num_cpus=1, num_gpus=0)
    options: dict[str, Any] = {"prepare": add_process, "store": store}
    results = list(run_shards(shards(numbers), partial(Doubler, 1), pool, "Doubler", **options))
    assert all(r.stored and not r.files for r in results)
    done = store.done()
    assert sorted(done) == list(range(12))
    assert all(int(c["prepared_by"]) not in {c["pid"], os.getpid()} for c in done.values())
    assert all((tmp_path / "shards" / f"{i:06d}.doubled.parquet").read_bytes()[0] == 1 + 2 * i for i in range(12))


@pytest.mark.usefixtures("local_ray")
def test_an_actor_that_cannot_store_its_result_ends_the_run(tmp_path: Path) -> None:
    store = ShardStore(Storage(str(tmp_path)))
    pool = ActorPool(1, 1, 1, num_cpus=1, num_gpus=0)
    with pytest.raises(RunError, match=r"shard 0 could not be stored: OSError: .*File too large"):
        list(run_shards(shards([[1]]), Oversized, pool, "Oversized", store=store))
    assert store.done() == {}


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("actors", [1, 2])
def test_every_shard_is_run_once(actors: int) -> None:
    numbers = [[i, i + 1] for i in range(12)]
    pool = ActorPool(actors, actors, actors, num_cpus=1, num_gpus=0)
    results = list(run_shards(shards(numbers), partial(Doubler, 1), pool, "Doubler"))
    assert sorted(r.shard for r in results) == list(range(12))
    assert all(list(r.files["doubled"]) == [1 + 2 * n for n in numbers[r.shard]] for r in results)
    assert len({r.counts["pid"] for r in results}) <= actors
    assert {r.counts["threads"] for r in results} == {1}


@pytest.mark.usefixtures("local_ray")
def test_a_bug_in_a_worker_ends_the_run_with_its_message() -> None:
    pool = ActorPool(1, 1, 1, num_cpus=1, num_gpus=0)
    with pytest.raises(Exception, match="thirteen"):
        list(run_shards(shards([[1], [13]]), partial(Doubler, 0), pool, "Doubler"))


@pytest.mark.parametrize(
    ("minimum", "maximum", "gpus", "resources", "work", "expected"),
    [
        (1, None, None, {"CPU": 8}, 100, ActorPool(1, 8, 8, 1, 0)),
        (1, None, None, {"CPU": 8}, 3, ActorPool(1, 3, 3, 1, 0)),
        (1, None, None, {"CPU": 64, "GPU": 4}, 100, ActorPool(1, 4, 4, 1, 1, calls_at_once=6)),
        (2, 16, 1, {"CPU": 4}, 100, ActorPool(2, 2, 16, 1, 1, calls_at_once=4)),
        (4, None, 0, {"CPU": 2, "GPU": 8}, 100, ActorPool(4, 4, 4, 1, 0)),
        (4, 8, None, {"CPU": 2}, 1, ActorPool(1, 1, 1, 1, 0)),
        (1, None, 0.5, {"CPU": 8, "GPU": 1}, 9, ActorPool(1, 2, 2, 1, 0.5, calls_at_once=4)),
    ],
)
def test_pools_fit_the_cluster(
    minimum: int, maximum: int | None, gpus: float | None, resources: dict, work: int, expected: ActorPool
) -> None:
    pool = plan_pool(minimum=minimum, maximum=maximum, num_cpus=1, num_gpus=gpus, resources=resources, work=work)
    assert pool == expected


def test_progress_in_a_log_is_a_line() -> None:
    out = io.StringIO()
    with progress(Meter(10, 4, "prompts", "tokens"), "score", Console(file=out, width=20)) as bar:
        bar.add(2, 100.0)
        bar.add(1, 50.0)
        bar.add(3, 50.0)
    lines = out.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == ["score: 6/10", "score: 10/10"]
    assert "tokens/s" in lines[1]


def test_the_root_cause_of_an_error_is_one_line() -> None:
    outer = RuntimeError("outer")
    outer.__cause__ = ValueError("inner\nsecond line")
    assert root_cause(outer) == "ValueError: inner"
    assert root_cause(KeyError()) == "KeyError: KeyError"
