"""The flow of the scoring job: prompts -> shards on actors -> statistics -> scores -> tables and a report."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from stratoscope.data import PromptSet, load_prompts
from stratoscope.errors import InputError
from stratoscope.execution import ActorPool, ShardWorker
from stratoscope.models import (
    load_tokenizer,
)
from stratoscope.pipelines.score import tables
from stratoscope.pipelines.score.config import ScoreConfig
from stratoscope.pipelines.score.estimate import estimate
from stratoscope.pipelines.score.gather import RetentionPolicy
from stratoscope.pipelines.score.layout import lay_out
from stratoscope.pipelines.score.load_statistics import StatisticsTables, load_observations
from stratoscope.pipelines.score.report import build_page, summary_table
from stratoscope.pipelines.score.tables import ALL
from stratoscope.pipelines.score.worker import ScoreWorkerSettings, make_worker
from stratoscope.pipelines.sharded.job import MeasuringJob
from stratoscope.results import Run, ShardStore, Storage, from_rows, read_table, write_table
from stratoscope.scoring import Scoring, num_dropped, score_layers

LONGEST_BY_DEFAULT = 1024


class ScoreJob(MeasuringJob[ScoreConfig]):
    """Ranks the layers of a model by the statistics of their activations on prompts."""

    name: ClassVar[str] = "score"
    config_class = ScoreConfig
    unit = "prompts"
    shard_tables = {
        "errors": tables.ERRORS,
        "layers": tables.LAYERS,
        "prompt_stats": tables.PROMPT_STATS,
        "span_stats": tables.SPAN_STATS,
        "shard_stats": tables.SHARD_STATS,
        "shard_spans": tables.SHARD_SPANS,
    }
    always = ("errors", "prompt_stats")
    counted = ("prompts", "scored", "errors", "truncated", "tokens", "padded_tokens", "nonfinite", "halved")

    prompts: PromptSet

    def prepare(self) -> None:
        """Resolve the model, read the prompts, and see that all that is asked for can be done."""
        config = self.config
        self.open_model(config.activations.taps, "activations.taps")
        self.prompts = load_prompts(config.prompts.to_source(), config.prompts.limit, config.seed)
        self._check()
        rows = self.facts.num_layers * len(config.activations.taps) + len(self._spans)
        self.layout = lay_out(config, len(self.prompts), rows)

    def plan(self) -> Sequence[tuple[str, str]]:
        """Return what the run would do, and estimates of what it takes."""
        return estimate(
            self.config, self.source, self.facts, self.prompts, layout=self.layout, max_tokens=self._max_tokens
        )

    def execute(self) -> None:
        """Measure what is missing, then merge, score and report."""
        store = ShardStore(self.context.storage)
        with self.context.stage("measure"):
            self.measure(store)
        with self.context.stage("score"):
            self._score(store)
        with self.context.stage("report"):
            self.context.write_report(build_page(self.context.storage, self.context.manifest))
        store.clear()

    @staticmethod
    def show(run: Run, console: Console) -> None:
        """Print the layers in order of importance and the facts of the run."""
        counts = run.manifest.counts
        console.print(summary_table(run.storage, run.manifest))
        console.print(
            f"{counts['scored']} prompts, {counts['tokens']:,} tokens, "
            f"{run.manifest.tokens_per_second or 0:,.0f} tokens/s, {counts['errors']} errors"
        )
        console.print(f"report: {run.report_url}", soft_wrap=True)

    @property
    def _max_tokens(self) -> int:
        given, positions = self.config.prompts.max_tokens, self.facts.max_positions
        return given or min(LONGEST_BY_DEFAULT, positions or LONGEST_BY_DEFAULT)

    @property
    def _spans(self) -> tuple[tuple[int, int], ...]:
        """Start and length of every span; the metric on spans brings that of the prune ratio along."""
        lengths = set(self.config.activations.spans)
        if "angular_distance" in self.config.scores.metrics and not lengths:
            lengths.add(max(1, num_dropped(self.config.scores.ratio, self.facts.num_layers)))
        return tuple((s, n) for n in sorted(lengths) for s in range(self.facts.num_layers - n + 1))

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
        groups = pc.unique(self.prompts.table["group"]).to_pylist()
        if len(groups) > 1 and ALL in groups:
            raise InputError(f"prompts.group: no group may be called {ALL!r}, for that names all prompts together")

    def units(self) -> pa.Table:
        """Return the prompts in order."""
        return self.prompts.table

    def worker(self, pool: ActorPool) -> Callable[[], ShardWorker]:
        """Return what makes a worker, and note what the activations depend on."""
        settings = self._worker_settings(pool)
        self._identify(settings, pool)
        return partial(make_worker, settings)

    def _worker_settings(self, pool: ActorPool) -> ScoreWorkerSettings:
        config = self.config
        return ScoreWorkerSettings(
            loading=config.model.to_loading(self.source, pool.num_gpus),
            encoding=config.prompts.to_encoding(self._max_tokens),
            taps=tuple(config.activations.taps),
            epsilons=tuple(sorted(config.activations.epsilons)),
            spans=self._spans,
            kept=RetentionPolicy(
                self.layout.by_shard,
                config.statistics.reservoir,
                grouped=pc.count_distinct(self.prompts.table["group"]).as_py() > 1,
            ),
            batch_tokens=config.batching.max_tokens,
            num_threads=int(pool.num_cpus),
        )

    def _identify(self, settings: ScoreWorkerSettings, pool: ActorPool) -> None:
        prompts = self.prompts.ordered
        self.record_fingerprints(
            settings.loading,
            pool,
            ("prompts", prompts.fingerprint),
            {"encoding": asdict(settings.encoding), "template": self.prompts.template},
        )
        self.context.manifest.facts |= {
            "epsilons": list(settings.epsilons),
            "by_shard": self.layout.by_shard,
            "num_prompts": len(self.prompts),
            "prompts_read": prompts.num_read,
            "prompts_empty": prompts.num_empty,
            "prompts_duplicate": prompts.num_duplicates,
        }

    def _score(self, store: ShardStore) -> None:
        self.merge_tables(store)
        if not self.context.manifest.counts["scored"]:
            first = read_table(self.context.storage, "errors")["error"][0].as_py()
            raise InputError(f"no prompt could be scored; the first error is: {first}")
        scorings = list(
            score_groups(
                self.context.storage, self.context.manifest.facts["epsilons"], self.config, self.layout.by_shard
            )
        )
        rows = [row for group, scoring in scorings for row in tables.score_rows(scoring, group)]
        write_table(self.context.storage, "layer_scores", from_rows(rows, tables.LAYER_SCORES))
        stability = [tables.stability_row(scoring, group) for group, scoring in scorings]
        write_table(self.context.storage, "stability", from_rows(stability, tables.STABILITY))
        never = [s.num_never_sparse for group, s in scorings if group == ALL and s.num_never_sparse is not None]
        self.context.manifest.counts["layers_never_sparse"] = max(never, default=0)


def score_groups(
    storage: Storage, epsilons: Sequence[float], config: ScoreConfig, by_shard: bool
) -> Iterator[tuple[str, Scoring]]:
    """Yield every scoring of all prompts, then of each group where there are several, in order of names.

    Args:
        storage: a run folder with its tables of statistics and layers.
        epsilons: the thresholds that were counted exactly.
        config: what to compute.
        by_shard: whether statistics were kept by shard.
    """
    choices = config.scores.to_choices(config.seed)
    taps = tuple(str(tap) for tap in config.activations.taps)
    seen = load_observations(StatisticsTables(storage, by_shard, taps, tuple(epsilons)), choices)
    weight_norm = read_table(storage, "layers")["weight_norm"].to_numpy(zero_copy_only=False)
    if np.isnan(weight_norm).any():
        choices = replace(choices, metrics=tuple(name for name in choices.metrics if name != "magnitude"))
    for group in [ALL, *sorted(set(seen) - {ALL})]:
        for scoring in score_layers(seen[group], weight_norm, choices):
            yield group, scoring
