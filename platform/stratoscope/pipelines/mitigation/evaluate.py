"""Judges the base and every variant, and writes the models that are to be kept."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from stratoscope.errors import RunError
from stratoscope.execution import Service, WorkerResources, plan_pool, resources, serve
from stratoscope.models import ModelCard
from stratoscope.pipelines.mitigation.config import EVERY, FLAGGED, RANDOM
from stratoscope.pipelines.mitigation.outcome import BASE, MitigationOutcome, card_rows
from stratoscope.pipelines.mitigation.store import VariantStore
from stratoscope.pipelines.mitigation.variants import Variant
from stratoscope.pipelines.mitigation.worker import VariantEvaluatorSettings, make_mitigation_worker

if TYPE_CHECKING:
    from stratoscope.pipelines.mitigation.run import MitigationJob


@dataclass(frozen=True)
class _Model:
    """A model that is judged: the base with a patch, or without, and without some layers."""

    key: str
    patch: str | None = None
    dropped: tuple[int, ...] = ()


@contextmanager
def judges(job: "MitigationJob", workers: WorkerResources, num_models: int) -> Iterator[Service]:
    """Run evaluators while the block runs."""
    config = job.config
    pool = plan_pool(
        minimum=1,
        maximum=None,
        num_cpus=workers.cpus,
        num_gpus=workers.gpus,
        resources=resources(),
        work=num_models,
    )
    settings = VariantEvaluatorSettings(
        run=job.context.url,
        loading=config.model.to_loading(job.source, pool.num_gpus),
        judged=job.material.held_out,
        tasks=tuple(config.evaluation.tasks),
        choice=config.evaluation.to_choice(config.seed),
        used=job.material.used,
        batch_tokens=config.evaluation.batch_tokens,
        longest=job.longest,
        num_threads=int(pool.num_cpus),
    )
    with serve("Judge", partial(make_mitigation_worker, settings), pool, job.context.stopping) as service:
        yield service


def judge_all(
    job: "MitigationJob", variants: Sequence[Variant], service: Service, store: VariantStore
) -> dict[Variant, str]:
    """Judge the base, each set of dropped layers before training, and every variant; what is known is kept.

    Returns:
        What went wrong with the variants that could not be judged.

    Raises:
        RunError: the base could not be judged, or no variant.
    """
    wanted = list(dict.fromkeys(_models(variants, store)))
    missing = [model for model in wanted if not store.is_judged(model.key)]
    errors: dict[str, str] = {}
    with job.context.progress("evaluate", len(wanted), len(wanted) - len(missing), "models") as bar:
        # As many at once as there are evaluators, so that what is finished is kept.
        size = max(1, service.size)
        for start in range(0, len(missing), size):
            chunk = missing[start : start + size]
            answers = service.try_map("evaluate", [(model.patch, model.dropped) for model in chunk])
            for model, found in zip(chunk, answers, strict=True):
                if isinstance(found, RunError):
                    errors[model.key] = str(found)
                else:
                    store.write_judgement(model.key, found)
                bar.add()
    failed = {v: errors.get(v.key) or errors[v.cut_key] for v in variants if v.key in errors or v.cut_key in errors}
    if BASE in errors or len(failed) == len(variants):
        raise RunError(f"judging failed: {errors.get(BASE) or next(iter(failed.values()))}")
    return failed


def _models(variants: Sequence[Variant], store: VariantStore) -> Iterator[_Model]:
    yield _Model(BASE)
    for v in variants:
        if v.dropped:
            yield _Model(v.cut_key, dropped=v.dropped)
        yield _Model(v.key, store.patch(v), v.dropped)


@dataclass(frozen=True)
class SavedCheckpoints:
    """The checkpoints that were written."""

    urls: tuple[str, ...]
    frozen_tensors: int | None
    """Of the last one, tensors that are the base's, to the bit."""


def keep(
    job: "MitigationJob", variants: Sequence[Variant], found: MitigationOutcome, service: Service, store: VariantStore
) -> SavedCheckpoints:
    """Write the checkpoints that are wanted, each with its card."""
    kept = {"none": [], "first": variants[:1], "all": variants}[job.config.keep.models]
    base = PurePosixPath(job.config.model.source).name.removesuffix(".gguf")
    urls, same = [], None
    for v in kept:
        url = job.context.storage.url("models", f"{base}-{'healed' if v.dropped else 'mended'}-{v.key}")
        facts = store.trained(v) or {}
        layers = tuple(facts["layers"])
        trained = (
            f"Layers trained, counted as in the original: **{' '.join(map(str, layers))}** "
            f"({job.config.parameters.method}, {len(facts['steps'])} steps). All other tensors are the original's."
        )
        card = ModelCard(job.config.model.source, _chosen_by(job, v), card_rows(found, v), _command_line(), trained)
        same = service.call("export", store.patch(v), layers, v.dropped, url, card)
        urls.append(url)
    return SavedCheckpoints(tuple(urls), same)


def _chosen_by(job: "MitigationJob", v: Variant) -> str:
    if v.dropped:
        return f"`{v.name}`" if job.choice.score is not None else "hand"
    by_flags = "EAVSS of a hallucination run" if job.choice.flags else "hand"
    return {FLAGGED: by_flags, RANDOM: "chance", EVERY: "taking all"}[v.name]


def _command_line() -> str | None:
    program = PurePosixPath(sys.argv[0]).name
    return shlex.join([program, *sys.argv[1:]]) if program in ("mitigation.py", "stratoscope") else None
