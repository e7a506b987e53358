"""The scoring job: prompts -> statistics of activations -> scores of layers -> tables and a report."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, ClassVar

from rich.console import Console

from stratoscope.errors import InputError
from stratoscope.execution import ActorPool, cluster, resources
from stratoscope.pipelines.reporting.data_notes import nonfinite_notes, prompt_counts
from stratoscope.pipelines.reporting.formatting import tap_notes
from stratoscope.pipelines.runtime.context import RunContext
from stratoscope.pipelines.runtime.job import Job
from stratoscope.pipelines.runtime.surroundings import check_connected
from stratoscope.pipelines.score.config import ScoreConfig
from stratoscope.pipelines.score.encoding import ShardEncoder
from stratoscope.pipelines.score.estimate import estimate
from stratoscope.pipelines.score.group_report import group_tables
from stratoscope.pipelines.score.inputs import ScoreInputs, lay_out_inputs, open_inputs
from stratoscope.pipelines.score.load_statistics import StatisticsTables, score_tables
from stratoscope.pipelines.score.report import build_page, summary_table
from stratoscope.pipelines.score.shard_tables import RetentionPolicy
from stratoscope.pipelines.score.worker import ScoreWorkerSettings, make_worker
from stratoscope.pipelines.sharded.layout import recorded_layout
from stratoscope.pipelines.sharded.measure import (
    ShardedWork,
    fingerprints,
    measure_shards,
    merge_tables,
    plan_actors,
    run_facts,
)
from stratoscope.pipelines.sharded.nonfinite import nonfinite_layers
from stratoscope.pipelines.sharded.sizes import batch_sizes, recorded_tokens
from stratoscope.pipelines.sharded.taps import taps_with_equal_quantiles
from stratoscope.results import Run, ShardStore, read_table, write_table
from stratoscope.scoring import Scoring
from stratoscope.tables.score import ALL, TABLES, LayerScoreRow, StabilityRow, layer_score_rows, stability_row

TOTALS = ("prompts", "scored", "errors", "truncated", "tokens", "padded_tokens", "nonfinite", "halved")
"""Counts that are summed over shards in the manifest."""
SHARD_TABLES = ("errors", "layers", "prompt_stats", "span_stats", "shard_stats", "shard_spans")


class ScoreJob(Job[ScoreConfig]):
    """Ranks the layers of a model by the statistics of their activations on prompts."""

    name: ClassVar[str] = "score"
    config_class = ScoreConfig
    inputs: ScoreInputs

    def prepare(self) -> None:
        """Open the model, read the prompts and lay out the shards."""
        self.inputs = open_inputs(self.config)

    def plan(self) -> Sequence[tuple[str, str]]:
        """Return what the run would do, and estimates of its cost."""
        return estimate(self.config, self.inputs)

    def execute(self) -> None:
        """Measure the missing shards, then score the layers and report."""
        context, config = self.context, self.config
        store = ShardStore(context.storage)
        with context.stage("measure"), cluster():
            check_connected(config, context.console)
            inputs = self._settle_layout(store)
            pool = plan_actors(config.actors, store, inputs.layout)
            settings = worker_settings(config, inputs, pool, recorded_tokens(store))
            context.manifest.fingerprints = input_fingerprints(inputs, settings)
            context.manifest.facts = input_facts(inputs, settings, pool)
            self.register(resumed=store.num_done() > 0)
            measure_shards(context, sharded_work(config, inputs, pool), partial(make_worker, settings), pool, store)
        with context.stage("score"):
            shard_tables = {name: TABLES[name] for name in SHARD_TABLES}
            merge_tables(context.storage, store, shard_tables, required=("errors", "prompt_stats"))
            check_any_scored(context.run)
            source = StatisticsTables.from_run(context.run)
            if context.manifest.counts["nonfinite"]:
                context.manifest.facts["nonfinite_layers"] = nonfinite_layers(context.storage, source.stats)
            scorings = score_tables(source, config.scores.to_settings(config.seed))
            check_any_scoring(scorings, config.scores.metrics)
            thresholds = [(scoring.tap, scoring.epsilon_kind, scoring.epsilon) for _, scoring in scorings]
            if equal := taps_with_equal_quantiles(thresholds, len(config.scores.quantile)):
                context.manifest.facts["equal_quantiles"] = equal
            write_scores(context, scorings)
        with context.stage("report"):
            context.write_report(build_page(context.run))

    def clear_intermediates(self) -> None:
        """Remove the shards, whose content the tables have."""
        ShardStore(self.context.storage).clear()

    def _settle_layout(self, store: ShardStore) -> ScoreInputs:
        """Return the input with the layout of an earlier start, or one that suits the cluster."""
        recorded = recorded_layout(store, self.previous_start, len(self.inputs.prompts))
        if recorded is not None:
            return replace(self.inputs, layout=recorded)
        return lay_out_inputs(self.config, self.inputs, resources())

    @staticmethod
    def show(run: Run, console: Console) -> None:
        """Print the layers in order of importance and the facts of the run."""
        counts = run.manifest.counts
        for line in nonfinite_notes(run.manifest):
            console.print(line, style="bold red", soft_wrap=True)
        console.print(summary_table(run))
        for table in group_tables(run):
            console.print(table)
        console.print(prompt_counts(run.manifest.facts), soft_wrap=True)
        console.print(
            f"{counts['scored']} prompts, {counts['tokens']:,} tokens, "
            f"{run.manifest.tokens_per_second or 0:,.0f} tokens/s, {counts['errors']} errors"
        )
        for line in tap_notes(run.manifest):
            console.print(line, soft_wrap=True)
        console.print(f"report: {run.report_path}", soft_wrap=True)


def sharded_work(config: ScoreConfig, inputs: ScoreInputs, pool: ActorPool) -> ShardedWork:
    """Return the prompts as work for actors. GPU actors get encoded prompts, so that they do not wait for it."""
    work = ShardedWork("score", "prompts", inputs.prompts.table, inputs.layout, TOTALS, config.fail_on_error)
    return replace(work, prepare=shard_encoder(config, inputs)) if pool.num_gpus else work


def worker_settings(
    config: ScoreConfig, inputs: ScoreInputs, pool: ActorPool, recorded: int | None = None
) -> ScoreWorkerSettings:
    """Return the settings of a pool's workers. `recorded` is the number of tokens per batch of an earlier start."""
    taps, on_gpu = config.activations.taps, pool.num_gpus > 0
    return ScoreWorkerSettings(
        loading=config.model.to_loading(inputs.model.source, pool.num_gpus),
        encoding=config.prompts.to_encoding(inputs.max_tokens),
        taps=tuple(taps),
        epsilons=tuple(sorted(config.activations.epsilons)),
        spans=inputs.spans,
        retention=RetentionPolicy(
            inputs.layout.by_shard, config.statistics.reservoir, grouped=len(inputs.group_sizes) > 1
        ),
        sizes=batch_sizes(config.batching, inputs.model.facts, taps, recorded, on_gpu=on_gpu),
        num_threads=int(pool.num_cpus),
    )


def shard_encoder(config: ScoreConfig, inputs: ScoreInputs) -> ShardEncoder:
    """Return the encoder of shards in CPU tasks."""
    policy = config.prompts.to_encoding(inputs.max_tokens)
    return ShardEncoder(inputs.model.source, config.model.trust_remote_code, policy)


def input_fingerprints(inputs: ScoreInputs, settings: ScoreWorkerSettings) -> dict[str, str]:
    """Return the fingerprints of the weights, the prompts and the activations."""
    return fingerprints(
        inputs.model,
        settings.loading,
        {"prompts": inputs.prompts.ordered.fingerprint},
        {"encoding": asdict(settings.encoding), "template": inputs.prompts.template},
    )


def input_facts(inputs: ScoreInputs, settings: ScoreWorkerSettings, pool: ActorPool) -> dict[str, Any]:
    """Return the facts of the run for its manifest."""
    prompts = inputs.prompts.ordered
    return run_facts(inputs.model, settings.loading, pool, inputs.layout) | {
        "epsilons": list(settings.epsilons),
        "by_shard": inputs.layout.by_shard,
        "num_prompts": len(inputs.prompts),
        "prompts_read": prompts.num_read,
        "prompts_empty": prompts.num_empty,
        "prompts_duplicate": prompts.num_duplicates,
        "prompts_over_limit": prompts.num_over_limit,
        "groups": inputs.group_sizes,
    }


def check_any_scored(run: Run) -> None:
    """Check that at least one prompt was scored.

    Raises:
        InputError: all prompts have errors.
    """
    if not run.manifest.counts["scored"]:
        error = read_table(run.storage, "errors")["error"][0].as_py()
        raise InputError(f"no prompt could be scored; the first error is: {error}")


def check_any_scoring(scorings: Sequence[tuple[str, Scoring]], metrics: Sequence[str]) -> None:
    """Check that at least one score could be computed.

    Raises:
        InputError: the model lets none of the metrics be computed.
    """
    if not scorings:
        raise InputError(
            f"scores.metrics {', '.join(metrics)}: this model has no such score; magnitude needs weights that are not "
            "stored as integers or 8-bit floats, and scores of a tap need activations there; add block_influence"
        )


def write_scores(context: RunContext, scorings: Sequence[tuple[str, Scoring]]) -> None:
    """Write `layer_scores` and `stability`, and count the layers without any sparse activation."""
    rows = [row for group, scoring in scorings for row in layer_score_rows(scoring, group)]
    write_table(context.storage, "layer_scores", LayerScoreRow.table(rows))
    stability = [stability_row(scoring, group) for group, scoring in scorings]
    write_table(context.storage, "stability", StabilityRow.table(stability))
    never = [s.num_never_sparse for group, s in scorings if group == ALL and s.num_never_sparse is not None]
    context.manifest.counts["layers_never_sparse"] = max(never, default=0)
