"""The chosen model as a checkpoint, with a card that says what was dropped, why, and what it cost."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import PurePosixPath

from stratoscope.execution import Service
from stratoscope.models import ModelCard
from stratoscope.models.verify_checkpoint import Paired
from stratoscope.pipelines.search.config import SearchConfig
from stratoscope.pipelines.search.pruning.worker import read_mark
from stratoscope.pruning.selection import TaskComparison, TrialResult, estimate_text
from stratoscope.results import RunFolder, Storage


def export_chosen(
    service: Service, config: SearchConfig, run: RunFolder, chosen: TrialResult, compared: Sequence[TaskComparison]
) -> tuple[str, list[Paired]]:
    """Write the chosen model as a checkpoint, unless a start before has done so.

    Args:
        service: the evaluators.
        config: the run's configuration.
        run: its folder.
        chosen: the set of layers to drop.
        compared: what it costs, among other comparisons.

    Returns:
        Where the checkpoint is, and how it compares with the original.
    """
    base = PurePosixPath(config.model.source).name.removesuffix(".gguf")
    name = f"{base}-without-{len(chosen.dropped)}-layers"
    url = Storage(config.final.path).url() if config.final.path else run.storage.url("models", name)
    mark = {"run_id": run.run_id, "dropped_layers": list(chosen.dropped)}
    known = read_mark(url)
    if known is not None and all(known.get(name) == value for name, value in mark.items()):
        return url, [Paired(**pair) for pair in known["speed"]]
    card = ModelCard(
        base_model=config.model.source,
        chosen_by=describe(chosen),
        cost=[_card_row(c) for c in compared if c.kind == "chosen" and c.part == "held_out"],
        command=_command_line(),
    )
    pairs: list[Paired] = service.call("export", chosen.dropped, url, card, mark)
    return url, pairs


def describe(trial: TrialResult) -> str:
    """Say in words how a trial's layers were chosen."""
    c = trial.candidate
    if c is None:
        return f"the {trial.origin} search over single layers"
    parts = [f"`{c.metric}`"]
    if c.tap:
        parts.append(f"on tap `{c.tap}`")
    if c.variance:
        parts.append(f"with {c.variance} variance")
    if c.epsilon is not None:
        parts.append(f"and {c.epsilon_kind} epsilon {c.epsilon:.3g}")
    parts.append(f"at ratio {c.ratio:g}{', as one span' if c.contiguous else ''}")
    return " ".join(parts)


def _card_row(c: TaskComparison) -> list[str]:
    r = c.retention
    kept = "unknown" if r.raw.missing else f"{r.raw.value:.1%} ({estimate_text(r.raw)})"
    noise = ", within noise" if r.within_noise else ""
    return [c.task, c.metric, f"{r.before.value:.3f}", f"{r.after.value:.3f}", kept + noise, str(c.items)]


def _command_line() -> str | None:
    """Return the command that started the job, or None where it was called from Python."""
    program = PurePosixPath(sys.argv[0]).name
    return shlex.join([program, *sys.argv[1:]]) if program in ("search.py", "stratoscope") else None
