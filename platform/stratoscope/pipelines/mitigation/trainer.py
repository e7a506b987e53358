"""Trains the variants of a run, each after a search of its own where one is asked for."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from stratoscope.errors import RunError, first_line
from stratoscope.execution import PlacementGroupTracker, Trial, WorkerResources, fit, resources, run_remote
from stratoscope.mitigation import TrainableSpec, TrainingSettings
from stratoscope.pipelines.mitigation.config import FLAGGED, RANDOM
from stratoscope.pipelines.mitigation.curves import curves
from stratoscope.pipelines.mitigation.loop import OBJECTIVE, Loop
from stratoscope.pipelines.mitigation.store import VariantStore
from stratoscope.pipelines.mitigation.tune import LayersOf, TrainingTrial, TuningSpace, best, plan, with_point
from stratoscope.pipelines.mitigation.variants import Variant, random_layers
from stratoscope.pipelines.mitigation.worker import write_patch
from stratoscope.pipelines.runtime.trials import TUNE, tune

if TYPE_CHECKING:
    from stratoscope.pipelines.mitigation.run import MitigationJob

logger = logging.getLogger(__name__)

DIVERGED = "its loss was no number before the first checkpoint; take a lower train.learning_rate"
TRAINING = "training"
"""Folder of Ray Train's checkpoints, in the run's; it is removed when the run is done."""


class Trainer:
    """Trains a job's variants.

    Args:
        job: whose configuration, material and folder are used.
        workers: who trains.
        store: where what is finished is kept.
    """

    def __init__(self, job: "MitigationJob", workers: WorkerResources, store: VariantStore) -> None:
        self._job, self._workers, self._store = job, workers, store
        self._config, self._storage = job.config, job.context.storage

    def train_all(self, variants: Sequence[Variant]) -> tuple[list[Variant], dict[Variant, str]]:
        """Train variants; return those that are trained, and what went wrong with the others.

        Raises:
            RunError: the run is to stop, or no training ended well.
        """
        done: list[Variant] = []
        failed: dict[Variant, str] = {}
        for variant in variants:
            try:
                self._train_or_skip(variant)
                done.append(variant)
            except Exception as error:
                if self._job.context.stopping.is_set():
                    raise
                logger.exception("training %s failed", variant.key)
                failed[variant] = first_line(error)
        if not done:
            raise RunError(f"every training failed; the first, {variants[0].key}: {failed[variants[0]]}")
        return done, failed

    def _train_or_skip(self, variant: Variant) -> None:
        """Train a variant unless that is done: search first, then train, then put its tensors together."""
        if self._store.trained(variant) is not None:
            return
        settings = self._settings(variant)
        if self._config.tune.num_samples:
            settings = with_point(settings, self._tuned(variant), self._layers_of(variant))
        with self._job.context.stage("train"):
            self._train(variant, settings)

    def _settings(self, variant: Variant) -> TrainingSettings:
        config, train, parameters = self._config, self._config.train, self._config.parameters
        return TrainingSettings(
            loading=config.model.to_loading(self._job.source, min(1.0, self._workers.gpus)),
            dropped=variant.dropped,
            trained=TrainableSpec(
                variant.layers, parameters.method, parameters.rank, parameters.alpha, parameters.dropout
            ),
            terms=config.terms,
            optimising=train.to_optimising(),
            sharding=train.to_sharding(),
            questions_per_step=train.questions,
            texts_per_step=train.texts,
            micro_batches=train.micro_batches,
            checkpoint_every=train.checkpoint_every,
            validate_every=0,
            num_threads=self._workers.cpus,
            seed=variant.seed,
        )

    def _train(self, variant: Variant, settings: TrainingSettings) -> None:
        job, steps = self._job, settings.optimising.steps
        started = time.perf_counter()
        loop = Loop(settings, job.material.corpus, None, self._config.evaluation.batch_tokens, job.longest)
        storage = self._storage.child(TRAINING)
        with (
            job.context.progress(f"train {variant.key}", steps, 0, "steps", "tokens") as bar,
            curves(self._storage, variant.key) as draw,
        ):

            def on_step(row: Mapping[str, float]) -> None:
                draw(row)
                bar.add(max(0, int(row["step"]) - bar.done), int(row["tokens"]))

            checkpoint = fit(loop, self._workers, storage, variant.key, on_step=on_step, stopping=job.context.stopping)
        if checkpoint is None:
            raise RunError(DIVERGED)
        patch = self._store.patch(variant)
        # On the CPU, for the task that does it has no GPU.
        loading = replace(settings.loading, device="cpu", dtype=job.context.manifest.facts["dtype"], spread=False)
        on_cpu = replace(settings, loading=loading)
        found = run_remote(write_patch, job.context.url, patch, checkpoint, on_cpu, cpus=self._workers.cpus)
        self._store.write_trained(
            variant,
            {
                **found,
                "layers": list(settings.trained.layers),
                "learning_rate": settings.optimising.learning_rate,
                "diverged": len(found["steps"]) < steps,
                "seconds": round(time.perf_counter() - started, 3),
            },
        )
        storage.remove(variant.key)

    def _tuned(self, variant: Variant) -> Mapping[str, float]:
        """Return what the search of a variant has chosen; all its seeds share it."""
        name = tuned_file(variant.name)
        if not self._storage.exists(name):
            with self._job.context.stage("tune"):
                found = self._search(replace(variant, seed=self._config.train.seeds[0]))
            self._storage.write(name, json.dumps(found).encode())
        point: Mapping[str, float] = json.loads(self._storage.read(name))["point"]
        return point

    def _search(self, variant: Variant) -> dict[str, Any]:
        job, config, workers = self._job, self._config, self._workers
        flags = variant.name in (FLAGGED, RANDOM) and job.choice.flags is not None
        per_trial = workers.number * (workers.gpus or workers.cpus)
        there = resources().get("GPU" if workers.gpus else "CPU", 1)
        rooms = PlacementGroupTracker()
        trials = TrainingTrial(
            self._settings(variant),
            self._layers_of(variant),
            job.material.corpus,
            job.material.validation,
            config.evaluation.batch_tokens,
            job.longest,
            workers,
            config.tune.rungs,
            self._storage.child(TRAINING, f"{TUNE}-{variant.name}"),
            rooms.register,
        )
        asked = plan(
            TuningSpace.of(config.tune, with_layers=flags), config.tune, max(1, int(there // per_trial)), config.seed
        )
        title = f"tune {variant.name}"
        found = tune(job.context, trials, asked, folder=f"{TUNE}-{variant.name}", title=title, on_end=rooms.free)
        chosen = best(found)
        if chosen is None:
            first = _last_line(found[0].error) or DIVERGED
            raise RunError(f"no trial of {variant.name} was finished; the first failed with: {first}")
        return {"point": dict(chosen.config), "trials": [_told(t, chosen=t is chosen) for t in found]}

    def _layers_of(self, variant: Variant) -> LayersOf:
        named = {number: self._job.choice.flagged(number) for number in self._config.tune.num_layers}
        return partial(_layers_of, variant, named, self._job.facts.num_layers)


def tuned_file(name: str) -> str:
    """Return the file of what the search of a variant has found."""
    return f"tuned-{name}.json"


def _told(trial: Trial, *, chosen: bool) -> dict[str, Any]:
    return {
        **dict(trial.config),
        "objective": trial.metrics.get(OBJECTIVE),
        "reports": int(trial.metrics.get("training_iteration", 0)),
        "chosen": chosen,
        "error": _last_line(trial.error),
    }


def _last_line(error: str | None) -> str | None:
    return None if error is None else error.strip().splitlines()[-1]


def _layers_of(
    variant: Variant, named: dict[int, tuple[int, ...]], num_layers: int, number: int | None
) -> tuple[int, ...]:
    """Return a variant's layers, so many of them where a number is given."""
    if number is None:
        return variant.layers
    return named[number] if variant.name == FLAGGED else random_layers(num_layers, named[number], variant.seed)
