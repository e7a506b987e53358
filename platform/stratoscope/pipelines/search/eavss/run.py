"""The search with target eavss: statistics of a hallucination run -> trials -> the best candidate, confirmed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from rich.console import Console

from stratoscope.errors import InputError, RunError, first_line, suggest
from stratoscope.execution import Trial, TrialPlan, cluster, resources
from stratoscope.pipelines.hallucination.config import HallucinationConfig
from stratoscope.pipelines.hallucination.outcome import against_random
from stratoscope.pipelines.runtime.config import validate
from stratoscope.pipelines.runtime.job import Job
from stratoscope.pipelines.runtime.run_lookup import open_finished
from stratoscope.pipelines.runtime.trials import tune
from stratoscope.pipelines.search.config import SearchConfig
from stratoscope.pipelines.search.eavss import tables
from stratoscope.pipelines.search.eavss.report import build_page, summary_table
from stratoscope.pipelines.search.eavss.space import DefinitionCandidate, DefinitionSpace
from stratoscope.pipelines.search.eavss.trial import DefinitionOutcome, DefinitionTrial, Judge, read_outcomes
from stratoscope.results import Manifest, Run, Storage, from_rows, read_table, write_table

CHOSEN, CONFIRMED = "chosen_on", "confirmed_on"


@dataclass(frozen=True)
class DefinitionResult:
    """A trial and how it ended."""

    trial_id: str
    origin: str
    candidate: DefinitionCandidate
    trial: Trial
    outcomes: tuple[DefinitionOutcome, ...]
    """On the data sets that trials are judged on; none where it failed."""

    @property
    def objective(self) -> float:
        """What was to be large."""
        return float(self.trial.metrics["objective"]) if self.outcomes else float("-inf")

    def mean(self, name: str) -> float | None:
        """Return the mean of a number over data sets."""
        return float(np.mean([getattr(o, name) for o in self.outcomes])) if self.outcomes else None


class ThresholdSearch(Job[SearchConfig]):
    """Searches definition, tap, sparsity threshold and propensity by how well the flagged layers tell answers apart."""

    name: ClassVar[str] = "search"
    config_class = SearchConfig

    source: Storage
    measured: Manifest
    judge: Judge
    choose_on: tuple[str, ...]
    confirm_on: tuple[str, ...]

    def prepare(self) -> None:
        """Open the statistics and see that they hold what the space needs."""
        config = self.config
        if config.statistics is None:
            raise InputError("target eavss needs --statistics: a finished hallucination run, by run_id, folder or URL")
        if config.search.algorithm not in ("tpe", "grid"):
            raise InputError(f"search.algorithm {config.search.algorithm} cannot search target eavss; take tpe or grid")
        self.source, self.measured = open_finished(config.statistics, config.output, "hallucination")
        read = validate(HallucinationConfig, self.measured.config)
        section = config.thresholds
        taps = tuple(str(tap) for tap in section.taps or read.readings.taps)
        for tap in taps:
            if tap not in read.readings.taps:
                raise InputError(f"statistics {config.statistics!r} has no tap {tap}, which thresholds.taps asks for")
        needed = {part for p in section.parts for part in (("answer", "question") if p == "change" else (p,))}
        for part in sorted(needed - set(read.readings.parts)):
            raise InputError(
                f"statistics {config.statistics!r} has no part {part!r}, which thresholds.parts needs; read it with "
                "--readings.parts"
            )
        self._choose_datasets([d["name"] for d in self.measured.facts["datasets"]])
        counted = tuple(self.measured.facts["epsilons"])
        self.judge = Judge(self.source.url(), DefinitionSpace(section, taps), counted, config.seed)

    def plan(self) -> Sequence[tuple[str, str]]:
        """Return what the run would do."""
        trials = self._num_trials
        return [
            ("statistics", self.source.url()),
            ("judged on", ", ".join(self.choose_on)),
            ("confirmed on", ", ".join(self.confirm_on) or "nothing: name data sets in thresholds.confirm_on"),
            ("work", f"{trials} trials by {self.config.search.algorithm}; no model runs"),
        ]

    def execute(self) -> None:
        """Run the trials, confirm the best, and report."""
        self._identify()
        self.register()
        with cluster(), self.context.stage("search"):
            tried = self._search()
        best = max(tried, key=lambda t: t.objective)
        if not best.outcomes:
            raise RunError(f"no trial was finished; the first failed with: {tried[0].trial.error}")
        with self.context.stage("confirm"):
            confirmed = [self.judge.outcome(best.candidate, dataset) for dataset in self.confirm_on]
        self._write(tried, best, confirmed)
        with self.context.stage("report"):
            self.context.write_report(build_page(self.context.storage, self.context.manifest))

    @staticmethod
    def show(run: Run, console: Console) -> None:
        """Print the best trials and the verdict."""
        console.print(summary_table(run.storage))
        for line in run.manifest.facts["verdicts"]:
            console.print(line, soft_wrap=True)
        console.print(f"report: {run.report_url}", soft_wrap=True)

    @property
    def _num_trials(self) -> int:
        search = self.config.search
        return len(list(self.judge.space.grid())) if search.algorithm == "grid" else search.num_samples

    def _choose_datasets(self, known: Sequence[str]) -> None:
        section = self.config.thresholds
        for name in (*section.choose_on, *section.confirm_on):
            if name not in known:
                raise InputError(
                    f"statistics {self.config.statistics!r} has no data set {name!r}{suggest(name, known, 'data sets')}"
                )
        both = set(section.choose_on) & set(section.confirm_on)
        if both:
            raise InputError(f"thresholds: {min(both)!r} is in choose_on and in confirm_on; it can only be one")
        self.confirm_on = tuple(section.confirm_on)
        self.choose_on = tuple(section.choose_on or (name for name in known if name not in self.confirm_on))
        if not self.choose_on:
            raise InputError("thresholds.confirm_on leaves no data set to judge trials on")

    def _identify(self) -> None:
        self.context.manifest.fingerprints = {
            "weights": self.measured.fingerprints["weights"],
            "statistics": self.measured.fingerprints["activations"],
        }
        names = ("architecture", "num_layers", "num_parameters", "device", "dtype", "datasets")
        self.context.manifest.facts = {name: self.measured.facts[name] for name in names} | {
            "statistics": self.source.url(),
            "model": self.measured.config["model"]["source"],
            "choose_on": list(self.choose_on),
            "confirm_on": list(self.confirm_on),
        }

    def _search(self) -> list[DefinitionResult]:
        search, space = self.config.search, self.judge.space
        starts = [space.config(c) for c in space.starting_points()] if search.starting_points else []
        grid = search.algorithm == "grid"
        plan = TrialPlan(
            algorithm=search.algorithm,
            space=space,
            points=[space.config(c) for c in space.grid()] if grid else starts,
            metrics=("objective", "size"),
            num_samples=search.num_samples,
            num_rungs=1,
            reduction_factor=2,
            concurrency=search.concurrency or max(1, int(resources().get("CPU", 1))),
            seed=self.config.seed,
        )
        found = tune(
            self.context,
            DefinitionTrial(self.judge, self.choose_on),
            plan,
            callbacks=self.config.tracking.to_callbacks(self.context.folder.run_id),
        )
        self.context.manifest.counts = {"trials": len(found)}
        return [self._tried(index, trial, len(starts)) for index, trial in enumerate(found)]

    def _tried(self, index: int, trial: Trial, num_starts: int) -> DefinitionResult:
        algorithm = self.config.search.algorithm
        origin = "starting point" if index < num_starts and algorithm != "grid" else algorithm
        reported = trial.metrics.get("outcomes") if trial.error is None else None
        outcomes = tuple(read_outcomes(reported)) if reported else ()
        return DefinitionResult(f"{index:04d}", origin, self.judge.space.candidate(trial.config), trial, outcomes)

    def _write(
        self, tried: Sequence[DefinitionResult], best: DefinitionResult, confirmed: Sequence[DefinitionOutcome]
    ) -> None:
        storage = self.context.storage
        write_table(storage, "trials", from_rows([self._row(t) for t in tried], tables.TRIALS))
        rows = [_outcome_row(t.trial_id, CHOSEN, o) for t in tried for o in t.outcomes]
        rows += [_outcome_row(best.trial_id, CONFIRMED, o) for o in confirmed]
        write_table(storage, "outcomes", from_rows(rows, tables.OUTCOMES))
        front = {t.trial_id for t in _front(tried)}
        trials = read_table(storage, "trials")
        write_table(storage, "front", trials.filter([name in front for name in trials["trial_id"].to_pylist()]))
        self.context.manifest.facts |= {"best": best.trial_id, "verdicts": list(_verdicts(best, confirmed))}

    def _row(self, tried: DefinitionResult) -> tuple[object, ...]:
        c, failed = tried.candidate, not tried.outcomes
        kind, asked = self.judge.space.epsilons[c.threshold]
        return (
            tried.trial_id,
            "eavss",
            tried.origin,
            c.tap,
            c.definition,
            c.part,
            c.variance,
            kind,
            asked if failed else tried.outcomes[0].epsilon,
            c.propensity,
            c.level,
            None if failed else tried.objective,
            tried.mean("auroc"),
            tried.mean("random"),
            tried.mean("over_random"),
            tried.mean("num_layers"),
            tried.trial.metrics.get("time_total_s"),
            "error" if failed else "done",
            first_line(RuntimeError(tried.trial.error.strip().splitlines()[-1])) if tried.trial.error else None,
        )


def _outcome_row(trial_id: str, role: str, o: DefinitionOutcome) -> tuple[object, ...]:
    return (
        trial_id,
        role,
        o.dataset,
        o.auroc,
        o.ci_low,
        o.ci_high,
        o.random,
        o.over_random,
        o.over_random_low,
        o.over_random_high,
        o.detectable,
        o.share_of_random_below,
        o.num_layers,
        list(o.flagged),
    )


def _front(tried: Sequence[DefinitionResult]) -> Iterator[DefinitionResult]:
    """Yield the trials that no other beats with at most as many layers."""
    done = [t for t in tried if t.outcomes]
    for t in done:
        size = t.mean("num_layers") or 0.0
        better = (o for o in done if (o.mean("num_layers") or 0.0) <= size and o.objective > t.objective)
        if next(better, None) is None:
            yield t


def _verdicts(best: DefinitionResult, confirmed: Sequence[DefinitionOutcome]) -> Iterator[str]:
    c = best.candidate
    yield (
        f"Best of the trials: {c.definition} on tap {c.tap}, part {c.part}, variance {c.variance}, propensity above "
        f"{c.propensity:g}, level {c.level:g}."
    )
    for role, outcomes in (("chosen on", best.outcomes), ("confirmed on", confirmed)):
        for o in outcomes:
            said = against_random(o.over_random_low, o.over_random_high, o.detectable)
            yield (
                f"{o.dataset} ({role}): layers {' '.join(map(str, o.flagged)) or 'none'}; AUROC {o.auroc:.3f} "
                f"({o.ci_low:.3f} to {o.ci_high:.3f}), {o.over_random:+.3f} ({o.over_random_low:+.3f} to "
                f"{o.over_random_high:+.3f}) against random sets: {said}."
            )
    if not confirmed:
        yield "The data sets that the choice was made on flatter it; name others in thresholds.confirm_on."
