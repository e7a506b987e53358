"""The flow of a search with target eavss: statistics of a hallucination run, trials, confirmation, report."""

from collections.abc import Sequence
from typing import ClassVar

from rich.console import Console

from stratoscope.errors import InputError, RunError
from stratoscope.execution import cluster, resources
from stratoscope.pipelines.runtime.context import RunContext
from stratoscope.pipelines.runtime.job import Job
from stratoscope.pipelines.runtime.run_lookup import open_finished
from stratoscope.pipelines.runtime.trials import tune
from stratoscope.pipelines.search.config import SearchConfig
from stratoscope.pipelines.search.eavss.checks import check_readings, split_datasets
from stratoscope.pipelines.search.eavss.report import build_page, summary_table
from stratoscope.pipelines.search.eavss.result import (
    DefinitionResult,
    definition_front,
    outcome_row,
    tuned_result,
    verdicts,
)
from stratoscope.pipelines.search.eavss.trial import DefinitionEvaluator, DefinitionTrial
from stratoscope.pipelines.search.trials import plan_trials, trial_origin
from stratoscope.pipelines.sharded.taps import taps_read
from stratoscope.results import Manifest, Run, Storage, read_table, write_table
from stratoscope.scoring.definition_outcome import DefinitionOutcome
from stratoscope.tables.eavss import DefinitionOutcomeRow, DefinitionTrialRow


class DefinitionSearch(Job[SearchConfig]):
    """Searches for the definition, tap, sparsity threshold and propensity whose flags separate answers best."""

    name: ClassVar[str] = "search"
    config_class = SearchConfig

    source: Storage
    statistics: Manifest
    """Manifest of the hallucination run."""
    evaluator: DefinitionEvaluator
    choose_on: tuple[str, ...]
    confirm_on: tuple[str, ...]

    def prepare(self) -> None:
        """Open the statistics and check that they hold what the space needs."""
        config, section = self.config, self.config.thresholds
        if config.statistics is None:
            raise InputError("target eavss needs --statistics: a finished hallucination run, by run_id, folder or URL")
        if config.search.algorithm not in ("tpe", "grid"):
            raise InputError(f"search.algorithm {config.search.algorithm} cannot search target eavss; take tpe or grid")
        self.source, self.statistics = open_finished(config.statistics, config.output, "hallucination")
        facts, readings = self.statistics.facts, self.statistics.config["readings"]
        taps = taps_read(readings["taps"], facts)
        space = section.to_space(tuple(map(str, section.taps or taps)))
        check_readings(space, taps, readings["parts"], config.statistics)
        datasets = [dataset["name"] for dataset in facts["datasets"]]
        tested = tested_questions(self.source)
        self.choose_on, self.confirm_on = split_datasets(section, datasets, tested, config.statistics)
        self.evaluator = DefinitionEvaluator(
            run=self.source.url(),
            space=space,
            counted=tuple(facts["epsilons"]),
            separation=section.separation,
            draws=section.draws,
            seed=config.seed,
        )

    def plan(self) -> Sequence[tuple[str, str]]:
        """Return what the run would do."""
        search = self.config.search
        grid_size = len(list(self.evaluator.space.grid()))
        trials = grid_size if search.algorithm == "grid" else search.num_samples
        return [
            ("statistics", self.source.url()),
            ("compared on", ", ".join(self.choose_on)),
            ("confirmed on", ", ".join(self.confirm_on) or "nothing: name data sets in thresholds.confirm_on"),
            ("work", f"{trials} trials by {search.algorithm}; no model runs"),
        ]

    def execute(self) -> None:
        """Run the trials, confirm the best, and report."""
        context = self.context
        self._record_fingerprints()
        self.register()
        with cluster(), context.stage("search"):
            results = run_definition_trials(context, self.config, self.evaluator, self.choose_on)
        best = max(results, key=lambda result: result.objective)
        if not best.outcomes:
            raise RunError(f"no trial finished; the first failed with: {results[0].error}")
        with context.stage("confirm"):
            confirmed = [self.evaluator.evaluate(best.candidate, dataset) for dataset in self.confirm_on]
        write_results(context.storage, results, best, confirmed)
        context.manifest.counts = {"trials": len(results)}
        sentences = verdicts(best, confirmed, random_sets=self.config.thresholds.separation.random_sets)
        context.manifest.facts |= {"best": best.trial_id, "verdicts": list(sentences)}
        with context.stage("report"):
            context.write_report(build_page(context.run))

    @staticmethod
    def show(run: Run, console: Console) -> None:
        """Print the best trials and the verdict."""
        console.print(summary_table(run))
        for line in run.manifest.facts["verdicts"]:
            console.print(line, soft_wrap=True)
        console.print(f"report: {run.report_path}", soft_wrap=True)

    def _record_fingerprints(self) -> None:
        """Record in the manifest what trials depend on."""
        statistics, manifest = self.statistics, self.context.manifest
        manifest.fingerprints = {
            "weights": statistics.fingerprints["weights"],
            "statistics": statistics.input_digest,
        }
        names = ("architecture", "num_layers", "num_parameters", "device", "dtype", "datasets")
        manifest.facts = {name: statistics.facts[name] for name in names} | {
            "statistics": self.source.url(),
            "model": statistics.config["model"]["source"],
            "choose_on": list(self.choose_on),
            "confirm_on": list(self.confirm_on),
        }


def tested_questions(source: Storage) -> dict[str, int]:
    """Return the number of tested questions of each data set that a hallucination run has tested."""
    scores = read_table(source, "hallucination_scores")
    return dict(zip(scores["dataset"].to_pylist(), scores["num_questions"].to_pylist(), strict=True))


def run_definition_trials(
    context: RunContext, config: SearchConfig, evaluator: DefinitionEvaluator, datasets: tuple[str, ...]
) -> list[DefinitionResult]:
    """Run all trials of a search."""
    space = evaluator.space
    plan = plan_trials(
        config.search,
        space,
        grid=map(space.config, space.grid()),
        starting_points=map(space.config, space.starting_points()),
        metrics=("objective", "size"),
        num_rungs=1,
        concurrency=config.search.concurrency or max(1, int(resources().get("CPU", 1))),
        seed=config.seed,
    )
    trial = DefinitionTrial(evaluator, datasets, config.thresholds.objective)
    trials = tune(context, trial, plan, callbacks=config.tracking.to_callbacks(context.folder.run_id))
    return [tuned_result(f"{index:04d}", trial_origin(index, plan), trial, space) for index, trial in enumerate(trials)]


def write_results(
    storage: Storage,
    results: Sequence[DefinitionResult],
    best: DefinitionResult,
    confirmed: Sequence[DefinitionOutcome],
) -> None:
    """Write the tables of trials, outcomes and front."""
    outcomes = [outcome_row(result.trial_id, "chosen_on", o) for result in results for o in result.outcomes]
    outcomes += [outcome_row(best.trial_id, "confirmed_on", o) for o in confirmed]
    front = definition_front(results)
    write_table(storage, "trials", DefinitionTrialRow.table(result.row() for result in results))
    write_table(storage, "outcomes", DefinitionOutcomeRow.table(outcomes))
    write_table(storage, "front", DefinitionTrialRow.table(result.row() for result in front))
