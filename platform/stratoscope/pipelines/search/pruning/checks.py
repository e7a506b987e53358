"""Checks of a search's configuration against its model, tasks and environment, before any model is loaded."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from stratoscope.errors import InputError
from stratoscope.evaluation import TaskItems
from stratoscope.pipelines.search.config import SearchSection
from stratoscope.pipelines.search.pruning.checkpoint import read_mark
from stratoscope.pruning import PERPLEXITY_DROP, STRATEGY_NAMES, least_budget
from stratoscope.results import Storage
from stratoscope.scoring import num_dropped


def check_ratios(
    ratios: Iterable[float],
    num_layers: int,
    source: str,
    *,
    protected: Sequence[int] = (),
    contiguous: Sequence[bool] = (False,),
) -> None:
    """Check that every ratio drops some layers of the model and retains some.

    Args:
        ratios: shares of the layers to drop.
        num_layers: number of layers of the model.
        source: name of the model.
        protected: layers that have to be kept.
        contiguous: whether the layers to drop are one span.

    Raises:
        InputError: a ratio drops no layer, all layers, or more than can be dropped.
    """
    ends = [-1, *protected, num_layers]
    longest = max(end - start - 1 for start, end in pairwise(ends))
    most = longest if True in contiguous else num_layers - len(protected)
    for ratio in ratios:
        count = num_dropped(ratio, num_layers)
        if count >= num_layers:
            raise InputError(
                f"space.ratios {ratio} leaves none of the {num_layers} layers of {source!r}; "
                f"give at most {(num_layers - 1) / num_layers:.3g}"
            )
        if count > most:
            kept = ", ".join(map(str, protected))
            raise InputError(
                f"space.ratios {ratio} drops {count} of the {num_layers} layers of {source!r}, of which {kept} have to "
                f"be kept; give at most {most / num_layers:.3g}"
                + (" with space.contiguous" if True in contiguous else "")
            )
        if count == 0:
            raise InputError(
                f"space.ratios {ratio} drops none of the {num_layers} layers of {source!r}; "
                f"give at least {1 / num_layers:.3g}"
            )


def check_budget(search: SearchSection, ratios: Iterable[float], num_layers: int, protected: Sequence[int]) -> None:
    """Check that a search over sets can reach the size of every ratio.

    Args:
        search: the section of the configuration.
        ratios: shares of the layers to drop.
        num_layers: number of layers of the model.
        protected: layers that have to be kept.

    Raises:
        InputError: `search.num_samples` is too small.
    """
    if search.algorithm not in STRATEGY_NAMES:
        return
    name = search.algorithm
    for ratio in ratios:
        size = num_dropped(ratio, num_layers)
        least = least_budget(name, num_layers - len(protected), size, search.beam_width)
        if search.num_samples < least:
            raise InputError(
                f"search.num_samples {search.num_samples} is too small for {name} to reach the {size} layers of "
                f"space.ratios {ratio}; give at least {least}"
            )


def check_path(path: str | None, own: Mapping[str, Any]) -> None:
    """Check that the folder for the checkpoint is empty, or holds the checkpoint of an earlier start of this run.

    Args:
        path: the folder; None is models/ in the run.
        own: the part of a mark that identifies this run.

    Raises:
        InputError: it holds something else.
    """
    if path is None or not Storage(path).names():
        return
    mark = read_mark(path)
    if mark is None:
        raise InputError(f"final.path {path!r} exists and is not empty; name another folder")
    if any(mark.get(key) != value for key, value in own.items()):
        raise InputError(
            f"final.path {path!r} holds the checkpoint of another run ({mark.get('run_id')!r}, started "
            f"{mark.get('started')}); name another folder, or remove it"
        )


def check_objective(objective: str, metrics: Iterable[str], tasks: Sequence[TaskItems]) -> None:
    """Check that there is a task of text, or with likelihoods, if the objective or a metric needs one.

    Raises:
        InputError: there is none.
    """
    if objective in ("likelihood", "mixed") and all(task.task.OUTPUT_TYPE == "generate_until" for task in tasks):
        raise InputError(
            f"search.objective {objective} needs a task with choices, a target or text, such as sciq: answers that are "
            "generated have no likelihood"
        )
    if any(task.by_token for task in tasks):
        return
    if objective == "bits_per_byte":
        raise InputError("search.objective bits_per_byte needs a task of language-model text, such as passages")
    if PERPLEXITY_DROP in metrics:
        raise InputError(f"{PERPLEXITY_DROP} needs a task of language-model text in evaluation.tasks, such as passages")
