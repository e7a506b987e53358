"""The part of a job that sends shards of units to actors and keeps what comes back."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, TypeVar

import pyarrow as pa

from stratoscope.activations import Tap
from stratoscope.digest import digest
from stratoscope.errors import InputError, RunError
from stratoscope.execution import (
    ActorPool,
    ShardWorker,
    cluster,
    is_local,
    plan_pool,
    resources,
    run_shards,
)
from stratoscope.models import (
    LoadSpec,
    ModelFacts,
    ModelSource,
    describe_model,
    dtype_name,
    pin_source,
    resolve_source,
    weights_fingerprint,
)
from stratoscope.pipelines.runtime.job import Job
from stratoscope.pipelines.sharded.config import ShardedConfig
from stratoscope.pipelines.sharded.layout import ShardLayout, Shards
from stratoscope.results import ShardResult, ShardStore, table_writer

Config = TypeVar("Config", bound=ShardedConfig)


class MeasuringJob(Job[Config]):
    """A job that measures units shard by shard. A shard that is finished is never measured again."""

    unit: ClassVar[str]
    """What is measured, in the plural."""
    shard_tables: ClassVar[dict[str, pa.Schema]]
    """Of the tables that shards bring along; `errors` is among them."""
    always: ClassVar[tuple[str, ...]] = ("errors",)
    """Tables that are written even where they are empty."""
    counted: ClassVar[tuple[str, ...]]
    """Counts of shards that add up in the manifest."""
    layout: ShardLayout
    source: ModelSource
    facts: ModelFacts

    def open_model(self, taps: Sequence[Tap], field: str, *, head: bool = False) -> None:
        """Resolve the model, describe it, and see that all taps can be read.

        Args:
            taps: those that are asked for.
            field: of the configuration that names them.
            head: the model will be loaded with its vocabulary head.

        Raises:
            InputError: the model or a tap cannot be read.
        """
        model = self.config.model
        self.source = pin_source(resolve_source(model.source, model.revision))
        self.facts = describe_model(self.source, trust_remote_code=model.trust_remote_code, here=is_local(), head=head)
        if Tap.MLP_HIDDEN in taps and not self.facts.shows_hidden:
            raise InputError(f"{field}: mlp_hidden cannot be read from {self.facts.architecture}; leave it out")

    def record_fingerprints(
        self, loading: LoadSpec, pool: ActorPool, units: tuple[str, str], activations: Mapping[str, Any]
    ) -> None:
        """Note what activations depend on, and the facts of the model and the pool.

        Args:
            loading: how actors load the model.
            pool: theirs.
            units: what is measured, in the plural, and its fingerprint.
            activations: what else activations depend on.
        """
        weights = weights_fingerprint(self.source)
        dtype = dtype_name(loading.dtype, loading.device)
        name, fingerprint = units
        depends = {"weights": weights, "dtype": dtype, "attention": loading.attention, name: fingerprint}
        self.context.manifest.fingerprints = {
            "weights": weights,
            name: fingerprint,
            "activations": digest({**depends, **activations}),
        }
        self.context.manifest.facts = {
            **asdict(self.facts),
            "device": loading.device,
            "dtype": dtype,
            "most_actors": pool.max_size,
            "threads_per_actor": int(pool.num_cpus),
            "num_shards": self.layout.num_shards,
            "shard_size": self.layout.shard_size,
        }

    @abstractmethod
    def units(self) -> pa.Table:
        """Return all units in order: columns prompt_id, group and text."""

    @abstractmethod
    def worker(self, pool: ActorPool) -> Callable[[], ShardWorker]:
        """Return what makes the worker of an actor of a pool, and note what its results depend on."""

    def measure(self, store: ShardStore) -> None:
        """Measure the shards that are missing.

        Raises:
            RunError: the run is to stop, or more units failed than may.
        """
        counts = store.done()
        todo = [shard for shard in range(self.layout.num_shards) if shard not in counts]
        with cluster():
            actors = self.config.actors
            pool = plan_pool(
                minimum=actors.min,
                maximum=actors.max,
                num_cpus=actors.cpus,
                num_gpus=actors.gpus,
                resources=resources(),
                work=len(todo),
            )
            make_worker = self.worker(pool)
            self.register(resumed=bool(counts))
            if todo:
                counts |= self._run_shards(store, todo, make_worker, pool, list(counts.values()))
        self._count(list(counts.values()), computed=len(todo))

    def merge_tables(self, store: ShardStore) -> None:
        """Write each table from its parts in all shards."""
        for name in self.shard_tables:
            self._write_parts(store, name)

    def _run_shards(
        self,
        store: ShardStore,
        todo: Sequence[int],
        make_worker: Callable[[], ShardWorker],
        pool: ActorPool,
        earlier: Sequence[dict[str, float]],
    ) -> dict[int, dict[str, float]]:
        num_units = self.layout.num_units
        num_done = int(sum(c[self.unit] for c in earlier))
        allowed = self.config.errors_allowed(num_units)
        num_errors = int(sum(c["errors"] for c in earlier))
        counts: dict[int, dict[str, float]] = {}
        shards = Shards(self.layout, self.units(), todo)
        with self.context.progress(self.name, num_units, num_done, self.unit, "tokens") as bar:
            actor = f"{self.name.capitalize()}Actor"
            for result in run_shards(shards, make_worker, pool, actor, stopping=self.context.stopping):
                store.write(result)
                counts[result.shard] = result.counts
                num_errors += self._see_errors(store, result, num_errors, allowed)
                bar.add(int(result.counts[self.unit]), result.counts["tokens"], errors=num_errors)
        if len(counts) < len(todo):
            kept = self.layout.num_shards - len(todo) + len(counts)
            raise RunError(
                f"stopped by SIGTERM with {kept} of {self.layout.num_shards} shards done; "
                "the same run_id goes on from there"
            )
        elapsed = max(c["ended"] for c in counts.values()) - min(c["started"] for c in counts.values())
        self.context.manifest.tokens_per_second = round(sum(c["tokens"] for c in counts.values()) / elapsed, 1)
        return counts

    def _see_errors(self, store: ShardStore, result: ShardResult, earlier: int, allowed: int) -> int:
        """Return a shard's number of errors.

        Raises:
            RunError: together with the earlier ones they are more than are allowed.
        """
        errors = int(result.counts["errors"])
        if errors and earlier + errors > allowed:
            self._write_parts(store, "errors")
            raise RunError(
                f"{earlier + errors} {self.unit} could not be scored and fail_on_error is {self.config.fail_on_error}; "
                f"they are in {self.context.storage.url('errors.parquet')}"
            )
        return errors

    def _count(self, counts: Sequence[dict[str, float]], computed: int) -> None:
        self.context.manifest.counts = {name: int(sum(c[name] for c in counts)) for name in self.counted} | {
            "shards_computed": computed,
            "shards_skipped": self.layout.num_shards - computed,
            "shards_retried": sum(c["attempts"] > 1 for c in counts),
        }
        self.context.manifest.peak_memory_bytes = int(max(c["peak_memory_bytes"] for c in counts))

    def _write_parts(self, store: ShardStore, name: str) -> None:
        """Write the parts of a table from all shards as one; a table without parts only where readers expect it."""
        parts = store.read(name)
        first = next(parts, None)
        if first is None and name not in self.always:
            return
        with table_writer(
            self.context.storage, name, self.shard_tables[name] if first is None else first.schema
        ) as append:
            if first is not None:
                append(first)
            for part in parts:
                append(part)
