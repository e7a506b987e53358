"""A small scoring run, any of its fields replaced, the undisturbed one that others are compared with, and its parts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import stratoscope
    from stratoscope.pipelines.score import ScoreConfig, ScoreJob
    from stratoscope.pipelines.score.worker import ScoreWorkerSettings

Fields = Callable[..., dict]
COMPARED = ("prompt_stats", "layer_scores", "stability", "layers", "errors")
NUM_SHARDS = 40


@pytest.fixture(scope="session")
def many_prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """320 distinct prompts of 2 to 16 words, one a line."""
    path = tmp_path_factory.mktemp("prompts") / "many.txt"
    lines = [
        " ".join(f"w{(i * 7 + j * 3) % 100}" for j in range(1 + i % 15)) + f" w{i % 90} w{i // 90}" for i in range(320)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def small_run(tiny_model_folder: Path, many_prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Fields:
    """Fields of a run of 40 shards of eight prompts."""
    output = tmp_path_factory.mktemp("survival")

    def build(**changes: object) -> dict:
        base: dict = {
            "output": str(output),
            "model": {"source": str(tiny_model_folder)},
            "prompts": {"source": str(many_prompts), "limit": None},
            "batching": {"shard_size": 8, "max_tokens": 256},
            "actors": {"min": 1, "max": 1},
        }
        return base | changes

    return build


@pytest.fixture(scope="session")
def undisturbed(small_run: Fields, local_ray: None) -> "stratoscope.ScoreRun":  # noqa: ARG001
    import stratoscope

    return stratoscope.score(**small_run(run_id="undisturbed"))


def same_tables(run: "stratoscope.ScoreRun", expected: "stratoscope.ScoreRun") -> None:
    """The two runs agree to the bit, no prompt is lost and none is there twice."""
    for name in COMPARED:
        assert run.table(name).equals(expected.table(name)), name
    for name in ("prompts", "scored", "errors", "tokens"):
        assert run.manifest.counts[name] == expected.manifest.counts[name], name
    assert run.manifest.counts["prompts"] == 320


def settings_of(config: "ScoreConfig") -> "tuple[ScoreJob, ScoreWorkerSettings]":
    """The prepared job of a configuration, and the settings of its workers."""
    from stratoscope.execution import ActorPool
    from stratoscope.pipelines.score import ScoreJob
    from stratoscope.pipelines.score.run import worker_settings

    job = ScoreJob(config)
    job.prepare()
    return job, worker_settings(config, job.inputs, ActorPool(1, 1, 1, 1, 0))


def shards_of(job: "ScoreJob", *chosen: int) -> list[dict]:
    """Some shards of a prepared job, or all of them, as an actor gets them."""
    from stratoscope.pipelines.sharded.layout import Shards

    layout, prompts = job.inputs.layout, job.inputs.prompts
    numbers = chosen or range(layout.num_shards)
    return [row for table in Shards(layout, prompts.table, numbers) for row in table.to_pylist()]


def command_line(fields: dict, **changes: str) -> list[str]:
    """The options of a run, as given on a command line."""
    flat = {}
    for name, value in fields.items():
        inner = value if isinstance(value, dict) else {"": value}
        flat |= {f"{name}.{key}".rstrip("."): _text(v) for key, v in inner.items() if v is not None}
    flat = {"prompts.limit": "null"} | flat | changes
    return [part for name, value in flat.items() for part in (f"--{name}", value)]


def _text(value: object) -> str:
    return json.dumps(value) if isinstance(value, list) else str(value)
