"""The evaluation of the base and of all variants, and the export of checkpoints."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from stratoscope.errors import RunError
from stratoscope.execution import Service, plan_pool, resources, serve
from stratoscope.mitigation import BASE, Variant
from stratoscope.models import ModelCard
from stratoscope.pipelines.mitigation.dataset import TrainingInputs
from stratoscope.pipelines.mitigation.store import ModelScores, TrainedVariant, VariantStore
from stratoscope.pipelines.mitigation.worker import VariantEvaluatorSettings, make_evaluator
from stratoscope.pipelines.runtime.cards import checkpoint_name, command_line
from stratoscope.pipelines.runtime.context import RunContext


@contextmanager
def evaluators(context: RunContext, inputs: TrainingInputs, num_models: int) -> Iterator[Service]:
    """Run evaluators while the block runs, at most one for each model."""
    config, workers = inputs.config, inputs.workers
    pool = plan_pool(
        minimum=1,
        maximum=None,
        num_cpus=workers.cpus,
        num_gpus=workers.gpus,
        resources=resources(),
        work=num_models,
    )
    settings = VariantEvaluatorSettings(
        run=context.url,
        loading=config.model.to_loading(inputs.source, pool.num_gpus),
        data=inputs.data.held_out,
        tasks=tuple(config.evaluation.tasks),
        sampling=config.evaluation.to_sampling(config.seed),
        used=inputs.data.used,
        batch_tokens=inputs.batch_tokens,
        max_length=inputs.max_length,
        max_positions=inputs.max_positions,
        num_threads=int(pool.num_cpus),
    )
    with serve("VariantEvaluator", partial(make_evaluator, settings), pool, context.stopping) as service:
        yield service


def evaluate_models(
    context: RunContext, service: Service, store: VariantStore, variants: Sequence[Variant]
) -> tuple[dict[str, ModelScores], dict[Variant, str]]:
    """Evaluate the base, each pruned model before training, and every variant; finished evaluations are not repeated.

    Returns:
        The scores of each model by its key, and the errors of variants that could not be evaluated.

    Raises:
        RunError: the base could not be evaluated, or every variant failed.
    """
    calls = _evaluations(store, variants)
    scores = {key: known for key in calls if (known := store.read_scores(key)) is not None}
    missing = [key for key in calls if key not in scores]
    errors: dict[str, str] = {}
    with context.progress("evaluate", len(calls), len(scores), "models") as bar:
        # Each chunk has one model per evaluator, so that finished evaluations are stored early.
        size = max(1, service.size)
        for start in range(0, len(missing), size):
            chunk = missing[start : start + size]
            answers = service.try_map("evaluate", [calls[key] for key in chunk])
            for key, answer in zip(chunk, answers, strict=True):
                if isinstance(answer, RunError):
                    errors[key] = str(answer)
                else:
                    store.write_scores(key, answer)
                    scores[key] = answer
                bar.add()
    failed = {v: errors[key] for v in variants for key in (v.pruned_key, v.key) if key in errors}
    if BASE in errors or len(failed) == len(variants):
        raise RunError(f"the evaluation failed: {errors.get(BASE) or next(iter(failed.values()))}")
    return scores, failed


def _evaluations(store: VariantStore, variants: Sequence[Variant]) -> dict[str, tuple[str | None, tuple[int, ...]]]:
    """Return the trained tensors and dropped layers of every model by its key."""
    calls: dict[str, tuple[str | None, tuple[int, ...]]] = {BASE: (None, ())}
    for variant in variants:
        if variant.dropped:
            calls[variant.pruned_key] = (None, variant.dropped)
        calls[variant.key] = (store.patch(variant), variant.dropped)
    return calls


@dataclass(frozen=True)
class SavedCheckpoints:
    """The checkpoints that were written."""

    urls: tuple[str, ...]
    frozen_tensors: int | None
    """Number of tensors in the last checkpoint that are bit-identical to those of the base."""


def model_cards(
    inputs: TrainingInputs,
    trained: Sequence[TrainedVariant],
    rows: Mapping[str, Sequence[Sequence[str]]],
    chosen_by: Callable[[Variant], str],
) -> list[tuple[TrainedVariant, ModelCard]]:
    """Return the models that the configuration keeps as checkpoints, each with its card.

    Args:
        inputs: inputs of the training.
        trained: the trained variants.
        rows: rows of the table in each variant's card, by the variant's key.
        chosen_by: returns how a variant's layers were chosen, in words.
    """
    config = inputs.config
    kept = {"none": [], "first": trained[:1], "all": trained}[config.keep.models]
    return [
        (
            model,
            ModelCard(
                config.model.source,
                chosen_by(model.variant),
                rows[model.variant.key],
                command_line("mitigation"),
                f"Layers trained, counted as in the original: **{' '.join(map(str, model.layers))}** "
                f"({config.parameters.method}, {len(model.steps)} steps). All other tensors are the original's.",
            ),
        )
        for model in kept
    ]


def export_checkpoints(
    context: RunContext, service: Service, cards: Sequence[tuple[TrainedVariant, ModelCard]]
) -> SavedCheckpoints:
    """Write checkpoints, each with its card.

    Raises:
        RunError: a checkpoint cannot be written or does not pass verification.
    """
    urls, num_frozen = [], None
    for model, card in cards:
        variant = model.variant
        url = context.storage.url("models", checkpoint_name(card.base_model, variant.change))
        patch = VariantStore.patch(variant)
        num_frozen = service.call("export", patch, model.layers, variant.dropped, url, card)
        urls.append(url)
    return SavedCheckpoints(tuple(urls), num_frozen)
