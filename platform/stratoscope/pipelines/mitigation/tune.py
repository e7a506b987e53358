"""The search before the training, by Ray Tune: each trial is a training by Ray Train that reports to ASHA."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from stratoscope.errors import DamagedFileError, RunError, last_line
from stratoscope.execution import RUNG, PlacementGroupTracker, Trial, TrialPlan, fit_in_trial, resources
from stratoscope.mitigation import (
    FLAGGED,
    RANDOM,
    LayersByNumber,
    TrainingSettings,
    TuningSpace,
    Variant,
    apply_point,
    resized_layers,
)
from stratoscope.phases import tell
from stratoscope.pipelines.mitigation.config import TuneSection
from stratoscope.pipelines.mitigation.dataset import TrainingInputs
from stratoscope.pipelines.mitigation.worker import OBJECTIVE, TrainingLoop
from stratoscope.pipelines.runtime.context import TUNE, RunContext
from stratoscope.pipelines.runtime.trials import tune
from stratoscope.results import Storage
from stratoscope.tables.mitigation import TuningTrialRow

TRAINING = "training"
"""Folder of Ray Train's checkpoints in the run's folder. It is removed at the end of the run."""
DIVERGED = "its loss became non-finite before the first checkpoint; use a lower train.learning_rate"
NOT_FINITE = "its validation score is not finite; use lower tune.learning_rates"
SEARCHED = ("learning_rate", "temperature", "contrastive", "forgetting", "num_layers")


def tuned_settings(context: RunContext, inputs: TrainingInputs, variant: Variant) -> TrainingSettings:
    """Return the settings of a variant's training that its search chose; all its seeds share one search.

    Raises:
        RunError: the run is stopping, or every trial failed.
    """
    result = read_search(context.storage, variant.name)
    if result is None:
        with context.stage("tune"):
            result = _search(context, inputs, replace(variant, seed=inputs.config.train.seeds[0]))
        context.storage.write(tuned_file(variant.name), json.dumps(result).encode())
    return apply_point(inputs.settings(variant), result["point"], _layers(inputs, variant))


def read_search(storage: Storage, name: str) -> dict[str, Any] | None:
    """Return the result of a variant's search; None if there is none, or if it cannot be read.

    Args:
        storage: the run's folder.
        name: name of the variant.
    """
    file = tuned_file(name)
    try:
        result: dict[str, Any] = storage.read_json(file)
    except FileNotFoundError:
        return None
    except DamagedFileError as error:
        tell(f"{error}; the search is repeated")
        storage.remove(file)
        return None
    return result


def _search(context: RunContext, inputs: TrainingInputs, variant: Variant) -> dict[str, Any]:
    section, workers = inputs.config.tune, inputs.workers
    per_trial = workers.number * (workers.gpus or workers.cpus)
    available = resources().get("GPU" if workers.gpus else "CPU", 1)
    with_layers = variant.name in (FLAGGED, RANDOM) and bool(inputs.flagged)
    plan = plan_trials(
        section.to_space(with_layers=with_layers), section, max(1, int(available // per_trial)), inputs.config.seed
    )
    groups = PlacementGroupTracker()
    folder = f"{TUNE}-{variant.name}"
    trial = TrainingTrial(inputs, variant, context.storage.child(TRAINING, folder), groups.register)
    trials = tune(context, trial, plan, folder=folder, title=f"tune {variant.name}", on_end=groups.free)
    best = best_trial(trials)
    if best is None:
        raise RunError(f"no trial of {variant.name} has a finite objective; the first: {_failure(trials[0])}")
    return {"point": dict(best.config), "trials": [_trial_facts(t, chosen=t is best) for t in trials]}


def _failure(trial: Trial) -> str:
    """Return why a trial has no finite objective."""
    if trial.error is not None:
        return last_line(trial.error)
    return NOT_FINITE if OBJECTIVE in trial.metrics else DIVERGED


def _layers(inputs: TrainingInputs, variant: Variant) -> LayersByNumber:
    return partial(resized_layers, variant, inputs.flagged, inputs.num_layers)


def plan_trials(space: TuningSpace, section: TuneSection, concurrency: int, seed: int) -> TrialPlan:
    """Return the plan of the trials: all points if there are few enough, otherwise points chosen by TPE."""
    grid = space.size <= section.num_samples
    return TrialPlan(
        algorithm="tpe",
        space=space,
        points=space.points() if grid else space.points()[:1],
        metrics=(OBJECTIVE,),
        num_samples=min(space.size, section.num_samples),
        num_rungs=section.rungs,
        reduction_factor=2,
        concurrency=concurrency,
        seed=seed,
        reuse=False,
    )


def best_trial(trials: Sequence[Trial]) -> Trial | None:
    """Return the trial with the largest objective that is finite, among those that were not stopped early, or None."""
    done = [t for t in trials if t.error is None and math.isfinite(t.metrics.get(OBJECTIVE, math.nan))]
    most = max((_last_rung(t) for t in done), default=0)
    complete = [t for t in done if _last_rung(t) == most]
    return max(complete, key=lambda t: float(t.metrics[OBJECTIVE]), default=None)


def _last_rung(trial: Trial) -> int:
    return int(trial.metrics.get(RUNG, 0))


@dataclass(frozen=True, eq=False)
class TrainingTrial:
    """Runs one trial: a training whose validations are the trial's reports."""

    inputs: TrainingInputs
    variant: Variant
    storage: Storage
    register: Any
    """Attribute `register` of the `PlacementGroupTracker`."""

    def __call__(self, point: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Run the training. Ray Train reports its metrics directly."""
        inputs, config = self.inputs, self.inputs.config
        settings = apply_point(inputs.settings(self.variant), point, _layers(inputs, self.variant))
        steps = settings.optimizer.steps
        # Steps between validations, rounded up.
        settings = replace(settings, validate_every=-(-steps // config.tune.rungs), checkpoint_every=steps)
        data = inputs.data
        loop = TrainingLoop(settings, data.corpus, data.validation, inputs.batch_tokens, inputs.max_length)
        name = "-".join(f"{key}={value:g}" for key, value in sorted(point.items())) or "only"
        fit_in_trial(loop, inputs.workers, self.storage, name, self.register)
        yield from ()


def _trial_facts(trial: Trial, *, chosen: bool) -> dict[str, Any]:
    return {
        **dict(trial.config),
        "objective": trial.metrics.get(OBJECTIVE),
        "reports": _last_rung(trial),
        "chosen": chosen,
        "error": None if trial.error is None else last_line(trial.error),
    }


def tuned_file(name: str) -> str:
    """Return the name of the file with the result of a variant's search."""
    return f"tuned-{name}.json"


def tuning_rows(storage: Storage, names: Sequence[str]) -> Iterator[TuningTrialRow]:
    """Yield the trials of all searches as rows of a table.

    Args:
        storage: the run's folder.
        names: names of the variants.
    """
    for name in names:
        for index, trial in enumerate(storage.read_json(tuned_file(name))["trials"]):
            yield TuningTrialRow(
                variant=name,
                trial_id=f"{index:03d}",
                **{setting: trial.get(setting) for setting in SEARCHED},
                reports=trial["reports"],
                objective=trial["objective"],
                chosen=trial["chosen"],
                status="error" if trial["error"] else "done",
                error=trial["error"],
            )
