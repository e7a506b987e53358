"""The flow of the search job: statistics -> candidates -> trials -> front -> held-out items -> checkpoint."""

import importlib.util
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import ClassVar

from rich.console import Console

from stratoscope.errors import InputError
from stratoscope.evaluation import TaskItems, choose_items, items_digest, load_tasks
from stratoscope.execution import Service, cluster, cpus_per_worker, is_local, plan_pool, resources, serve
from stratoscope.models import (
    ModelFacts,
    ModelSource,
    check_describable,
    check_prunable,
    describe_model,
    dtype_name,
    load_config,
    load_tokenizer,
    pin_source,
    resolve_source,
    weights_fingerprint,
)
from stratoscope.pipelines.runtime.config import validate
from stratoscope.pipelines.runtime.job import Job
from stratoscope.pipelines.runtime.run_lookup import open_finished
from stratoscope.pipelines.score import ScoreConfig, ScoreJob
from stratoscope.pipelines.search.config import SearchConfig
from stratoscope.pipelines.search.pruning import statistics
from stratoscope.pipelines.search.pruning.estimate import estimate
from stratoscope.pipelines.search.pruning.explore import Explorer
from stratoscope.pipelines.search.pruning.report import build_page, summary_table
from stratoscope.pipelines.search.pruning.statistics import FinishedScore
from stratoscope.pipelines.search.pruning.store import EvaluationStore
from stratoscope.pipelines.search.pruning.tables import EVALUATIONS
from stratoscope.pipelines.search.pruning.validation import Validator
from stratoscope.pipelines.search.pruning.worker import PruningEvaluatorSettings, make_search_worker, read_mark
from stratoscope.results import Run, Storage, table_writer
from stratoscope.scoring import num_dropped

LONGEST = 2048
"""Most tokens of a sequence, where the model has positions for more."""


class SearchJob(Job[SearchConfig]):
    """Finds layers that a model can do without."""

    name: ClassVar[str] = "search"
    config_class = SearchConfig

    source: ModelSource
    facts: ModelFacts
    statistics: FinishedScore | None
    tasks: list[TaskItems]

    def prepare(self) -> None:
        """Resolve the model, open the statistics, load the tasks, and see that all fits together."""
        config = self.config
        self.source = pin_source(resolve_source(config.model.source, config.model.revision))
        self.facts = describe_model(
            self.source, trust_remote_code=config.model.trust_remote_code, here=is_local(), head=True
        )
        check_prunable(load_config(self.source, trust_remote_code=config.model.trust_remote_code), config.model.source)
        check_describable(self.source, trust_remote_code=config.model.trust_remote_code)
        self._check_ratios()
        self._check_tracking()
        self._check_path()
        self.statistics = None
        calibrated = frozenset[str]()
        if config.statistics is not None:
            self.statistics = self._open_statistics(config.statistics)
            calibrated = self.statistics.calibrated
        tokenizer = load_tokenizer(self.source, trust_remote_code=config.model.trust_remote_code)
        if config.evaluation.chat and not tokenizer.chat_template:
            raise InputError(f"evaluation.chat: the tokenizer of {config.model.source!r} has no chat template")
        choice = config.evaluation.to_choice(config.seed)
        self.tasks = [choose_items(t, choice, calibrated, tokenizer) for t in load_tasks(config.evaluation.tasks)]
        self._check_objective()

    def plan(self) -> Sequence[tuple[str, str]]:
        """Return what the run would do, and estimates of what it takes."""
        return estimate(self.config, self.facts, self.tasks, self.statistics, self.context.url)

    def execute(self) -> None:
        """Make what is missing of the statistics, search, prove, export and report."""
        config = self.config
        with self.context.stage("statistics"):
            run = self.statistics
            if run is None and config.search.algorithm != "greedy":
                run = self._make_statistics()
                self._choose_again(run)
        with cluster():
            pool = plan_pool(
                minimum=1,
                maximum=config.evaluators.max,
                num_cpus=config.evaluators.cpus or cpus_per_worker(),
                num_gpus=config.evaluators.gpus,
                resources=resources(),
                work=config.search.concurrency or config.search.num_samples,
            )
            settings = self._settings(run, pool.num_cpus, pool.num_gpus)
            self._identify(run, settings)
            self.register()
            with ExitStack() as stack:
                with self.context.stage("load"):
                    make = partial(make_search_worker, settings)
                    service = stack.enter_context(serve("Evaluator", make, pool, self.context.stopping))
                self._search(run, settings, service)
        store = EvaluationStore(self.context.storage)
        with self.context.stage("report"):
            with table_writer(self.context.storage, "evaluations", EVALUATIONS) as append:
                for table in store.tables():
                    append(table)
            self.context.write_report(build_page(self.context.storage, self.context.manifest))
        store.clear()

    @staticmethod
    def show(run: Run, console: Console) -> None:
        """Print the front and the verdict."""
        console.print(summary_table(run.storage, run.manifest))
        for line in run.manifest.facts["verdicts"]:
            console.print(line, soft_wrap=True)
        if exported := run.manifest.facts.get("exported"):
            console.print(f"model: {exported}", soft_wrap=True)
        console.print(f"report: {run.report_url}", soft_wrap=True)

    def _search(self, run: FinishedScore | None, settings: PruningEvaluatorSettings, service: Service) -> None:
        explorer = Explorer(self, service, settings, self.facts.num_layers)
        with self.context.stage("search"):
            trials = explorer.explore(run)
        with self.context.stage("prove"):
            Validator(self, service, settings, self.tasks).prove(trials)
        store = EvaluationStore(self.context.storage)
        self.context.manifest.counts |= {"trials": len(trials), "evaluations": len(store)} | explorer.counts

    def _check_ratios(self) -> None:
        num_layers = self.facts.num_layers
        for ratio in self.config.space.ratios:
            count = num_dropped(ratio, num_layers)
            if count >= num_layers:
                raise InputError(
                    f"space.ratios {ratio} leaves none of the {num_layers} layers of {self.config.model.source!r}; "
                    f"give at most {(num_layers - 1) / num_layers:.3g}"
                )
            if count == 0:
                raise InputError(
                    f"space.ratios {ratio} drops none of the {num_layers} layers of {self.config.model.source!r}; "
                    f"give at least {1 / num_layers:.3g}"
                )

    def _check_tracking(self) -> None:
        if self.config.tracking.mlflow is not None and importlib.util.find_spec("mlflow") is None:
            raise InputError("tracking.mlflow needs the package mlflow: pip install 'stratoscope[mlflow]'")

    def _check_path(self) -> None:
        path = self.config.final.path
        if path is None or not Storage(path).names():
            return
        mark = read_mark(path)
        if mark is None or mark["run_id"] != self.context.folder.run_id:
            raise InputError(f"final.path {path!r} exists and is not empty; name another folder")

    def _check_objective(self) -> None:
        search, text = self.config.search, [task.name for task in self.tasks if task.by_token]
        if search.objective == "bits_per_byte" and not text:
            raise InputError(
                "search.objective bits_per_byte needs a task of language-model text in evaluation.tasks: passages"
            )
        if "perplexity_drop" in self.config.space.metrics and not text:
            raise InputError("perplexity_drop needs a task of language-model text in evaluation.tasks: passages")

    def _open_statistics(self, name: str) -> FinishedScore:
        run = FinishedScore(*open_finished(name, self.config.output, "score"))
        if run.weights != weights_fingerprint(self.source):
            raise InputError(
                f"statistics {name!r} are of another model, {run.config.model.source!r} with weights {run.weights}, "
                f"not of model.source {self.config.model.source!r}; give --model.source {run.config.model.source}"
            )
        statistics.check_statistics(run, self.config.space, name)
        return run

    def _make_statistics(self) -> FinishedScore:
        config = self.config
        settings = {
            "output": config.output,
            "run_id": f"{self.context.folder.run_id}-statistics",
            "reuse": config.reuse,
            "seed": config.seed,
            "model": config.model.model_dump(),
            "prompts": config.prompts.model_dump(),
            "actors": config.actors.model_dump(),
            **statistics.score_settings(config.space, statistics.spans_needed(config.space, self.facts.num_layers)),
        }
        job = ScoreJob(validate(ScoreConfig, settings), self.context.terminal, self.context.stopping)
        job.perform()
        return FinishedScore(job.context.storage, job.context.manifest)

    def _choose_again(self, run: FinishedScore) -> None:
        """Choose the items once more, now that it is known what was calibrated on."""
        tokenizer = load_tokenizer(self.source, trust_remote_code=self.config.model.trust_remote_code)
        choice, calibrated = self.config.evaluation.to_choice(self.config.seed), run.calibrated
        self.tasks = [choose_items(task.task, choice, calibrated, tokenizer) for task in self.tasks]

    def _identify(self, run: FinishedScore | None, settings: PruningEvaluatorSettings) -> None:
        """Note what evaluations depend on."""
        device = settings.loading.device
        dtype = dtype_name(self.config.model.dtype, device)
        self.context.manifest.fingerprints = {
            "weights": run.weights if run else weights_fingerprint(self.source),
            "statistics": run.manifest.fingerprints["activations"] if run else "none",
            "questions": items_digest(self.tasks),
            "number format": f"{dtype} on {device}",
        }
        self.context.manifest.facts = {
            **asdict(self.facts),
            "device": device,
            "dtype": dtype,
            "threads": settings.num_threads,
            "statistics": run.storage.url() if run else "none",
            "tasks": {
                t.name: {
                    "metric": t.metric,
                    "search": len(t.search),
                    "held_out": len(t.held_out),
                    "calibrated": t.num_excluded,
                    "unused": t.num_left,
                }
                for t in self.tasks
            },
        }

    def _settings(self, run: FinishedScore | None, num_cpus: float, num_gpus: float) -> PruningEvaluatorSettings:
        config = self.config
        return PruningEvaluatorSettings(
            loading=config.model.to_loading(self.source, num_gpus),
            tasks=tuple(config.evaluation.tasks),
            choice=config.evaluation.to_choice(config.seed),
            calibrated=run.calibrated if run else frozenset(),
            max_length=min(LONGEST, self.facts.max_positions or LONGEST),
            batch_tokens=config.evaluation.batch_tokens,
            rungs=tuple(config.search.rungs),
            resampling=config.evaluation.to_resampling(config.seed),
            cache_bytes=int(config.search.cache_gb * 1e9),
            num_threads=int(num_cpus),
            run=self.context.url,
        )
