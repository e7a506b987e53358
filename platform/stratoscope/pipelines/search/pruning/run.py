"""The flow of a search with target pruning: statistics, trials, validation, checkpoint, report."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import Any, ClassVar

from rich.console import Console

from stratoscope.errors import InputError
from stratoscope.evaluation import (
    TaskItems,
    TruncatedPrompts,
    check_answers_fit,
    check_filters,
    choose_items,
    items_digest,
    load_tasks,
)
from stratoscope.execution import ActorPool, Service, cluster, cpus_per_worker, plan_pool, resources, serve
from stratoscope.models import (
    ModelFacts,
    ModelSource,
    check_prunable,
    dtype_name,
    find_protected_layers,
    load_config,
    load_tokenizer,
    weights_fingerprint,
)
from stratoscope.pipelines.reporting.data_notes import truncation_notes
from stratoscope.pipelines.runtime.config import validate
from stratoscope.pipelines.runtime.job import Job
from stratoscope.pipelines.runtime.mlflow import check_mlflow
from stratoscope.pipelines.runtime.run_lookup import open_finished
from stratoscope.pipelines.runtime.surroundings import check_connected, check_writable
from stratoscope.pipelines.score import ScoreConfig, ScoreJob
from stratoscope.pipelines.search.config import SearchConfig
from stratoscope.pipelines.search.pruning.checkpoint import export_chosen, run_mark
from stratoscope.pipelines.search.pruning.checks import check_budget, check_objective, check_path, check_ratios
from stratoscope.pipelines.search.pruning.estimate import estimate, protection_text
from stratoscope.pipelines.search.pruning.explore import Explorer, needs_scores
from stratoscope.pipelines.search.pruning.report import build_page, summary_table
from stratoscope.pipelines.search.pruning.statistics import FinishedScore, check_statistics, score_settings
from stratoscope.pipelines.search.pruning.store import EvaluationStore
from stratoscope.pipelines.search.pruning.validation import ValidatedSearch, Validator
from stratoscope.pipelines.search.pruning.worker import PruningEvaluator, PruningEvaluatorSettings
from stratoscope.pipelines.sharded.models import open_model
from stratoscope.pipelines.sharded.sizes import BATCH_TOKENS, evaluation_tokens
from stratoscope.pruning import LayerSet, best_objectives
from stratoscope.results import Run, RunFolder, Storage, table_writer, write_table
from stratoscope.tables.pruning import (
    ComparisonRow,
    EvaluationRow,
    FrontRow,
    PruningTrialRow,
    SpeedRow,
)


class PruningSearch(Job[SearchConfig]):
    """Searches for layers that a model can do without."""

    name: ClassVar[str] = "search"
    config_class = SearchConfig

    source: ModelSource
    facts: ModelFacts
    protected: LayerSet
    """Layers that are never dropped."""
    statistics: FinishedScore | None
    tasks: list[TaskItems]

    def prepare(self) -> None:
        """Resolve the model, open the statistics, load the tasks, and check that they fit together."""
        config, model = self.config, self.config.model
        opened = open_model(model, head=True)
        self.source, self.facts = opened.source, opened.facts
        check_prunable(load_config(self.source, trust_remote_code=model.trust_remote_code), model.source)
        self.protected = find_protected_layers(self.source, trust_remote_code=model.trust_remote_code)
        check_ratios(
            config.space.ratios,
            self.facts.num_layers,
            model.source,
            protected=self.protected,
            contiguous=config.space.to_space().contiguous,
        )
        check_budget(config.search, config.space.ratios, self.facts.num_layers, self.protected)
        check_mlflow("tracking.mlflow", config.tracking.mlflow)
        check_path(config.final.path, run_mark(self.context.manifest))
        if config.final.path is not None:
            check_writable("final.path", config.final.path, Storage(config.final.path))
        self.statistics = open_statistics(config, self.source) if config.statistics is not None else None
        if self.statistics is None:
            RunFolder(config.output, ScoreJob.name, self._statistics_run_id)
        tasks = load_tasks(config.evaluation.tasks)
        check_filters(tasks, config.evaluation.filters)
        check_answers_fit(tasks, self.facts.longest_sequence)
        self.tasks = self._choose_items(tasks)
        check_objective(config.search.objective, config.space.metrics, self.tasks)

    def plan(self) -> Sequence[tuple[str, str]]:
        """Return what the run would do, and estimates of its cost."""
        return estimate(
            self.config, self.facts, self.tasks, self.statistics, self.context.url, protected=self.protected
        )

    def execute(self) -> None:
        """Compute missing statistics, search, validate, export and report."""
        context, config = self.context, self.config
        with context.stage("statistics"):
            if self.statistics is None and needs_scores(config.search):
                self.statistics = self._compute_statistics()
                self.tasks = self._choose_items([items.task for items in self.tasks])
        with cluster(), ExitStack() as stack:
            check_connected(config, context.console)
            pool = plan_evaluators(config)
            settings = self._evaluator_settings(pool)
            self._record_fingerprints(settings)
            self.register()
            with context.stage("load", "loading the model"):
                make = partial(PruningEvaluator, settings)
                service = stack.enter_context(serve("Evaluator", make, pool, context.stopping))
                truncated: list[TruncatedPrompts] = service.call("truncated")
            with context.stage("search"):
                explorer = Explorer(context, config, service, self.facts.num_layers, self.protected)
                trials = explorer.explore(self.statistics)
            with context.stage("validate", "proof on held-out items"):
                validator = Validator(context, config, service, settings, self.tasks, protected=self.protected)
                search = validator.validate(trials)
                write_results(context.storage, search, [task.name for task in self.tasks])
                context.manifest.facts |= search.facts
                self._record_truncated(truncated)
            with context.stage("export", "export, and its proof in a process of its own"):
                self._export(service, search)
        store = EvaluationStore(context.storage)
        context.manifest.counts |= {"trials": len(trials), "evaluations": len(store)} | explorer.counts
        with context.stage("report"):
            write_evaluations(context.storage, store)
            context.write_report(build_page(context.run))

    def clear_intermediates(self) -> None:
        """Remove the evaluations, whose content the tables have."""
        EvaluationStore(self.context.storage).clear()

    @staticmethod
    def show(run: Run, console: Console) -> None:
        """Print the front and the verdict."""
        console.print(summary_table(run))
        if protected := run.manifest.facts.get("protected_layers"):
            console.print(protection_text(tuple(protected)), soft_wrap=True)
        for line in run.manifest.facts["verdicts"]:
            console.print(line, soft_wrap=True)
        if exported := run.manifest.facts.get("exported"):
            console.print(f"model: {exported}", soft_wrap=True)
        console.print(f"report: {run.report_path}", soft_wrap=True)

    def _export(self, service: Service, search: ValidatedSearch) -> None:
        """Export the chosen model and record its speed."""
        context, config = self.context, self.config
        if search.chosen is None or not config.final.export:
            return
        forward = search.speeds[search.size.without(search.chosen.dropped)]
        url, decoding = export_chosen(
            service,
            context.run,
            search.chosen,
            search.comparisons,
            forward,
            source=config.model.source,
            path=config.final.path,
        )
        write_table(context.storage, "speed", SpeedRow.table(SpeedRow(**vars(row)) for row in [forward, *decoding]))
        context.manifest.facts["exported"] = url

    def _compute_statistics(self) -> FinishedScore:
        """Run a score job for the statistics that the space needs."""
        config = self.config
        settings = {
            "output": config.output,
            "run_id": self._statistics_run_id,
            "reuse": config.reuse,
            "seed": config.seed,
            "model": config.model.model_dump(),
            "prompts": config.prompts.model_dump(),
            "actors": config.actors.model_dump(),
            **score_settings(config.space.to_space(), self.facts.num_layers),
        }
        job = ScoreJob(validate(ScoreConfig, settings), self.context.terminal, self.context.stopping)
        job.perform()
        return FinishedScore(job.context.storage, job.context.manifest)

    @property
    def _statistics_run_id(self) -> str:
        """Name of the score run that computes the statistics. It begins with the name of this run."""
        return f"{self.context.folder.run_id}-statistics"

    def _choose_items(self, tasks: Iterable[Any]) -> list[TaskItems]:
        """Return tasks of lm-evaluation-harness with their items, without calibration prompts."""
        config = self.config
        tokenizer = load_tokenizer(self.source, trust_remote_code=config.model.trust_remote_code)
        if config.evaluation.chat and not tokenizer.chat_template:
            raise InputError(f"evaluation.chat: the tokenizer of {config.model.source!r} has no chat template")
        sampling = config.evaluation.to_sampling(config.seed)
        return [choose_items(task, sampling, self._calibrated, tokenizer) for task in tasks]

    @property
    def _calibrated(self) -> frozenset[str]:
        return self.statistics.calibrated if self.statistics else frozenset()

    def _evaluator_settings(self, pool: ActorPool) -> PruningEvaluatorSettings:
        config = self.config
        loading = config.model.to_loading(self.source, pool.num_gpus)
        return PruningEvaluatorSettings(
            loading=loading,
            tasks=tuple(config.evaluation.tasks),
            sampling=config.evaluation.to_sampling(config.seed),
            calibrated=self._calibrated,
            max_length=self.facts.longest_sequence,
            batch_tokens=evaluation_tokens(
                config.evaluation.batch_tokens,
                self.facts,
                loading,
                self.previous_start,
                cpus=pool.num_cpus,
                gpus=pool.num_gpus,
            ),
            rungs=tuple(config.search.rungs),
            resampling=config.evaluation.to_resampling(config.seed),
            cache_bytes=int(config.search.cache_gb * 1e9),
            num_threads=int(pool.num_cpus),
            run=self.context.url,
        )

    def _record_fingerprints(self, settings: PruningEvaluatorSettings) -> None:
        """Record in the manifest the fingerprints of everything that evaluations depend on."""
        statistics, device = self.statistics, settings.loading.device
        dtype = dtype_name(self.config.model.dtype, device)
        self.context.manifest.fingerprints = {
            "weights": statistics.weights if statistics else weights_fingerprint(self.source),
            "statistics": statistics.manifest.input_digest if statistics else "none",
            "questions": items_digest(self.tasks),
            "number format": f"{dtype} on {device}",
        }
        self.context.manifest.facts = {
            **asdict(self.facts),
            "protected_layers": list(self.protected),
            "device": device,
            "dtype": dtype,
            "threads": settings.num_threads,
            BATCH_TOKENS: settings.batch_tokens,
            "statistics": statistics.storage.url() if statistics else "none",
            "tasks": {
                task.name: {
                    "metric": task.metric,
                    "metrics": [metric.name for metric in task.metrics],
                    "search": len(task.search),
                    "held_out": len(task.held_out),
                    "calibrated": task.num_excluded,
                    "unused": task.num_left,
                }
                for task in self.tasks
            },
        }

    def _record_truncated(self, truncated: Sequence[TruncatedPrompts]) -> None:
        """Record how many prompts of each task were too long for the model, with a sentence where there are any."""
        facts = self.context.manifest.facts
        for task in truncated:
            facts["tasks"][task.name]["truncated"] = task.number
        facts["verdicts"] += truncation_notes(truncated)


def open_statistics(config: SearchConfig, source: ModelSource) -> FinishedScore:
    """Open the score run that a configuration names.

    Raises:
        InputError: there is no such run, it is of another model, or it lacks what the space needs.
    """
    name = str(config.statistics)
    run = FinishedScore(*open_finished(name, config.output, "score"))
    if run.weights != weights_fingerprint(source):
        raise InputError(
            f"statistics {name!r} are of another model, {run.model!r} with weights {run.weights}, "
            f"not of model.source {config.model.source!r}; give --model.source {run.model}"
        )
    check_statistics(run, config.space.to_space(), name)
    return run


def plan_evaluators(config: SearchConfig) -> ActorPool:
    """Return the pool of evaluators that fits the cluster."""
    return plan_pool(
        minimum=1,
        maximum=config.evaluators.max,
        num_cpus=config.evaluators.cpus or cpus_per_worker(),
        num_gpus=config.evaluators.gpus,
        resources=resources(),
        work=config.search.concurrency or config.search.num_samples,
    )


def write_results(storage: Storage, search: ValidatedSearch, tasks: Sequence[str]) -> None:
    """Write the tables of trials, front and comparisons."""
    rows = {
        trial.trial_id: PruningTrialRow.from_trial(trial, search.size, search.speeds, best)
        for trial, best in zip(search.trials, best_objectives(search.trials), strict=True)
    }
    front = [
        FrontRow.from_row(rows[trial.trial_id], search.held_out[trial.dropped], chosen=trial is search.chosen)
        for trial in search.front
    ]
    write_table(storage, "trials", PruningTrialRow.table(rows.values(), tasks))
    write_table(storage, "front", FrontRow.table(front, tasks))
    write_table(storage, "comparison", ComparisonRow.table(map(ComparisonRow.from_comparison, search.comparisons)))


def write_evaluations(storage: Storage, store: EvaluationStore) -> None:
    """Write all stored evaluations as one table."""
    with table_writer(storage, "evaluations", EvaluationRow.schema()) as append:
        for table in store.tables():
            append(table)
