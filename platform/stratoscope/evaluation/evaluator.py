"""What a model can do without some of its layers, item by item."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from stratoscope.errors import RunError
from stratoscope.evaluation.generation import GenerationPrompt, generate
from stratoscope.evaluation.likelihood import Likelihood, Scorer
from stratoscope.evaluation.rows import Batch, Request
from stratoscope.evaluation.tasks import Item, TaskItems
from stratoscope.models import LoadedModel, encode_pair, encode_text

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

Part = Literal["search", "text", "held_out"]
"""Of the items: those of the search, its language-model text alone, and those that it never sees."""
DEFAULT_ANSWER = 256
"""Longest generated answer, in tokens, where a task does not say."""


@dataclass(frozen=True)
class Slice:
    """Items of every task that are evaluated together."""

    part: Part
    start: float
    """Share of each task's items of the part that lie before it."""
    end: float

    def of(self, task: TaskItems) -> tuple[Item, ...]:
        """Return a task's items in it."""
        if self.part == "text" and not task.by_token:
            return ()
        items = task.held_out if self.part == "held_out" else task.search
        return items[math.ceil(self.start * len(items)) : math.ceil(self.end * len(items))]

    @property
    def name(self) -> str:
        """Name for files and caches."""
        return f"{self.part}-{self.start:.4f}-{self.end:.4f}"


@dataclass(frozen=True)
class ItemScore:
    """How an item went."""

    task: str
    item_id: str
    value: float
    """What was right: 0 or 1, or of language-model text the number of tokens."""
    weight: float
    """Of how much: 1, or the number of tokens."""
    log_likelihood: float | None
    """Of the text or target, where there is just one."""
    num_bytes: int | None
    """Of the text, where it is language-model text."""


@dataclass(frozen=True, eq=False)
class _Asked:
    """A slice made ready: tokens, batches, prompts."""

    items: tuple[tuple[TaskItems, Item], ...]
    batches: tuple[Batch, ...]
    parts: dict[tuple[int, int], list[int]]
    """Requests whose likelihoods make up that of an item's instance."""
    prompts: dict[tuple[int, int], GenerationPrompt]

    @property
    def num_tokens(self) -> int:
        return sum(batch.num_tokens for batch in self.batches)


class Evaluator:
    """Evaluates one model on chosen items; equal sets of dropped layers and slices give equal results, to the bit.

    Args:
        model: with its causal head.
        tasks: with their items.
        max_batch_tokens: most tokens of a batch, padding included.
        max_length: longest sequence that the model takes.
    """

    def __init__(
        self, model: LoadedModel, tasks: Sequence[TaskItems], *, max_batch_tokens: int, max_length: int
    ) -> None:
        self.model, self.tasks = model, list(tasks)
        self._max_batch_tokens, self._max_length = max_batch_tokens, max_length
        self.scorer = Scorer(model, max_batch_tokens)
        self._asked: dict[Slice, _Asked] = {}

    def evaluate(self, dropped: Sequence[int], items: Slice, *, keep_bytes: int = 0) -> list[ItemScore]:
        """Evaluate the model without some layers.

        Args:
            dropped: layers to leave out.
            items: what to evaluate on.
            keep_bytes: most memory for hidden states that other sets may start from.
        """
        asked = self._prepare(items)
        key = items.name if items.part == "search" else None
        likelihoods = self.scorer.score(asked.batches, dropped, key=key, keep_bytes=keep_bytes)
        written = generate(self.model, list(asked.prompts.values()), dropped, self._max_batch_tokens)
        answers = dict(zip(asked.prompts, written, strict=True))
        return list(self._item_scores(asked, likelihoods, answers))

    def remember(self, dropped: Sequence[int], items: Slice, keep_bytes: int) -> None:
        """Run a set for its hidden states alone, for other sets of the search to start from."""
        self.scorer.score(self._prepare(items).batches, dropped, key=items.name, keep_bytes=keep_bytes)

    def num_tokens(self, items: Slice) -> int:
        """Return the tokens that a slice takes, padding included, generation left out."""
        return self._prepare(items).num_tokens

    def majority_token(self, slices: Sequence[Slice], task: str) -> float:
        """Return the share of the most frequent token among those that a task predicts on some slices."""
        counts: Counter[int] = Counter()
        for asked in map(self._prepare, slices):
            numbers = {n for (i, _), parts in asked.parts.items() if asked.items[i][0].name == task for n in parts}
            for batch in asked.batches:
                pairs = zip(batch.requests, batch.tokens.tolist(), strict=True)
                counts.update(token for request, token in pairs if request in numbers)
        return max(counts.values()) / counts.total() if counts else 0.0

    def _prepare(self, items: Slice) -> _Asked:
        if items in self._asked:
            return self._asked[items]
        chosen = tuple((task, item) for task in self.tasks for item in items.of(task))
        requests: list[Request] = []
        parts: dict[tuple[int, int], list[int]] = {}
        prompts: dict[tuple[int, int], GenerationPrompt] = {}
        for index, (_, item) in enumerate(chosen):
            for number, instance in enumerate(item.requests):
                if instance.request_type == "generate_until":
                    prompts[index, number] = self._prompt(instance)
                    continue
                new = list(self._requests(instance))
                parts[index, number] = list(range(len(requests), len(requests) + len(new)))
                requests += new
        batches = tuple(self.scorer.batches(requests)) if requests else ()
        self._asked[items] = _Asked(chosen, batches, parts, prompts)
        return self._asked[items]

    def _requests(self, instance: "Instance") -> Iterator[Request]:
        """Yield what an instance asks the likelihood of; long texts are several requests."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        if instance.request_type == "loglikelihood_rolling":
            windows = get_rolling_token_windows(
                token_list=self._text(instance.args[0]),
                prefix_token=self._prefix,
                max_seq_len=self._max_length,
                context_len=1,
            )
            for context, target in map(make_disjoint_window, windows):
                yield Request(tuple(context), tuple(target))
            return
        context, target = self._encode_pair(*instance.args[:2])
        if not target:
            raise RunError(f"task {instance.task_name}: a target has no tokens ({instance.args[1]!r})")
        # As the harness does: of what is too long the beginning goes.
        room = self._max_length + 1 - len(target)
        yield Request(tuple(context[-room:] if room > 0 else context[-1:]), tuple(target[-self._max_length :]))

    def _text(self, text: str) -> list[int]:
        """Encode a text to be predicted whole: what stands before it anyway is not predicted a second time."""
        ids = self._encode(text)
        return ids[1:] if ids[:1] == [self._prefix] else ids

    def _encode_pair(self, context: str, target: str) -> tuple[list[int], list[int]]:
        """Encode context and target as one text and cut it where the context ends, as the harness does."""
        if not context:
            ids = self._encode(target)
            return ([self._prefix], ids) if ids[0] != self._prefix else (ids[:1], ids[1:])
        return encode_pair(self.model.tokenizer, context, target)

    def _prompt(self, instance: "Instance") -> GenerationPrompt:
        text, given = instance.args[0], dict(instance.args[1])
        until = given.get("until") or []
        longest = int(given.get("max_gen_toks") or given.get("max_new_tokens") or DEFAULT_ANSWER)
        ids = self._encode(text)[-max(1, self._max_length - longest) :]
        return GenerationPrompt(tuple(ids), tuple([until] if isinstance(until, str) else until), longest)

    def _encode(self, text: str) -> list[int]:
        return encode_text(self.model.tokenizer, text)

    @property
    def _prefix(self) -> int:
        """What stands before a text that has no context."""
        tokenizer = self.model.tokenizer
        first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if first is None:
            raise RunError("the tokenizer has neither a begin-of-sequence nor an end-of-sequence token")
        return int(first)

    def _item_scores(
        self, asked: _Asked, likelihoods: dict[int, Likelihood], answers: dict[tuple[int, int], str]
    ) -> Iterator[ItemScore]:
        for index, (task, item) in enumerate(asked.items):
            found: list[Likelihood | str] = []
            for number in range(len(item.requests)):
                if (index, number) in answers:
                    found.append(answers[index, number])
                else:
                    found.append(_joined([likelihoods[n] for n in asked.parts[index, number]]))
            yield _judge(task, item, found)


def _joined(parts: Sequence[Likelihood]) -> Likelihood:
    return Likelihood(sum(p.log_likelihood for p in parts), sum(p.correct for p in parts), sum(p.tokens for p in parts))


def _judge(task: TaskItems, item: Item, found: Sequence[Likelihood | str]) -> ItemScore:
    """Let the harness say whether an item is right; the tokens of a text are counted here."""
    only = found[0] if len(found) == 1 and isinstance(found[0], Likelihood) else None
    log_likelihood = only.log_likelihood if only else None
    if task.by_token and only:
        text = str(task.task.doc_to_target(item.doc))
        return ItemScore(task.name, item.item_id, only.correct, only.tokens, log_likelihood, len(text.encode()))
    for instance, answer in zip(item.requests, found, strict=True):
        plain = answer if isinstance(answer, str) else (answer.log_likelihood, answer.greedy)
        instance.resps = [plain]
        instance.filtered_resps = {}
    task.task._instances = list(item.requests)
    task.task.apply_filters()
    first = next(iter(item.requests[0].filtered_resps))
    metrics = task.task.process_results(item.doc, [r.filtered_resps[first] for r in item.requests])
    return ItemScore(task.name, item.item_id, float(metrics[task.metric]), 1.0, log_likelihood, None)
