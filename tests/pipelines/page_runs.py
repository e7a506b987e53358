"""Runs of the jobs search and mitigation with tables made here, whose pages can be built without Ray."""

from collections.abc import Sequence, Set
from dataclasses import replace
from pathlib import Path

import numpy as np

from stratoscope.evaluation import Estimate, Resampling, Score
from stratoscope.mitigation import BASE, Variant
from stratoscope.models.speed import SpeedComparison
from stratoscope.pipelines.mitigation import MitigationConfig
from stratoscope.pipelines.mitigation.outcome import compare_models, outcome_tables, training_problems
from stratoscope.pipelines.mitigation.store import LayerSeparation, ModelScores, TrainedVariant
from stratoscope.pipelines.search.config import SearchConfig
from stratoscope.pipelines.search.eavss.result import DefinitionResult, outcome_row, verdicts
from stratoscope.pruning import (
    Evaluation,
    ModelSize,
    PruningCandidate,
    RandomSetComparison,
    TaskComparison,
    TrialResult,
    compare_by_task,
)
from stratoscope.results import Manifest, Run, Storage, write_table
from stratoscope.scoring.definition_outcome import DefinitionOutcome
from stratoscope.scoring.definition_space import DefinitionCandidate
from stratoscope.tables.eavss import DefinitionOutcomeRow, DefinitionTrialRow
from stratoscope.tables.mitigation import TABLES
from stratoscope.tables.pruning import ComparisonRow, FrontRow, PruningTrialRow, SpeedRow
from tests.pruning.examples import task_scores

LONG_NAME = "an-organisation-with-a-name/A-model-whose-name-is-longer-than-any-title-can-be-7B-Instruct-v0.3"
MANY_METRICS = ("avss", "variance", "block_influence", "last", "sparsity", "magnitude", "angular_distance")


def estimate(value: float, width: float = 0.08) -> Estimate:
    return Estimate(value, value - width, value + width)


def evaluated(dropped: tuple[int, ...], value: float) -> Evaluation:
    return Evaluation(dropped, {"pick": 0.7 * value}, estimate(value), estimate(value, 0.2), 1.2, 0.1)


def search_run(
    folder: Path,
    *,
    ratios: Sequence[float] = (0.25, 0.5),
    metrics: Sequence[str] = ("avss", "variance"),
    num_layers: int = 8,
    num_random: int = 20,
    num_thresholds: int = 1,
    model: str = "owner/model",
    chosen_value: float = 0.9,
) -> Run:
    """Write the tables of a search with target pruning as the job does, and what a page reads of its manifest."""
    storage, generator = Storage(str(folder)), np.random.default_rng(0)
    size = ModelSize(100 * num_layers, (50,) * num_layers)
    trials = search_trials(generator, ratios, metrics, num_layers, num_thresholds)
    speeds = {
        size.without(t.dropped): SpeedComparison(
            "forward pass", "tokens/s", 1.0, 1.0, 1 + len(t.dropped) / num_layers, 0.9, 2.0
        )
        for t in trials
    }
    rows = [PruningTrialRow.from_trial(trial, size, speeds) for trial in trials]
    best = {len(trial.dropped): trial for trial in sorted(trials[:-1], key=lambda trial: trial.objective)}
    front = [
        FrontRow.from_row(rows[trials.index(trial)], evaluated(trial.dropped, chosen_value), chosen=index == 0)
        for index, trial in enumerate(best.values())
    ]
    tasks = ["pick"]
    write_table(storage, "trials", PruningTrialRow.table(rows, tasks))
    write_table(storage, "front", FrontRow.table(front, tasks))
    comparisons = search_comparisons({trial.dropped for trial in trials}, next(iter(best.values())).dropped)
    write_table(storage, "comparison", ComparisonRow.table(map(ComparisonRow.from_comparison, comparisons)))
    write_table(storage, "speed", SpeedRow.table([SpeedRow(**vars(next(iter(speeds.values()))))]))
    against = RandomSetComparison(chosen_value, tuple(generator.uniform(0.5, 0.85, num_random)))
    return Run(storage, search_manifest(model, num_layers, size.total, against))


def search_trials(
    generator: np.random.Generator,
    ratios: Sequence[float],
    metrics: Sequence[str],
    num_layers: int,
    num_thresholds: int,
) -> list[TrialResult]:
    """Trials of each metric, threshold and ratio and of random sets, and at the end one that failed."""
    trials = []
    for ratio in ratios:
        number = int(ratio * num_layers)
        candidates = [
            PruningCandidate(metric, "update", "elementwise", "quantile", 0.1 * (1 + threshold), None, ratio, False)
            for metric in metrics
            for threshold in range(num_thresholds)
        ]
        candidates += [PruningCandidate("random", None, None, None, None, draw, ratio, False) for draw in range(3)]
        for candidate in candidates:
            dropped = tuple(sorted(map(int, generator.choice(num_layers, number, replace=False))))
            value = 1.05 - ratio * generator.uniform(0.5, 1.0)
            result = evaluated(dropped, value)
            trial_id = f"{len(trials):04d}"
            trials.append(TrialResult(trial_id, "grid", candidate, dropped, result, value, 1.0, 1.0, "done"))
    return [*trials, replace(trials[0], trial_id="9999", evaluation=None, status="error", error="no memory")]


def search_comparisons(sets: Set[tuple[int, ...]], chosen: tuple[int, ...]) -> list[TaskComparison]:
    """Comparisons of sets of dropped layers with the whole model by task, and of the chosen one on held-out items."""
    return [
        comparison
        for dropped in sets
        for kind, part in [("chosen" if dropped == chosen else "trial", "search")]
        + ([("chosen", "held_out")] if dropped == chosen else [])
        for comparison in compare_by_task(
            kind,
            dropped,
            part,
            lambda layers, _part: {
                "pick": task_scores([1] * 18 + [0] * 2 if not layers else [1] * 12 + [0] * 8),
                "a_task_with_a_long_name": task_scores([1] * 10 + [0] * 10),
            },
            chance={"pick": 0.25, "a_task_with_a_long_name": 0.5},
            metrics={"pick": "acc", "a_task_with_a_long_name": "exact_match,strict-match"},
            resampling=Resampling(100),
        )
    ]


def search_manifest(model: str, num_layers: int, num_parameters: int, against: RandomSetComparison) -> Manifest:
    """What a page reads of a search's manifest."""
    task = {"metric": "acc", "search": 20, "held_out": 20, "calibrated": 0}
    config = SearchConfig().model_dump(mode="json")
    manifest = Manifest("search", "run", config | {"model": config["model"] | {"source": model}}, 0)
    manifest.fingerprints, manifest.counts = {"weights": "w"}, {"evaluations": 2}
    manifest.facts = {
        "architecture": "llama", "num_layers": num_layers, "parameters": num_parameters, "device": "cpu",
        "dtype": "float32", "threads": 1, "statistics": "none", "tasks": {"pick": task, "read": task},
        "verdicts": [against.verdict], "exported": "models/pruned",
        "against_random": {"chosen": against.chosen, "random": list(against.random), "p": against.p_value},
    }  # fmt: skip
    return manifest


def scores(shift: float, num_items: int, datasets: Sequence[str], num_layers: int) -> ModelScores:
    """Scores of a model; a share of the items, `shift`, is answered better than by the base."""
    items = np.random.default_rng(1).permutation(num_items) / num_items
    better = [1.0 if item < 0.3 + shift else 0.0 for item in items]
    own = [
        Score(dataset, metric, str(i), value if metric != "perplexity" else 3 - value, 1.0)
        for dataset in datasets
        for metric in ("mc1", "mc2", "perplexity")
        for i, value in enumerate(better)
    ]
    return ModelScores(
        own, [LayerSeparation(d, layer, 9, 0.1 * layer + shift, 0.6) for d in datasets for layer in range(num_layers)]
    )


def mitigation_run(
    folder: Path,
    variants: dict[Variant, float],
    *,
    num_items: int = 60,
    num_steps: int = 6,
    datasets: Sequence[str] = ("first", "second"),
    num_layers: int = 8,
    model: str = "owner/model",
    diverged: bool = False,
) -> Run:
    """Write the tables of a mitigation as the job does, and what a page reads of its manifest.

    Args:
        folder: folder of the run.
        variants: the share of items that each variant answers better than the base.
    """
    storage = Storage(str(folder))
    models = {BASE: scores(0, num_items, datasets, num_layers)}
    for variant, shift in variants.items():
        models[variant.key] = scores(shift, num_items, datasets, num_layers)
        models[variant.pruned_key] = scores(shift - 0.2, num_items, datasets, num_layers)
    outcome = compare_models(list(variants), models, Resampling(200))
    step = {"loss": 2e-4, "margin": 3e-4, "gradient_norm": 1.0, "learning_rate": 3e-4, "tokens": 10.0,
            "tokens_per_s": 5.0, "peak_memory_bytes": 1e9, "peak_gpu_memory_bytes": 0}  # fmt: skip
    steps = [step | {"step": float(n), "loss": 2e-4 / n} for n in range(1, num_steps + 1)]
    trained = [TrainedVariant(variant, variant.layers, 3e-4, steps, 100, diverged, 1.5) for variant in variants]
    for name, rows in outcome_tables(outcome, trained, models, {}).items():
        write_table(storage, name, TABLES[name].table(rows))
    dropped = next(iter(variants)).dropped
    config = MitigationConfig(drop=",".join(map(str, dropped)) if dropped else None).model_dump(mode="json")
    manifest = Manifest("mitigation", "run", config | {"model": config["model"] | {"source": model}}, 0)
    manifest.fingerprints = {"weights": "w"}
    manifest.facts = {
        "architecture": "llama", "num_layers": num_layers, "num_parameters": 10, "device": "cpu", "dtype": "float32",
        "workers": 1, "threads_per_worker": 1, "questions": {}, "texts": 0, "terms": {"margin": 1.0}, "flags": None,
        "recovery": bool(dropped), "models": [], "frozen_tensors": 3,
        "verdicts": [*outcome.verdicts, *training_problems(trained, {})],
    }  # fmt: skip
    return Run(storage, manifest)


def definition_run(
    folder: Path,
    differences: dict[str, float],
    *,
    confirmed: dict[str, float],
    num_trials: int = 6,
    random_sets: int = 200,
    model: str = "owner/model",
) -> Run:
    """Write the tables of a search with target eavss as the job does, and what a page reads of its manifest.

    Args:
        folder: folder of the run.
        differences: difference of flagged and random layers in the best trial, by data set that trials are compared on.
        confirmed: the same, by data set that trials never use.
    """

    def outcome(dataset: str, difference: float) -> DefinitionOutcome:
        return DefinitionOutcome(
            dataset=dataset, auroc=0.65 + difference, ci_low=0.6 + difference, ci_high=0.7 + difference, random=0.65,
            over_random=difference, over_random_low=difference - 0.05, over_random_high=difference + 0.05,
            detectable=0.04, share_of_random_below=0.9, num_layers=2.0, flagged_layers=(1, 2), epsilon=0.01,
        )  # fmt: skip

    storage = Storage(str(folder))
    results = []
    for index in range(num_trials):
        name = ("eavss", "hallucinated_only", "standardized")[index % 3]
        candidate = DefinitionCandidate(name, "block", "answer", "elementwise", 0, 1.0 + index // 3, 0.05)
        own = tuple(outcome(dataset, value - 0.02 * index) for dataset, value in differences.items())
        kind = ("quantile", 0.2)
        results.append(DefinitionResult(f"{index:04d}", "grid", candidate, kind, 1.0 - index, own, 1.0, None))
    failed = replace(results[0], trial_id="9999", objective=float("-inf"), outcomes=(), error="no memory")
    more = [outcome(dataset, value) for dataset, value in confirmed.items()]
    rows = [outcome_row(result.trial_id, "chosen_on", o) for result in results for o in result.outcomes]
    rows += [outcome_row("0000", "confirmed_on", o) for o in more]
    write_table(storage, "trials", DefinitionTrialRow.table(result.row() for result in [*results, failed]))
    write_table(storage, "outcomes", DefinitionOutcomeRow.table(rows))
    fields = {"target": "eavss", "thresholds": {"separation": {"random_sets": random_sets}}}
    manifest = Manifest("search", "run", SearchConfig.model_validate(fields).model_dump(mode="json"), 0)
    manifest.fingerprints, manifest.counts = {"weights": "w"}, {"trials": num_trials + 1}
    manifest.facts = {
        "best": "0000", "model": model, "choose_on": list(differences), "statistics": "hallucination/one",
        "verdicts": list(verdicts(results[0], more, random_sets=random_sets)), "num_layers": 8, "dtype": "float32",
    }  # fmt: skip
    return Run(storage, manifest)
