"""Measuring the units of a run on actors, shard by shard, and merging the tables of all shards."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import pyarrow as pa

from stratoscope.digest import digest
from stratoscope.errors import RunError
from stratoscope.execution import ActorPool, Prepare, ShardWorker, plan_pool, resources, run_shards
from stratoscope.models import LoadSpec, dtype_name
from stratoscope.pipelines.runtime.context import RunContext
from stratoscope.pipelines.runtime.peaks import highest
from stratoscope.pipelines.sharded.config import ActorsSection, FailOnError, errors_allowed
from stratoscope.pipelines.sharded.layout import ShardLayout, Shards
from stratoscope.pipelines.sharded.models import OpenedModel
from stratoscope.pipelines.sharded.sizes import BATCH_TOKENS
from stratoscope.results import Manifest, ShardStore, Storage, TableRow, table_writer

ShardCounts = dict[int, dict[str, float]]
"""Counts of finished shards, by shard."""


@dataclass(frozen=True)
class ShardedWork:
    """The units of a run and how they are measured."""

    job: str
    """Name of the job."""
    unit: str
    """Name of a unit, in the plural."""
    units: pa.Table
    """All units in order: columns prompt_id, group and text."""
    layout: ShardLayout
    totals: tuple[str, ...]
    """Names of the counts that are summed over shards in the manifest."""
    fail_on_error: FailOnError
    """Whether errors fail the run, or the share or count above which they do, as configured."""
    prepare: Prepare | None = None
    """Function that CPU tasks apply to shards before the actors get them."""


def plan_actors(section: ActorsSection, store: ShardStore, layout: ShardLayout) -> ActorPool:
    """Fit a pool of actors to the cluster and to the shards that are missing."""
    return plan_pool(
        minimum=section.min,
        maximum=section.max,
        num_cpus=section.cpus,
        num_gpus=section.gpus,
        resources=resources(),
        work=layout.num_shards - store.num_done(),
    )


def fingerprints(
    model: OpenedModel, loading: LoadSpec, units: Mapping[str, str], settings: Mapping[str, Any]
) -> dict[str, str]:
    """Return the fingerprints of a run's weights, units and activations.

    Args:
        model: the model.
        loading: how actors load it.
        units: fingerprint of the units, by their name.
        settings: whatever else the activations depend on.
    """
    dtype = dtype_name(loading.dtype, loading.device)
    inputs = {"weights": model.weights, "dtype": dtype, "attention": loading.attention, **units, **settings}
    return {"weights": model.weights, **units, "activations": digest(inputs)}


def run_facts(model: OpenedModel, loading: LoadSpec, pool: ActorPool, layout: ShardLayout) -> dict[str, Any]:
    """Return the facts of a run's model, actors and shards for its manifest."""
    return {
        **asdict(model.facts),
        "device": loading.device,
        "dtype": dtype_name(loading.dtype, loading.device),
        "most_actors": pool.max_size,
        "threads_per_actor": int(pool.num_cpus),
        "num_shards": layout.num_shards,
        "shard_size": layout.shard_size,
    }


def measure_shards(
    context: RunContext, work: ShardedWork, make_worker: Callable[[], ShardWorker], pool: ActorPool, store: ShardStore
) -> None:
    """Measure the missing shards and record the counts of all.

    Args:
        context: the run.
        work: its units.
        make_worker: builds the worker inside each actor.
        pool: size and resources of the pool of actors.
        store: the shards of the run.

    Raises:
        RunError: the run is to stop, or more units failed than are allowed.
    """
    done = store.done()
    _check_errors(context, work, store, int(sum(counts["errors"] for counts in done.values())))
    computed: ShardCounts = {}
    if len(done) < work.layout.num_shards:
        computed = _run_shards(context, work, make_worker, pool, store, done=done)
        context.manifest.tokens_per_second = _tokens_per_second(computed.values())
    _record_counts(context.manifest, work, [*done.values(), *computed.values()], num_computed=len(computed))


def merge_tables(
    storage: Storage, store: ShardStore, row_types: Mapping[str, type[TableRow]], required: Iterable[str]
) -> None:
    """Write each table from its parts in all shards.

    Args:
        storage: the files of the run.
        store: its shards.
        row_types: row type of each table.
        required: tables that are written even if no shard has a part.
    """
    for name, row_type in row_types.items():
        _merge_table(storage, store, name, row_type.schema() if name in required else None)


def _merge_table(storage: Storage, store: ShardStore, name: str, empty: pa.Schema | None = None) -> None:
    parts = store.read(name)
    first = next(parts, None)
    schema = empty if first is None else first.schema
    if schema is None:
        return
    with table_writer(storage, name, schema) as append:
        for part in () if first is None else chain([first], parts):
            append(part)


def _run_shards(
    context: RunContext,
    work: ShardedWork,
    make_worker: Callable[[], ShardWorker],
    pool: ActorPool,
    store: ShardStore,
    *,
    done: ShardCounts,
) -> ShardCounts:
    """Run the missing shards and return their counts."""
    num_done, num_errors = (int(sum(c[name] for c in done.values())) for name in (work.unit, "errors"))
    missing = [shard for shard in range(work.layout.num_shards) if shard not in done]
    counts: ShardCounts = {}
    shards = Shards(work.layout, work.units, missing)
    with context.progress(work.job, work.layout.num_units, num_done, work.unit, "tokens") as bar:
        actor = f"{work.job.capitalize()}Actor"
        options: dict[str, Any] = {"prepare": work.prepare, "store": store, "stopping": context.stopping}
        for result in run_shards(shards, make_worker, pool, actor, **options):
            if not result.stored:
                store.write(result)
            counts[result.shard] = result.counts
            num_errors += int(result.counts["errors"])
            _check_errors(context, work, store, num_errors)
            bar.add(int(result.counts[work.unit]), result.counts["tokens"], errors=num_errors)
    if len(counts) < len(missing):
        num_shards = work.layout.num_shards
        raise RunError(
            f"stopped by SIGTERM with {num_shards - len(missing) + len(counts)} of {num_shards} shards done; repeat "
            "the command with the same run_id to resume"
        )
    return counts


def _check_errors(context: RunContext, work: ShardedWork, store: ShardStore, num_errors: int) -> None:
    """Fail the run if there are more errors than are allowed."""
    if num_errors > errors_allowed(work.fail_on_error, work.layout.num_units):
        _merge_table(context.storage, store, "errors")
        raise RunError(
            f"{num_errors} {work.unit} could not be scored and fail_on_error is {work.fail_on_error}; "
            f"they are in {context.storage.url('errors.parquet')}"
        )


def _tokens_per_second(counts: Iterable[Mapping[str, float]]) -> float:
    listed = list(counts)
    elapsed = max(c["ended"] for c in listed) - min(c["started"] for c in listed)
    return round(sum(c["tokens"] for c in listed) / elapsed, 1)


def _record_counts(manifest: Manifest, work: ShardedWork, counts: Sequence[dict[str, Any]], num_computed: int) -> None:
    manifest.counts = {name: int(sum(c[name] for c in counts)) for name in work.totals} | {
        "shards_computed": num_computed,
        "shards_skipped": work.layout.num_shards - num_computed,
        "shards_retried": sum(c["attempts"] > 1 for c in counts),
    }
    manifest.peak_memory_bytes = highest(counts, "peak_memory_bytes")
    manifest.peak_gpu_memory_bytes = highest(counts, "peak_gpu_memory_bytes")
    for name in ("withdrawn", "by_difference", BATCH_TOKENS):
        if fact := next((c[name] for c in counts if c.get(name)), None):
            manifest.facts[name] = fact  # the same in every shard
