"""The flow of the scoring job: prompts -> shards on actors -> statistics -> scores -> tables and a report."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from rich.console import Console

from stratoscope.data import PromptSet, load_prompts
from stratoscope.digest import digest
from stratoscope.errors import InputError
from stratoscope.execution import ActorPool, Meter, cluster, plan_pool, progress, resources, run_shards
from stratoscope.models import (
    ModelFacts,
    ModelSource,
    describe_model,
    dtype_name,
    load_tokenizer,
    pin_source,
    resolve_source,
    weights_fingerprint,
)
from stratoscope.pipelines.job import Job
from stratoscope.pipelines.score import tables
from stratoscope.pipelines.score.config import ScoreConfig
from stratoscope.pipelines.score.estimate import estimate
from stratoscope.pipelines.score.report import build_page, summary_table
from stratoscope.pipelines.score.scored import ALL
from stratoscope.pipelines.score.worker import ScoreWorker, WorkerSettings
from stratoscope.results import ShardStore, from_rows, render, write_table
from stratoscope.scoring import Observations, Scoring, num_dropped, score_layers

LONGEST_BY_DEFAULT = 1024


class ScoreJob(Job[ScoreConfig]):
    """Ranks the layers of a model by the statistics of their activations on prompts."""

    name: ClassVar[str] = "score"
    config_class = ScoreConfig

    source: ModelSource
    facts: ModelFacts
    prompts: PromptSet

    def prepare(self) -> None:
        """Resolve the model, read the prompts, and see that all that is asked for can be done."""
        config = self.config
        source = resolve_source(config.model.source, config.model.revision)
        self.prompts = load_prompts(config.prompts.to_source(), config.prompts.limit, config.seed)
        self.source = pin_source(source)
        self.facts = describe_model(self.source, trust_remote_code=config.model.trust_remote_code)
        self._check()

    def plan(self) -> Sequence[tuple[str, str]]:
        """Return what the run would do, and estimates of what it takes."""
        return estimate(
            self.config, self.source, self.facts, self.prompts, max_tokens=self._max_tokens, num_shards=self._num_shards
        )

    def execute(self) -> None:
        """Measure what is missing, then merge, score and report."""
        store = ShardStore(self.run.storage)
        with self.stage("measure"):
            self._measure(store)
        with self.stage("score"):
            self._score(store)
        with self.stage("report"):
            self.run.storage.write("report.html", render(build_page(self.run.storage, self.manifest)))
        store.clear()

    def show(self, console: Console) -> None:
        """Print the layers in order of importance and the facts of the run."""
        counts = self.manifest.counts
        console.print(summary_table(self.run.storage, self.manifest))
        console.print(
            f"{counts['scored']} prompts, {counts['tokens']:,} tokens, "
            f"{self.manifest.tokens_per_second or 0:,.0f} tokens/s, {counts['errors']} errors"
        )
        console.print(f"report: {self.run.storage.url('report.html')}", soft_wrap=True)

    @property
    def _max_tokens(self) -> int:
        given, positions = self.config.prompts.max_tokens, self.facts.max_positions
        return given or min(LONGEST_BY_DEFAULT, positions or LONGEST_BY_DEFAULT)

    @property
    def _num_shards(self) -> int:
        return -(-len(self.prompts.prompts) // self.config.batching.shard_size)

    def _check(self) -> None:
        config, num_layers, positions = self.config, self.facts.num_layers, self.facts.max_positions
        if positions is not None and self._max_tokens > positions:
            raise InputError(
                f"prompts.max_tokens {self._max_tokens} is more than the {positions} positions of "
                f"{config.model.source!r}; give at most that"
            )
        for length in config.activations.spans:
            if length > num_layers:
                raise InputError(f"activations.spans {length}: {config.model.source!r} has only {num_layers} layers")
        if config.prompts.chat:
            tokenizer = load_tokenizer(self.source, trust_remote_code=config.model.trust_remote_code)
            if not tokenizer.chat_template:
                raise InputError(f"prompts.chat: the tokenizer of {config.model.source!r} has no chat template")

    def _measure(self, store: ShardStore) -> None:
        done = store.done()
        todo = [shard for shard in range(self._num_shards) if shard not in done]
        counts = list(done.values())
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
            settings = self._worker_settings(pool)
            self._identify(settings, pool)
            if done:
                self.check_fingerprints()
            self.run.write_manifest(self.manifest)
            if todo:
                counts += self._run_shards(store, todo, settings, pool, sum(int(c["prompts"]) for c in counts))
        self._count(counts, computed=len(todo))

    def _run_shards(
        self, store: ShardStore, todo: Sequence[int], settings: WorkerSettings, pool: ActorPool, earlier: int
    ) -> list[dict[str, float]]:
        meter = Meter(len(self.prompts.prompts), earlier, "prompts", "tokens")
        counts = []
        with progress(meter, "score", self.terminal.console) as bar:
            for result in run_shards(self._shards(todo), partial(ScoreWorker, settings), pool, "ScoreActor"):
                store.write(result)
                counts.append(result.counts)
                bar.add(int(result.counts["prompts"]), result.counts["tokens"])
        elapsed = max(c["ended"] for c in counts) - min(c["started"] for c in counts)
        self.manifest.tokens_per_second = round(sum(c["tokens"] for c in counts) / elapsed, 1)
        return counts

    def _shards(self, chosen: Sequence[int]) -> pa.Table:
        size = self.config.batching.shard_size
        parts = {shard: self.prompts.prompts[shard * size : (shard + 1) * size] for shard in chosen}
        return pa.table(
            {
                "shard": list(parts),
                "prompt_id": [[p.prompt_id for p in part] for part in parts.values()],
                "group": [[p.group for p in part] for part in parts.values()],
                "text": [[p.text for p in part] for part in parts.values()],
            }
        )

    def _worker_settings(self, pool: ActorPool) -> WorkerSettings:
        config = self.config
        spans = [(s, n) for n in self._span_lengths() for s in range(self.facts.num_layers - n + 1)]
        return WorkerSettings(
            source=self.source,
            device="cuda" if pool.num_gpus else "cpu",
            dtype=config.model.dtype,
            attention=config.model.attention,
            trust_remote_code=config.model.trust_remote_code,
            encoding=config.prompts.to_encoding(self._max_tokens),
            taps=tuple(config.activations.taps),
            epsilons=tuple(sorted(config.activations.epsilons)),
            spans=tuple(spans),
            batch_tokens=config.batching.max_tokens,
            num_threads=int(pool.num_cpus),
        )

    def _span_lengths(self) -> list[int]:
        """Return the lengths asked for; the metric on spans brings that of the prune ratio along."""
        lengths = set(self.config.activations.spans)
        if "angular_distance" in self.config.scores.metrics and not lengths:
            lengths.add(max(1, num_dropped(self.config.scores.ratio, self.facts.num_layers)))
        return sorted(lengths)

    def _identify(self, settings: WorkerSettings, pool: ActorPool) -> None:
        """Note what the activations depend on."""
        weights = weights_fingerprint(self.source)
        dtype = dtype_name(settings.dtype, settings.device)
        self.manifest.fingerprints = {
            "weights": weights,
            "prompts": self.prompts.fingerprint,
            "activations": digest(
                {
                    "weights": weights,
                    "dtype": dtype,
                    "attention": settings.attention,
                    "encoding": asdict(settings.encoding),
                    "template": self.prompts.template,
                    "prompts": self.prompts.fingerprint,
                }
            ),
        }
        self.manifest.facts = {
            **asdict(self.facts),
            "device": settings.device,
            "dtype": dtype,
            "most_actors": pool.max_size,
            "threads_per_actor": settings.num_threads,
            "epsilons": list(settings.epsilons),
            "prompts_read": self.prompts.num_read,
            "prompts_empty": self.prompts.num_empty,
            "prompts_duplicate": self.prompts.num_duplicates,
        }

    def _count(self, counts: Sequence[dict[str, float]], computed: int) -> None:
        names = ("prompts", "scored", "errors", "truncated", "tokens", "padded_tokens", "nonfinite")
        self.manifest.counts = {name: int(sum(c[name] for c in counts)) for name in names} | {
            "shards_computed": computed,
            "shards_skipped": self._num_shards - computed,
        }
        self.manifest.peak_memory_bytes = int(max(c["peak_memory_bytes"] for c in counts))

    def _score(self, store: ShardStore) -> None:
        errors = list(store.read("errors"))
        parts = list(store.read("prompt_stats"))
        if not parts:
            first = errors[0]["error"][0].as_py()
            raise InputError(f"no prompt could be scored; the first error is: {first}")
        stats, layers = pa.concat_tables(parts), next(store.read("layers"))
        write_table(self.run.storage, "errors", pa.concat_tables([tables.ERRORS.empty_table(), *errors]))
        write_table(self.run.storage, "prompt_stats", stats)
        write_table(self.run.storage, "layers", layers)
        spans = list(store.read("span_stats"))
        if spans:
            write_table(self.run.storage, "span_stats", pa.concat_tables(spans))
        scorings = list(
            score_groups(stats, pa.concat_tables(spans) if spans else None, layers, self.manifest.facts, self.config)
        )
        rows = [row for group, scoring in scorings for row in tables.score_rows(scoring, group)]
        write_table(self.run.storage, "layer_scores", from_rows(rows, tables.LAYER_SCORES))
        stability = [tables.stability_row(scoring, group) for group, scoring in scorings]
        write_table(self.run.storage, "stability", from_rows(stability, tables.STABILITY))
        never = [s.num_never_sparse for group, s in scorings if group == ALL and s.num_never_sparse is not None]
        self.manifest.counts["layers_never_sparse"] = max(never, default=0)


def score_groups(
    stats: pa.Table, spans: pa.Table | None, layers: pa.Table, facts: dict[str, Any], config: ScoreConfig
) -> Iterator[tuple[str, Scoring]]:
    """Yield every scoring of all prompts, then of each group where there are several.

    Args:
        stats: the table `prompt_stats`.
        spans: the table `span_stats`, where spans were measured.
        layers: the table `layers`.
        facts: the manifest's facts, for the thresholds that were counted.
        config: what to compute.
    """
    epsilons = tuple(facts["epsilons"])
    loaded = {str(tap): tables.statistics_of_tap(stats, str(tap), epsilons) for tap in config.activations.taps}
    _, ids, groups = next(iter(loaded.values()))
    angles = tables.angles_of(spans, ids) if spans is not None else {}
    everything = Observations({tap: statistics for tap, (statistics, _, _) in loaded.items()}, angles)
    choices = config.scores.to_choices(config.seed)
    weight_norm = layers["weight_norm"].to_numpy()
    for scoring in score_layers(everything, weight_norm, choices):
        yield ALL, scoring
    names = sorted(set(groups))
    for group in names if len(names) > 1 else []:
        members = np.flatnonzero(np.asarray(groups) == group)
        part = Observations(
            {tap: s[members] for tap, s in everything.taps.items()},
            {span: angle[members] for span, angle in angles.items()},
        )
        for scoring in score_layers(part, weight_norm, choices, everything):
            yield group, scoring
