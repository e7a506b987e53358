"""The evaluator of tasks: scores a model without some of its layers, item by item."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stratoscope.errors import InputError, RunError, first_line
from stratoscope.evaluation.generation import GenerationPrompt, TextGenerator
from stratoscope.evaluation.likelihood import Likelihood, Scorer
from stratoscope.evaluation.rows import Batch, Request
from stratoscope.evaluation.tasks import Item, TaskItems
from stratoscope.evaluation.truncation import TruncatedPrompts, fit_prompt, fit_request
from stratoscope.models import LoadedModel, encode_pair, encode_text

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task

ItemPart = Literal["search", "text", "held_out"]
"""A part of the items: those of the search, its language-model text alone, or those that the search never sees."""
TEXT_WINDOW = 2048
"""Longest window of a text that is predicted whole, in tokens; all its logits are in memory at once."""
DEFAULT_ANSWER = 256
"""Longest generated answer, in tokens, where a task sets no limit."""


@dataclass(frozen=True)
class Slice:
    """Items of every task that are evaluated together."""

    part: ItemPart
    start: float
    """Share of a task's items in the part that precede the slice."""
    end: float

    def of(self, task: TaskItems) -> tuple[Item, ...]:
        """Return the items of a task in the slice."""
        if self.part == "text" and not task.by_token:
            return ()
        items = task.held_out if self.part == "held_out" else task.search
        return items[math.ceil(self.start * len(items)) : math.ceil(self.end * len(items))]

    @property
    def name(self) -> str:
        """Name of the slice in files and caches."""
        return f"{self.part}-{self.start:.4f}-{self.end:.4f}"


@dataclass(frozen=True)
class ItemScore:
    """The score of one item."""

    task: str
    metric: str
    """Name of the metric; a task with several filters has one for each."""
    item_id: str
    value: float
    """Score: 0 or 1, or the number of correct tokens for language-model text; NaN where logits are not finite."""
    weight: float
    """Largest possible score: 1, or the number of tokens."""
    log_likelihood: float | None
    """Log-likelihood of the text or target; None where an item has several."""
    num_bytes: int | None
    """Bytes of the text; None unless it is language-model text."""
    log_probability: float | None = None
    """Log-probability of the right answer: among the choices, or of the only target; None for text and generation."""


@dataclass(frozen=True, eq=False)
class _PreparedSlice:
    """The batches and prompts of a slice."""

    items: tuple[tuple[TaskItems, Item], ...]
    batches: tuple[Batch, ...]
    parts: dict[tuple[int, int], list[int]]
    """Numbers of the requests whose likelihoods add up to that of an item's instance."""
    prompts: dict[tuple[int, int], GenerationPrompt]
    truncated: frozenset[int]
    """Items whose prompt is longer than the model takes, and has lost its beginning."""

    @property
    def num_tokens(self) -> int:
        return sum(batch.num_tokens for batch in self.batches)


class Evaluator:
    """Evaluates one model on chosen items; equal sets of dropped layers and slices give equal results, to the bit.

    Args:
        model: with its causal head.
        tasks: with their items.
        max_batch_tokens: largest number of tokens in a batch, padding included.
        max_length: longest sequence that the model takes, in tokens. Prompts that are too long lose their beginning.
    """

    def __init__(
        self, model: LoadedModel, tasks: Sequence[TaskItems], *, max_batch_tokens: int, max_length: int
    ) -> None:
        self.model, self.tasks = model, list(tasks)
        check_answers_fit([items.task for items in tasks], max_length)
        self._max_length = max_length
        self.scorer = Scorer(model, max_batch_tokens)
        self._generator = TextGenerator(model, max_batch_tokens)
        self._prepared: dict[Slice, _PreparedSlice] = {}

    def evaluate(self, dropped: Sequence[int], items: Slice, *, keep_bytes: int = 0) -> list[ItemScore]:
        """Evaluate the model without some layers.

        Args:
            dropped: layers to leave out.
            items: what to evaluate on.
            keep_bytes: most bytes of hidden states to keep, from which other sets may start.
        """
        prepared = self._prepare(items)
        key = items.name if items.part == "search" else None
        likelihoods = self.scorer.score(prepared.batches, dropped, key=key, keep_bytes=keep_bytes)
        texts = self._generator.answer(list(prepared.prompts.values()), dropped)
        answers = dict(zip(prepared.prompts, texts, strict=True))
        return list(self._item_scores(prepared, likelihoods, answers))

    def remember(self, dropped: Sequence[int], items: Slice, keep_bytes: int) -> None:
        """Run a set only to cache its hidden states, from which other sets of the search start."""
        self.scorer.score(self._prepare(items).batches, dropped, key=items.name, keep_bytes=keep_bytes)

    def num_tokens(self, items: Slice) -> int:
        """Return the number of tokens of a slice, padding included, without generation."""
        return self._prepare(items).num_tokens

    def truncated(self, slices: Sequence[Slice]) -> list[TruncatedPrompts]:
        """Return how many items on some slices have a prompt that is longer than the model takes, for each task."""
        parts = list(map(self._prepare, slices))
        numbers = Counter(part.items[index][0].name for part in parts for index in part.truncated)
        totals = Counter(task.name for part in parts for task, _ in part.items)
        names = [task.name for task in self.tasks]
        return [TruncatedPrompts(name, numbers[name], totals[name], self._max_length) for name in names]

    def majority_token(self, slices: Sequence[Slice], task: str) -> float:
        """Return the share of the most frequent token among those that a task predicts on some slices."""
        counts: Counter[int] = Counter()
        for part in map(self._prepare, slices):
            numbers = {n for (i, _), requests in part.parts.items() if part.items[i][0].name == task for n in requests}
            for batch in part.batches:
                pairs = zip(batch.requests, batch.tokens.tolist(), strict=True)
                counts.update(token for request, token in pairs if request in numbers)
        return max(counts.values()) / counts.total() if counts else 0.0

    def _prepare(self, items: Slice) -> _PreparedSlice:
        if items in self._prepared:
            return self._prepared[items]
        chosen = tuple((task, item) for task in self.tasks for item in items.of(task))
        requests: list[Request] = []
        parts: dict[tuple[int, int], list[int]] = {}
        prompts: dict[tuple[int, int], GenerationPrompt] = {}
        truncated: set[int] = set()
        for index, (_, item) in enumerate(chosen):
            for number, instance in enumerate(item.requests):
                if instance.request_type == "generate_until":
                    prompts[index, number], is_cut = self._prompt(instance)
                else:
                    new, is_cut = self._requests(instance)
                    parts[index, number] = list(range(len(requests), len(requests) + len(new)))
                    requests += new
                if is_cut:
                    truncated.add(index)
        batches = tuple(self.scorer.batches(requests)) if requests else ()
        self._prepared[items] = _PreparedSlice(chosen, batches, parts, prompts, frozenset(truncated))
        return self._prepared[items]

    def _requests(self, instance: "Instance") -> tuple[list[Request], bool]:
        """Return the requests of an instance, and whether its prompt or target is too long and loses its beginning."""
        if instance.request_type == "loglikelihood_rolling":
            return list(self._windows(instance)), False
        context, target = self._encode_pair(*instance.args[:2])
        if not target:
            raise RunError(f"task {instance.task_name}: a target has no tokens ({instance.args[1]!r})")
        request, is_cut = fit_request(context, target, self._max_length)
        return [request], is_cut

    def _windows(self, instance: "Instance") -> Iterator[Request]:
        """Yield the requests of a text; a long one makes several."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        windows = get_rolling_token_windows(
            token_list=self._text(instance.args[0]),
            prefix_token=self._prefix,
            max_seq_len=min(self._max_length, TEXT_WINDOW),
            context_len=1,
        )
        for context, target in map(make_disjoint_window, windows):
            yield Request(tuple(context), tuple(target))

    def _text(self, text: str) -> list[int]:
        """Encode a text that is predicted whole, without the prefix token, which the windows add."""
        ids = self._encode(text)
        return ids[1:] if ids[:1] == [self._prefix] else ids

    def _encode_pair(self, context: str, target: str) -> tuple[list[int], list[int]]:
        """Encode context and target as one text and split it where the context ends, as the harness does."""
        ids: tuple[list[int], list[int]] = ([], [])
        if context.strip():
            ids = encode_pair(self.model.tokenizer, context, target)
        if ids[0]:
            return ids
        return [self._prefix], self._text(context + target)

    def _prompt(self, instance: "Instance") -> tuple[GenerationPrompt, bool]:
        """Return the prompt of an instance, and whether it is too long and loses its beginning."""
        text, options = instance.args[0], dict(instance.args[1])
        until = options.get("until") or []
        longest = _answer_tokens(options)
        ids, is_cut = fit_prompt(self._encode(text) or [self._prefix], longest, self._max_length)
        return GenerationPrompt(ids, tuple([until] if isinstance(until, str) else until), longest), is_cut

    def _encode(self, text: str) -> list[int]:
        return encode_text(self.model.tokenizer, text)

    @property
    def _prefix(self) -> int:
        """The token before a text without context."""
        tokenizer = self.model.tokenizer
        first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if first is None:
            raise RunError("the tokenizer has neither a begin-of-sequence nor an end-of-sequence token")
        return int(first)

    def _item_scores(
        self, prepared: _PreparedSlice, likelihoods: dict[int, Likelihood], answers: dict[tuple[int, int], str | None]
    ) -> Iterator[ItemScore]:
        for index, (task, item) in enumerate(prepared.items):
            responses: list[Likelihood | str | None] = []
            for number in range(len(item.requests)):
                if (index, number) in answers:
                    responses.append(answers[index, number])
                else:
                    responses.append(_sum([likelihoods[n] for n in prepared.parts[index, number]]))
            yield from _score_item(task, item, responses)


def check_answers_fit(tasks: Sequence["Task"], max_length: int) -> None:
    """Check that the longest answer to each task's prompts leaves room for a prompt.

    Args:
        tasks: the tasks.
        max_length: longest sequence that the model takes, in tokens.

    Raises:
        InputError: it leaves none.
    """
    for task in tasks:
        longest = _answer_tokens(task.config.generation_kwargs or {})
        if task.OUTPUT_TYPE == "generate_until" and longest >= max_length:
            raise InputError(
                f"evaluation.tasks: {task.config.task} generates up to {longest} tokens (max_gen_toks), which leave no "
                f"room for a prompt in the {max_length} positions of the model; take a model with more, or a copy of "
                "the task with a smaller max_gen_toks"
            )


def _answer_tokens(options: Mapping[str, Any]) -> int:
    """Return the length of the longest generated answer, in tokens."""
    return int(options.get("max_gen_toks") or options.get("max_new_tokens") or DEFAULT_ANSWER)


def _sum(parts: Sequence[Likelihood]) -> Likelihood:
    return Likelihood(sum(p.log_likelihood for p in parts), sum(p.correct for p in parts), sum(p.tokens for p in parts))


def _score_item(task: TaskItems, item: Item, responses: Sequence[Likelihood | str | None]) -> Iterator[ItemScore]:
    """Score an item by the harness, once for each metric of the task; the tokens of a text are counted here."""
    only = responses[0] if len(responses) == 1 and isinstance(responses[0], Likelihood) else None
    log_likelihood = only.log_likelihood if only else None
    # The harness would take the first choice where a likelihood is NaN, and the wrong answer that NaN generates.
    finite = all(map(_is_finite, responses))
    if task.by_token and only:
        num_bytes = len(str(task.task.doc_to_target(item.doc)).encode())
        values = (only.correct if finite else math.nan, only.tokens, log_likelihood, num_bytes)
        yield ItemScore(task.name, task.metric, item.item_id, *values)
        return
    right = log_likelihood if only else _log_probability(task, item, responses)
    _apply_filters(task, item, responses)
    default = next(iter(item.requests[0].filtered_resps))
    for metric in task.metrics:
        answers = [request.filtered_resps[metric.filter or default] for request in item.requests]
        value = float(task.task.process_results(item.doc, answers)[metric.measure]) if finite else math.nan
        yield ItemScore(task.name, metric.name, item.item_id, value, 1.0, log_likelihood, None, right)


def _is_finite(response: Likelihood | str | None) -> bool:
    return math.isfinite(response.log_likelihood) if isinstance(response, Likelihood) else response is not None


def _log_probability(task: TaskItems, item: Item, responses: Sequence[Likelihood | str | None]) -> float | None:
    """Return the log of the right choice's share of the likelihood of all choices; None where there are no choices.

    Further responses, which the harness asks for where a metric conditions on the choices alone, do not count.
    """
    if task.task.OUTPUT_TYPE != "multiple_choice":
        return None
    gold = task.task.doc_to_text(item.doc) if task.task.multiple_input else task.task.doc_to_target(item.doc)
    choices = task.task.doc_to_choice(item.doc)
    if isinstance(gold, str):
        gold = choices.index(gold) if gold in choices else -1
    right = [index for index in (gold if isinstance(gold, list) else [gold]) if 0 <= index < len(choices)]
    values = np.array([r.log_likelihood for r in responses[: len(choices)] if isinstance(r, Likelihood)])
    if not right or len(values) < len(choices):
        return None
    with np.errstate(invalid="ignore"):
        return float(np.logaddexp.reduce(values[right]) - np.logaddexp.reduce(values))


def _apply_filters(task: TaskItems, item: Item, responses: Sequence[Likelihood | str | None]) -> None:
    """Give an item's requests their responses, and let the harness extract the answers by each of the task's filters.

    Raises:
        RunError: a filter fails.
    """
    for instance, response in zip(item.requests, responses, strict=True):
        if isinstance(response, Likelihood):
            instance.resps = [(response.log_likelihood, response.greedy)]
        else:
            instance.resps = [response or ""]
        instance.filtered_resps = {}
    task.task._instances = list(item.requests)
    try:
        task.task.apply_filters()
    except Exception as error:  # filters run arbitrary code of the task
        raise RunError(f"task {task.name}: a filter fails: {first_line(error)}") from error
