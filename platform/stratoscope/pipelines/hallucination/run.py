"""The hallucination job: questions -> answers -> statistics of activations -> layer tests -> flagged layers."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, ClassVar

from rich.console import Console

from stratoscope.errors import InputError
from stratoscope.execution import ActorPool, cluster, resources
from stratoscope.pipelines.hallucination.config import HallucinationConfig
from stratoscope.pipelines.hallucination.encoding import QuestionEncoder
from stratoscope.pipelines.hallucination.estimate import estimate
from stratoscope.pipelines.hallucination.inputs import (
    HallucinationInputs,
    lay_out_inputs,
    open_inputs,
    write_answers_with_vllm,
)
from stratoscope.pipelines.hallucination.load_statistics import load_observations
from stratoscope.pipelines.hallucination.outcome import unreadable_notes, verdicts
from stratoscope.pipelines.hallucination.report import build_page, summary_table
from stratoscope.pipelines.hallucination.worker import HallucinationWorkerSettings, make_worker
from stratoscope.pipelines.reporting.data_notes import nonfinite_notes, question_counts
from stratoscope.pipelines.reporting.formatting import tap_notes
from stratoscope.pipelines.runtime.job import Job
from stratoscope.pipelines.runtime.surroundings import check_connected
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
from stratoscope.pipelines.sharded.taps import taps_read, taps_with_equal_quantiles
from stratoscope.results import Run, ShardStore, Storage, read_table, write_table
from stratoscope.scoring import (
    DEFINITIONS,
    AnswerObservations,
    AnswerView,
    DatasetResult,
    TooFewQuestionsError,
    check_enough,
    compare_datasets,
    first_results,
    run_layer_tests,
    separate_answers,
)
from stratoscope.tables import hallucination as tables

MAX_TOKENS = 2048
"""Maximum number of tokens of a question with an answer."""
TOTALS = ("questions", "scored", "answers", "errors", "tokens", "padded_tokens", "nonfinite", "halved")
"""Counts that are summed over shards in the manifest."""
SHARD_TABLES = ("errors", "pair_stats", "answers", "generated")


class HallucinationJob(Job[HallucinationConfig]):
    """Finds the layers of a model whose activations differ between wrong and right answers."""

    name: ClassVar[str] = "hallucination"
    config_class = HallucinationConfig
    inputs: HallucinationInputs

    def prepare(self) -> None:
        """Read the questions, open the model and lay out the shards."""
        self.inputs = open_inputs(self.config)

    def plan(self) -> Sequence[tuple[str, str]]:
        """Return what the run would do, and estimates of its cost."""
        inputs, model = self.inputs, self.inputs.model
        return estimate(self.config, model.source, model.facts, inputs.questions, inputs.layout)

    def execute(self) -> None:
        """Measure the missing shards, then test and separate, and report."""
        context, config, inputs = self.context, self.config, self.inputs
        store = ShardStore(context.storage)
        if config.pairs.answers != "given" and config.generation.engine == "vllm":
            with context.stage("answer"), cluster():
                inputs = write_answers_with_vllm(context.storage, config, inputs)
        with context.stage("measure"), cluster():
            check_connected(config, context.console)
            recorded = recorded_layout(store, self.previous_start, len(inputs.questions))
            inputs = replace(inputs, layout=recorded) if recorded else lay_out_inputs(config, inputs, resources())
            pool = plan_actors(config.actors, store, inputs.layout)
            settings = worker_settings(config, inputs, pool, recorded_tokens(store))
            context.manifest.fingerprints = input_fingerprints(config, inputs, settings)
            context.manifest.facts = input_facts(inputs, settings, pool)
            self.register(resumed=store.num_done() > 0)
            measure_shards(context, sharded_work(config, inputs, pool), partial(make_worker, settings), pool, store)
            shard_tables = {name: tables.TABLES[name] for name in SHARD_TABLES}
            merge_tables(context.storage, store, shard_tables, required=("errors", "pair_stats", "answers"))
        check_any_read(context.run)
        if context.manifest.counts["nonfinite"]:
            context.manifest.facts["nonfinite_layers"] = nonfinite_layers(context.storage, "pair_stats")
        write_rates(context.storage, config.separation.confidence)
        observations, notes = select_testable(read_observations(context.run, config), config)
        thresholds = [(tap, t.kind, t.epsilon) for tap, placed in observations.thresholds.items() for t in placed]
        if equal := taps_with_equal_quantiles(thresholds, len(config.contrasts.quantile)):
            context.manifest.facts["equal_quantiles"] = equal
        with context.stage("contrast"):
            results = flag_layers(context.storage, config, observations)
        with context.stage("separate"):
            separation = separate_datasets(context.storage, config, observations, results)
            sentences = verdicts(separation, results, random_sets=config.separation.random_sets)
            context.manifest.facts["verdicts"] = [*sentences, *notes]
        with context.stage("report"):
            context.write_report(build_page(context.run))

    def clear_intermediates(self) -> None:
        """Remove the shards, whose content the tables have."""
        ShardStore(self.context.storage).clear()

    @staticmethod
    def show(run: Run, console: Console) -> None:
        """Print the flagged layers, and how well they separate answers."""
        for line in nonfinite_notes(run.manifest):
            console.print(line, style="bold red", soft_wrap=True)
        console.print(summary_table(run))
        for line in run.manifest.facts["verdicts"]:
            console.print(line, soft_wrap=True)
        counts = run.manifest.counts
        for dataset in run.manifest.facts["datasets"]:
            console.print(f"{dataset['name']}: {question_counts(dataset)}", soft_wrap=True)
        console.print(
            f"{counts['scored']} questions, {counts['answers']} answers, {counts['tokens']:,} tokens, "
            f"{run.manifest.tokens_per_second or 0:,.0f} tokens/s, {counts['errors']} errors"
        )
        for line in tap_notes(run.manifest):
            console.print(line, soft_wrap=True)
        console.print(f"report: {run.report_path}", soft_wrap=True)


def sharded_work(config: HallucinationConfig, inputs: HallucinationInputs, pool: ActorPool) -> ShardedWork:
    """Return the questions as work for actors. GPU actors get encoded questions, so that they do not wait for it."""
    table, layout = inputs.questions.table, inputs.layout
    work = ShardedWork("hallucination", "questions", table, layout, TOTALS, config.fail_on_error)
    encoder = QuestionEncoder(inputs.model.source, config.model.trust_remote_code)
    return replace(work, prepare=encoder) if pool.num_gpus else work


def worker_settings(
    config: HallucinationConfig, inputs: HallucinationInputs, pool: ActorPool, recorded: int | None = None
) -> HallucinationWorkerSettings:
    """Return the settings of a pool's workers. `recorded` is the number of tokens per batch of an earlier start."""
    facts, taps, on_gpu = inputs.model.facts, config.readings.taps, pool.num_gpus > 0
    return HallucinationWorkerSettings(
        loading=config.model.to_loading(inputs.model.source, pool.num_gpus),
        answers=config.pairs.answers,
        answer_tokens=config.generation.max_tokens,
        taps=tuple(taps),
        parts=tuple(config.readings.parts),
        epsilons=tuple(sorted(config.readings.epsilons)),
        max_tokens=min(MAX_TOKENS, facts.max_positions or MAX_TOKENS),
        sizes=batch_sizes(config.batching, facts, taps, recorded, on_gpu=on_gpu),
        num_threads=int(pool.num_cpus),
    )


def input_fingerprints(
    config: HallucinationConfig, inputs: HallucinationInputs, settings: HallucinationWorkerSettings
) -> dict[str, str]:
    """Return the fingerprints of the weights, the questions and the activations."""
    return fingerprints(
        inputs.model,
        settings.loading,
        {"questions": inputs.questions.fingerprint},
        {
            "answers": settings.answers,
            "answer_tokens": settings.answer_tokens,
            "engine": config.generation.engine,
        },
    )


def input_facts(inputs: HallucinationInputs, settings: HallucinationWorkerSettings, pool: ActorPool) -> dict[str, Any]:
    """Return the facts of the run for its manifest."""
    return run_facts(inputs.model, settings.loading, pool, inputs.layout) | {
        "epsilons": list(settings.epsilons),
        "datasets": [asdict(dataset) for dataset in inputs.questions.datasets],
    }


def check_any_read(run: Run) -> None:
    """Check that at least one question was read.

    Raises:
        InputError: all questions have errors.
    """
    if not run.manifest.counts["scored"]:
        error = read_table(run.storage, "errors")["error"][0].as_py()
        raise InputError(f"no question could be read; the first error is: {error}")


def write_rates(storage: Storage, confidence: float) -> None:
    """Write how often the model's own answers are wrong, if there are any."""
    if storage.exists("generated.parquet"):
        generated = tables.GeneratedRow.read(read_table(storage, "generated"))
        write_table(storage, "rates", tables.RateRow.table(tables.rate_rows(generated, confidence)))


def read_observations(run: Run, config: HallucinationConfig) -> AnswerObservations:
    """Read the statistics of all answers."""
    taps = taps_read(config.readings.taps, run.manifest.facts)
    return load_observations(run.storage, taps, tuple(run.manifest.facts["epsilons"]), config.contrasts.thresholds)


def select_testable(
    observations: AnswerObservations, config: HallucinationConfig
) -> tuple[AnswerObservations, list[str]]:
    """Leave out the answers that cannot be read and the data sets that cannot be tested.

    Returns:
        The observations of the others, and sentences on what is left out and on layers that cannot be read.

    Raises:
        InputError: no data set can be tested.
    """
    views, folds = config.contrasts.to_views(), config.separation.folds
    readable = observations.without_unreadable(views)
    reasons = {name: _untestable_reason(name, readable, views[0], folds) for name in readable.answers}
    untestable = {name: reason for name, reason in reasons.items() if reason}
    if len(untestable) == len(readable.answers):
        raise InputError(next(iter(untestable.values())))
    kept = readable.without(untestable)
    notes = unreadable_notes(observations, kept, views)
    return kept, [*(f"{reason}." for reason in untestable.values()), *notes]


def _untestable_reason(dataset: str, observations: AnswerObservations, view: AnswerView, folds: int) -> str | None:
    """Return why a data set cannot be tested, or None if it can.

    Args:
        dataset: name of the data set.
        observations: its answers and those of others.
        view: the view that flags layers.
        folds: number of folds of the separation.
    """
    labels = observations.answers[dataset].labels
    if not observations.readings(dataset, view):
        return (
            f"no layer of taps {', '.join(observations.taps) or 'none'} can be read in the answers to {dataset!r} "
            f"with contrasts.variance {view.variance}; take other taps or another variance"
        )
    if labels.num_questions < folds:
        return f"{dataset!r} has {labels.num_questions} questions for {folds} folds; lower separation.folds"
    if labels.wrong.all() or not labels.wrong.any():
        kind = "wrong" if labels.wrong.all() else "right"
        return (
            f"all {len(labels.wrong)} answers to {dataset!r} are {kind}, so there is nothing to compare them with; "
            "use other questions, or --pairs.answers gold_and_own"
        )
    try:
        check_enough(labels)
    except TooFewQuestionsError as error:
        return f"{dataset!r} cannot be tested: {error} are needed; raise pairs.limit"
    return None


def flag_layers(storage: Storage, config: HallucinationConfig, observations: AnswerObservations) -> list[DatasetResult]:
    """Test all layers, and write the scores and the agreement of the data sets.

    Returns:
        The result of each data set that flags its layers.
    """
    section = config.contrasts
    results = list(
        run_layer_tests(observations, section.definitions, section.to_views(), section.to_inference(config.seed))
    )
    rows = [row for result in results for row in tables.score_rows(result, observations.thresholds)]
    write_table(storage, "hallucination_scores", tables.HallucinationScoreRow.table(tables.distinct_rows(rows)))
    first = first_results(results)
    agreement = map(tables.agreement_row, compare_datasets(first))
    write_table(storage, "agreement", tables.AgreementRow.table(agreement))
    return first


def separate_datasets(
    storage: Storage,
    config: HallucinationConfig,
    observations: AnswerObservations,
    results: Sequence[DatasetResult],
) -> list[tables.SeparationRow]:
    """Separate the answers of each data set by its flagged layers and by all baselines, and write the results.

    Returns:
        The rows of `separation`.
    """
    separation: list[tables.SeparationRow] = []
    random_sets: list[tables.RandomSetRow] = []
    for result in results:
        of_dataset, aurocs = separate_answers(
            observations.answers[result.dataset],
            observations.readings(result.dataset, result.view),
            result.view,
            DEFINITIONS[result.definition],
            settings=config.separation.to_settings(config.seed),
            inference=config.contrasts.to_inference(config.seed),
        )
        confidence = config.separation.confidence
        separation += [tables.separation_row(result.dataset, row, confidence) for row in of_dataset]
        random_sets += tables.random_set_rows(result.dataset, aurocs)
    write_table(storage, "separation", tables.SeparationRow.table(separation))
    write_table(storage, "random_sets", tables.RandomSetRow.table(random_sets))
    return separation
