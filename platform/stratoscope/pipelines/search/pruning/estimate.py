"""What a search would do, and roughly what it takes, said before it starts."""

from collections.abc import Sequence

import torch

from stratoscope.evaluation import TaskItems
from stratoscope.models import ModelFacts, dtype_name
from stratoscope.pipelines.reporting.formatting import model_line
from stratoscope.pipelines.runtime.hardware import PROCESS_BYTES, operations_per_second, usual_device
from stratoscope.pipelines.search.config import SearchConfig
from stratoscope.pipelines.search.pruning.statistics import FinishedScore
from stratoscope.scoring import num_dropped

BYTES_PER_TOKEN = 4
"""Of English text, roughly."""
BYTES_PER_ROW = 40
"""Of evaluations.parquet on disk, roughly."""


def estimate(
    config: SearchConfig,
    facts: ModelFacts,
    tasks: Sequence[TaskItems],
    statistics: FinishedScore | None,
    output: str,
) -> Sequence[tuple[str, str]]:
    """Return pairs of a name and a text: the model, items and trials, and the size, memory and time of the run."""
    device = usual_device()
    dtype = dtype_name(config.model.dtype, device)
    trials = num_trials(config, facts.num_layers)
    num_random = config.final.random_sets
    searched, held_out = (sum(_tokens(task, part) for task in tasks) for part in ("search", "held_out"))
    tokens = trials * searched + (num_random + len(config.space.ratios) + 1) * held_out
    seconds = 2 * facts.num_parameters * tokens / operations_per_second(device)
    rows = trials * sum(len(t.search) for t in tasks) + (num_random + 2) * sum(len(t.held_out) for t in tasks)
    weights = facts.num_parameters * torch.finfo(getattr(torch, dtype)).bits / 8
    made = f"made first, from {config.prompts.limit or 'all'} prompts of {config.prompts.source}"
    return [
        ("model", model_line(config.model.source, facts, dtype, device)),
        ("statistics", statistics.storage.url() if statistics else made),
        ("items", ", ".join(f"{t.name} {len(t.search)} and {len(t.held_out)} held out" for t in tasks)),
        ("space", f"{len(list(config.space.to_space().grid()))} candidates"),
        ("trials", f"at most {trials} sets by {config.search.algorithm}, {config.search.swaps} of them swaps"),
        ("final", f"the front and {num_random} random sets on held-out items"),
        ("rows", f"at most {rows:,} in evaluations.parquet, about {rows * BYTES_PER_ROW / 1e6:,.1f} MB"),
        ("memory", f"about {(weights + PROCESS_BYTES) / 1e9 + config.search.cache_gb:,.1f} GB for each evaluator"),
        ("time", f"at most some {seconds:,.0f} s on all of this machine, and a minute to start"),
        ("output", output),
    ]


def num_trials(config: SearchConfig, num_layers: int) -> int:
    """Return how many sets a search tries at most."""
    search = config.search
    if search.algorithm == "grid":
        return len(list(config.space.to_space().grid())) + search.swaps
    if search.algorithm == "greedy":
        most = max(num_dropped(ratio, num_layers) for ratio in config.space.ratios)
        return sum(num_layers - done for done in range(most)) + search.swaps
    return search.num_samples + search.swaps


def _tokens(task: TaskItems, part: str) -> float:
    """Return roughly the tokens of a part: of items whose answers share a question, that once."""
    items = task.search if part == "search" else task.held_out
    texts = (str(item.requests[0].args[0]) for item in items)
    return sum(len(text.encode()) for text in texts) / BYTES_PER_TOKEN
