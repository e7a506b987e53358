"""Estimated cost of a search for layers to prune."""

from collections.abc import Sequence

from stratoscope.evaluation import TaskItems
from stratoscope.models import ModelFacts
from stratoscope.pipelines.runtime.costs import MemoryEstimate, ModelCost, RunCost
from stratoscope.pipelines.runtime.hardware import PROCESS_BYTES
from stratoscope.pipelines.search.config import SearchConfig
from stratoscope.pipelines.search.pruning.statistics import FinishedScore
from stratoscope.pruning import STRATEGY_NAMES, LayerSet
from stratoscope.scoring import num_dropped

BYTES_PER_TOKEN = 4
"""Approximate length of a token of English text."""
ROW_BYTES = 40
"""Approximate size on disk of a row of evaluations.parquet."""


def estimate(
    config: SearchConfig,
    facts: ModelFacts,
    tasks: Sequence[TaskItems],
    statistics: FinishedScore | None,
    output: str,
    *,
    protected: LayerSet = (),
) -> Sequence[tuple[str, str]]:
    """Return the lines of a dry run: model, statistics, items, trials and cost."""
    model = ModelCost(config.model.source, facts, config.model.dtype)
    trials, num_random = num_trials(config, facts.num_layers, len(protected)), config.final.random_sets
    searched, held_out = (sum(_tokens(task, part) for task in tasks) for part in ("search", "held_out"))
    tokens = full_evaluations(config, trials) * searched + (num_random + len(config.space.ratios) + 1) * held_out
    cost = RunCost(
        seconds=model.seconds(tokens),
        further_time="if no trial is stopped early, and a minute to start",
        memory=MemoryEstimate(model.weight_bytes + PROCESS_BYTES + config.search.cache_gb * 1e9, "evaluator"),
        rows={
            "evaluations": trials * sum(len(t.search) * len(t.metrics) for t in tasks)
            + (num_random + 2) * sum(len(t.held_out) * len(t.metrics) for t in tasks)
        },
        row_bytes=ROW_BYTES,
        bound="at most ",
    )
    scored = f"computed first, from {config.prompts.limit or 'all'} prompts of {config.prompts.source}"
    return [
        ("model", str(model)),
        *([("kept", protection_text(protected))] if protected else []),
        ("statistics", statistics.storage.url() if statistics else scored),
        ("items", ", ".join(f"{t.name} {len(t.search)} and {len(t.held_out)} held out" for t in tasks)),
        *(("filters", task.note) for task in tasks if task.note),
        ("space", f"{len(list(config.space.to_space().grid()))} candidates"),
        ("trials", f"at most {trials} sets by {config.search.algorithm}, {config.search.swaps} of them swaps"),
        ("final", f"the front and {num_random} random sets on held-out items"),
        *cost.lines(),
        ("output", output),
    ]


def protection_text(protected: LayerSet) -> str:
    """Return a sentence about the layers that a search never drops."""
    layers = f"layer {protected[0]}" if len(protected) == 1 else f"layers {', '.join(map(str, protected))}"
    return f"{layers} cannot be dropped: without, the model does not run, or its other layers compute something else"


def num_trials(config: SearchConfig, num_layers: int, num_protected: int = 0) -> int:
    """Return the maximum number of sets that a search evaluates."""
    search = config.search
    if search.algorithm == "grid":
        return len(list(config.space.to_space().grid())) + search.swaps
    if search.algorithm == "greedy":
        most = max(num_dropped(ratio, num_layers) for ratio in config.space.ratios)
        return sum(num_layers - num_protected - step for step in range(most)) + search.swaps
    if search.algorithm in STRATEGY_NAMES:
        return search.num_samples * len(config.space.ratios) + search.swaps
    return search.num_samples + search.swaps


def full_evaluations(config: SearchConfig, trials: int) -> float:
    """Return the cost of a search in evaluations on all items. A search over sets uses the first rung for most.

    Args:
        config: the configuration.
        trials: number of sets.
    """
    search = config.search
    if search.algorithm in STRATEGY_NAMES:
        all_items = search.swaps + search.finalists * len(config.space.ratios)
        return (trials - search.swaps) * search.rungs[0] + all_items
    return trials


def _tokens(task: TaskItems, part: str) -> float:
    """Estimate the tokens of a part; a context that several answers share counts once."""
    items = task.search if part == "search" else task.held_out
    texts = (str(item.requests[0].args[0]) for item in items)
    return sum(len(text.encode()) for text in texts) / BYTES_PER_TOKEN
