"""The chosen model as a checkpoint, with a model card that states what was dropped, why, and at what cost."""

import json
from collections.abc import Iterable
from typing import Any

from stratoscope.errors import DamagedFileError
from stratoscope.execution import Service
from stratoscope.models import ModelCard
from stratoscope.models.speed import SpeedComparison
from stratoscope.pipelines.runtime.cards import checkpoint_name, command_line
from stratoscope.pruning import TaskComparison, TrialResult, share_interval
from stratoscope.results import Manifest, Run, Storage

MARK = "stratoscope.json"
"""File in a checkpoint's folder that identifies its run."""
REMOVE = "remove the folder, or give another as final.path"


def export_chosen(
    service: Service,
    run: Run,
    chosen: TrialResult,
    comparisons: Iterable[TaskComparison],
    speed: SpeedComparison,
    *,
    source: str,
    path: str | None,
) -> tuple[str, list[SpeedComparison]]:
    """Write the chosen model as a checkpoint, unless an earlier start of the run has done so.

    Args:
        service: the evaluators.
        run: the run; its manifest has the fingerprint of the weights.
        chosen: the chosen trial.
        comparisons: all comparisons; the card shows those of the chosen set on held-out items.
        speed: speed in forward passes, for the card.
        source: source of the whole model.
        path: folder for the checkpoint; None is models/ in the run.

    Returns:
        The checkpoint's path or URL, and its decoding speed and memory compared with the original's.
    """
    name = checkpoint_name(source, f"without-{len(chosen.dropped)}-layers")
    url = Storage(path).url() if path else run.storage.url("models", name)
    weights = run.manifest.fingerprints["weights"]
    mark = {**run_mark(run.manifest), "weights": weights, "dropped_layers": list(chosen.dropped)}
    present = read_mark(url)
    if present is not None and all(present.get(key) == value for key, value in mark.items()):
        return url, [SpeedComparison(**comparison) for comparison in present["speed"]]
    card = ModelCard(
        base_model=source,
        chosen_by=describe_trial(chosen),
        cost=[_card_row(c) for c in comparisons if c.kind == "chosen" and c.part == "held_out"],
        command=command_line("search"),
        speed=f"Speed in forward passes: {speed_text(speed)}.",
    )
    decoding: list[SpeedComparison] = service.call("export", chosen.dropped, url, card, mark)
    return url, decoding


def speed_text(speed: SpeedComparison) -> str:
    """Return a speed as text, with the range of its paired runs."""
    return f"{speed.gain:.2f} times that of the original ({speed.gain_low:.2f} to {speed.gain_high:.2f} in paired runs)"


def run_mark(manifest: Manifest) -> dict[str, Any]:
    """Return the part of a mark that identifies a run. A new run under an old run_id has another start."""
    return {"run_id": manifest.run_id, "started": manifest.started}


def read_mark(url: str) -> dict[str, Any] | None:
    """Return the mark in a checkpoint's folder, or None where there is none.

    Raises:
        DamagedFileError: it is no JSON object.
    """
    try:
        mark = json.loads(Storage(url).read(MARK))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DamagedFileError(Storage(url).url(MARK), error, REMOVE) from error
    if not isinstance(mark, dict):
        raise DamagedFileError(Storage(url).url(MARK), "it is no JSON object", REMOVE)
    return mark


def describe_trial(trial: TrialResult) -> str:
    """Describe in words how a trial selected its layers."""
    candidate = trial.candidate
    if candidate is None:
        return f"a search over sets of layers (`{trial.origin}`)"
    parts = [f"`{candidate.metric}`"]
    if candidate.tap:
        parts.append(f"on tap `{candidate.tap}`")
    if candidate.variance:
        parts.append(f"with {candidate.variance} variance")
    if candidate.epsilon is not None:
        parts.append(f"and {candidate.epsilon_kind} epsilon {candidate.epsilon:.3g}")
    parts.append(f"at ratio {candidate.ratio:g}{', as one span' if candidate.contiguous else ''}")
    return " ".join(parts)


def _card_row(comparison: TaskComparison) -> list[str]:
    retention = comparison.retention
    raw = "unknown" if retention.raw.missing else f"{retention.raw.value:.1%} ({share_interval(retention.raw)})"
    return [
        comparison.task,
        comparison.metric,
        f"{retention.before.value:.3f}",
        f"{retention.after.value:.3f}",
        raw + (", within noise" if retention.within_noise else ""),
        str(comparison.num_items),
    ]
