"""Tasks of lm-evaluation-harness: the shipped ones, the harness's own, and local YAML files."""

import inspect
import logging
import math
import random
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratoscope.data import row_id
from stratoscope.digest import digest
from stratoscope.errors import InputError, first_line, suggest
from stratoscope.evaluation.bundled import ALSO
from stratoscope.hub import local_path

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task
    from transformers import PreTrainedTokenizerBase

SHIPPED = Path(__file__).parent / "tasks"
HARNESS = "harness:"
"""Prefix of a task of the harness where a shipped one has the same name."""
NEXT_TOKEN = "next_token_accuracy"
PER_ITEM = ("acc", "exact_match", "em")
"""Metrics that score items individually, in order of preference."""
SCORING = ("doc_to_target", "doc_to_choice", "process_results", "filter_list", "metric_list")
"""Settings of a task that decide the score of an answer."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Item:
    """One document of a task, as phrased by the harness."""

    item_id: str
    """Id of the raw row; prompts have the same ids."""
    doc: dict[str, Any]
    requests: tuple["Instance", ...]


@dataclass(frozen=True)
class ItemMetric:
    """A metric of a task's items. A task with several filters has one for each."""

    measure: str
    """acc, exact_match or em; `next_token_accuracy` for language-model text."""
    filter: str | None = None
    """Filter that extracts the answers; None where the task has only one."""

    @property
    def name(self) -> str:
        """Name of the metric, as lm-evaluation-harness writes it where a task has several filters."""
        return f"{self.measure},{self.filter}" if self.filter else self.measure


@dataclass(frozen=True, eq=False)
class TaskItems:
    """A task with its chosen documents, in their seeded order, in two parts."""

    name: str
    metrics: tuple[ItemMetric, ...]
    """Metrics of the items; the first counts."""
    task: "Task"
    search: tuple[Item, ...]
    held_out: tuple[Item, ...]
    num_excluded: int
    """Number of documents that are left out because they were calibrated on."""
    guess: float
    """Mean accuracy of guessing among the choices; 0 where there are none."""
    num_left: int = 0
    """Number of documents in neither part."""

    @property
    def metric(self) -> str:
        """Name of the metric that counts."""
        return self.metrics[0].name

    @property
    def by_token(self) -> bool:
        """Whether the metric counts tokens instead of items."""
        return self.metric == NEXT_TOKEN

    @property
    def note(self) -> str | None:
        """A sentence on which of several metrics counts; None where the task has only one."""
        if len(self.metrics) == 1:
            return None
        own_first = self.metrics[0].filter == filter_names(self.task)[0]
        reason = "the task's own first filter" if own_first else "as evaluation.filters says"
        others = ", ".join(metric.name for metric in self.metrics[1:])
        return f"{self.name}: {self.metric} counts, {reason}; the tables also have {others} (see evaluation.filters)."


@dataclass(frozen=True)
class ItemSampling:
    """Number of documents to take from each task."""

    search: int
    """Most documents for the search."""
    held_out: int
    """Most documents that the search never sees; a task with too few divides them in these proportions."""
    seed: int = 0
    chat: bool = False
    """Whether documents are phrased in the model's chat template."""
    filters: tuple[str, ...] = ()
    """Filters that count where a task has several: the first that the task has, else the task's own first."""


def load_tasks(names: Sequence[str]) -> list["Task"]:
    """Load tasks by name.

    Args:
        names: shipped tasks, tasks or groups of the harness, `harness:NAME`, or paths of task YAML files.

    Raises:
        InputError: a name is none of these, a task's data cannot be read, it has no metric that scores items, it asks
            for several answers to an item, or it may show an item its own answer.
    """
    tasks: dict[str, Task] = {}
    for name in names:
        for task in _load(name):
            _measure(task)
            _check_repeats(task)
            _check_shots(task)
            if _name(task) in tasks:
                raise InputError(
                    f"evaluation.tasks: two tasks are called {_name(task)!r}; give one of them another name"
                )
            tasks[_name(task)] = task
    return list(tasks.values())


def task_names() -> list[str]:
    """Return the names of the shipped tasks."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def filter_names(task: "Task") -> list[str]:
    """Return the names of a task's filters, its own first one first."""
    return list(dict.fromkeys(ensemble.name for ensemble in getattr(task, "_filters", ())))


def check_filters(tasks: Sequence["Task"], filters: Sequence[str]) -> None:
    """Check that some task has each of the filters that are to count.

    Raises:
        InputError: no task has one of them.
    """
    known = list(dict.fromkeys(name for task in tasks if len(filter_names(task)) > 1 for name in filter_names(task)))
    for name in filters:
        if name not in known:
            hint = suggest(name, known, "filters") if known else "; none of evaluation.tasks has several"
            raise InputError(f"evaluation.filters: no task has several filters and one called {name!r}{hint}")


def items_digest(tasks: Sequence["TaskItems"]) -> str:
    """Return a digest of tasks' chosen items: rows with their labels, requests, and how answers are scored."""
    return digest(
        {
            t.name: {
                "parts": [[_item_content(item) for item in part] for part in (t.search, t.held_out)],
                "scoring": _scoring_rules(t.task),
            }
            for t in tasks
        }
    )


def _item_content(item: Item) -> list[Any]:
    """Return what the model reads of an item, and the id of its row, which covers the label."""
    return [item.item_id, [str(request.args) for request in item.requests]]


def _scoring_rules(task: "Task") -> list[Any]:
    """Return the settings and the code that turn a task's answers into scores."""
    return [_plain(type(task)), *(_plain(getattr(task.config, name, None)) for name in SCORING)]


def _plain(value: Any) -> Any:
    """Return a setting of a task with the source of its functions and classes, for digests."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if not callable(value):
        return value
    try:
        # The whole file, because a function may call others in it.
        return Path(inspect.getsourcefile(value) or "").read_text(encoding="utf-8")
    except (TypeError, OSError):
        return f"{type(value).__module__}.{type(value).__qualname__}"


def choose_items(
    task: "Task", sampling: ItemSampling, calibrated: Collection[str], tokenizer: "PreTrainedTokenizerBase"
) -> TaskItems:
    """Choose documents of a task and phrase them by the harness.

    Args:
        task: one of `load_tasks`; its few-shot examples are drawn with the seed.
        sampling: how many documents to take.
        calibrated: ids of rows that statistics were computed from; no such row is taken.
        tokenizer: the tokenizer whose chat template is applied where `sampling.chat` is set.

    Raises:
        InputError: the task cannot be phrased, or none of its documents is left.
    """
    task.set_fewshot_seed(sampling.seed)
    order, num_excluded = _order(task, frozenset(calibrated), sampling.seed)
    name = _name(task)
    if len(order) < 2:
        raise InputError(f"evaluation.tasks: {name} has no items that were not calibrated on; take other prompts")
    num_search, num_held_out = _shares(len(order), sampling)
    chosen = order[: num_search + num_held_out]
    items = dict(_phrase(task, sorted(index for index, _ in chosen), sampling.chat, tokenizer))
    phrased = [Item(item_id, *items[index]) for index, item_id in chosen]
    return TaskItems(
        name=name,
        metrics=_metrics(task, sampling.filters),
        task=task,
        search=tuple(phrased[:num_search]),
        held_out=tuple(phrased[num_search:]),
        num_excluded=num_excluded,
        guess=_guess(task, phrased),
        num_left=len(order) - len(chosen),
    )


@cache
def _manager(*, harness: bool) -> Any:
    """Return the index of the harness's own tasks, which takes seconds to build, or of the shipped ones."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=None if harness else str(SHIPPED), include_defaults=harness)


def _load(name: str) -> Iterator["Task"]:
    shipped = name in task_names()
    path = local_path(name)
    local = not shipped and path.suffix in (".yaml", ".yml")
    if local and not path.is_file():
        raise InputError(f"evaluation.tasks {name!r}: there is no such file")
    spec = str(path.resolve()) if local else name.removeprefix(HARNESS)
    manager = _manager(harness=not (shipped or local))
    if not shipped and not local and spec not in manager.all_tasks:
        known = [*task_names(), *manager.all_tasks]
        raise InputError(
            f"evaluation.tasks {name!r} is neither a shipped task, a task of the harness, nor a YAML file"
            f"{suggest(name, known, 'tasks') if len(known) < 50 else _nearest_task(spec, known)}"
        )
    try:
        yield from manager.load(spec)["tasks"].values()
    except InputError:
        raise
    except Exception as error:  # a task runs arbitrary code and reads arbitrary data
        raise InputError(f"evaluation.tasks {name!r} cannot be loaded: {first_line(error)}") from error


def _nearest_task(name: str, known: Sequence[str]) -> str:
    from stratoscope.errors import nearest

    return f"{nearest(name, known)}; shipped are {', '.join(task_names())}"


def _name(task: "Task") -> str:
    return str(task.config.task or type(task).__name__)


def _metrics(task: "Task", preferred: Sequence[str]) -> tuple[ItemMetric, ...]:
    """Return the metrics of a task's items, the one that counts first."""
    measure, names = _measure(task), filter_names(task)
    if measure == NEXT_TOKEN or len(names) < 2:
        return (ItemMetric(measure),)
    first = next((name for name in preferred if name in names), names[0])
    return tuple(ItemMetric(measure, name) for name in sorted(names, key=lambda name: name != first))


def _check_repeats(task: "Task") -> None:
    """Refuse a task that samples several answers to an item, since answers are generated greedily, once."""
    repeats = getattr(task.config, "repeats", None) or 1
    if repeats > 1:
        raise InputError(
            f"evaluation.tasks: {_name(task)} samples {repeats} answers to each item (repeats), and answers are "
            "generated greedily, once; take a task with repeats: 1"
        )


def _check_shots(task: "Task") -> None:
    """Refuse a task whose examples may hold the item that they precede.

    The harness leaves the item out only where `fewshot_split` is named and is `test_split`.
    """
    config = task.config
    evaluated = config.test_split or config.validation_split
    own = task.fewshot_cfg.split
    by_default = config.training_split or config.validation_split or config.test_split
    drawn = own or (None if task.fewshot_cfg.samples is not None else by_default)
    if config.num_fewshot and drawn == evaluated and (own is None or own != config.test_split):
        raise InputError(
            f"evaluation.tasks: {_name(task)} draws examples from the items that it evaluates (split {evaluated!r}), "
            f"so an item may be its own example; give it test_split: {evaluated} and fewshot_split: {evaluated}, with "
            "which an item is left out of its own examples, or a fewshot_split of other rows"
        )


def _measure(task: "Task") -> str:
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return NEXT_TOKEN
    metrics = list(task.aggregation())
    for metric in PER_ITEM:
        if metric in metrics:
            return metric
    raise InputError(
        f"evaluation.tasks: {_name(task)} has none of the metrics {', '.join(PER_ITEM)} (but {', '.join(metrics)}), so "
        "its items cannot be scored individually"
    )


def _order(task: "Task", calibrated: frozenset[str], seed: int) -> tuple[list[tuple[int, str]], int]:
    """Return index and id of each distinct document, shuffled, and the number of those left out as calibrated on.

    Of documents that are versions of one text (`ALSO`), the first in the shuffled order is taken.
    """
    seen: set[str] = set()
    order = []
    num_excluded = 0
    raw = _raw_rows(task)
    for index, doc in enumerate(task.eval_docs):
        item_id = row_id(doc)
        also = [row_id(raw[index])] if raw is not None else []
        if not calibrated.isdisjoint([item_id, *also, *doc.get(ALSO, [])]):
            num_excluded += 1
        elif item_id not in seen:
            seen.add(item_id)
            order.append((index, item_id, set(doc.get(ALSO, []))))
    random.Random(seed).shuffle(order)
    distinct, taken = [], set[str]()
    for index, item_id, versions in order:
        if taken.isdisjoint(versions):
            taken |= versions
            distinct.append((index, item_id))
    return distinct, num_excluded


def _raw_rows(task: "Task") -> Any:
    """Return the raw rows of a task's documents, one for one, or None where the documents are the raw rows."""
    if getattr(task.config, "process_docs", None) is None:
        return None
    rows = task.dataset[task.config.test_split or task.config.validation_split]
    return rows if len(rows) == len(task.eval_docs) else None


def _shares(available: int, sampling: ItemSampling) -> tuple[int, int]:
    wanted = sampling.search + sampling.held_out
    if available >= wanted:
        return sampling.search, sampling.held_out
    num_search = max(1, math.floor(available * sampling.search / wanted))
    return num_search, available - num_search


def _phrase(
    task: "Task", indices: Sequence[int], chat: bool, tokenizer: "PreTrainedTokenizerBase"
) -> Iterator[tuple[int, tuple[dict[str, Any], tuple["Instance", ...]]]]:
    def as_chat(history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return str(
            tokenizer.apply_chat_template(
                history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    template = {"apply_chat_template": True, "chat_template": as_chat} if chat else {}
    try:
        task.build_all_requests(samples=list(indices), **template)
    except Exception as error:  # templates and code of the task may raise anything
        raise InputError(f"evaluation.tasks: {_name(task)} cannot be phrased: {first_line(error)}") from error
    by_document: dict[int, list[Instance]] = {}
    for instance in task.instances:
        by_document.setdefault(instance.doc_id, []).append(instance)
    # The harness numbers the documents of `samples` from 0, in order.
    for number, instances in by_document.items():
        yield indices[number], (dict(instances[0].doc), tuple(instances))


def _guess(task: "Task", items: Sequence[Item]) -> float:
    """Return the larger of the mean of 1 / choices and, where all items have the same choices, the majority's share."""
    if task.OUTPUT_TYPE != "multiple_choice":
        return 0.0
    choices = [tuple(task.doc_to_choice(item.doc)) for item in items]
    by_chance = sum(1 / len(options) for options in choices) / len(choices)
    if len(set(choices)) > 1:
        return by_chance
    labels = Counter(str(task.doc_to_target(item.doc)) for item in items)
    return max(by_chance, labels.most_common(1)[0][1] / len(items))
