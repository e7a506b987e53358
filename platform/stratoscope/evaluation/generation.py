"""Greedy generation for tasks whose answers are free text."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from stratoscope.evaluation.tolerance import LOG_LIKELIHOOD_TOLERANCE
from stratoscope.models import MAX_PROMPTS, LoadedModel, bucket, pad, without_layers

TRIAL_LENGTHS = (6, 15)
"""Tokens of the two prompts that show whether padding changes the model's answers."""
TRIAL_TOKENS = 2
"""Generated tokens of the trial: the first follows from the prompts, the second from the cache, too."""
TRIAL_CHOICES = 16
"""Most likely tokens whose log-probabilities the trial compares."""
TAIL_TOKENS = 8
"""Number of tokens searched for a stop string at the end of an answer, beyond the bytes of the longest string."""


@dataclass(frozen=True)
class GenerationPrompt:
    """A prompt that an answer is generated for."""

    ids: tuple[int, ...]
    until: tuple[str, ...]
    """Stop strings; they are not part of the answer."""
    max_tokens: int
    """Largest number of tokens in the answer."""


@contextmanager
def plain_generation(model: LoadedModel) -> Iterator[None]:
    """Let nothing of a model's generation configuration but its special tokens apply while the block runs.

    transformers fills every option that a call leaves out from the model's own configuration, such as a penalty of
    repetitions or a number of beams.
    """
    network = model.network
    own = network.generation_config
    network.generation_config = GenerationConfig(
        bos_token_id=own.bos_token_id,
        eos_token_id=end_tokens(model) or None,
        pad_token_id=own.pad_token_id,
        decoder_start_token_id=own.decoder_start_token_id,
    )
    try:
        yield
    finally:
        network.generation_config = own


def end_tokens(model: LoadedModel) -> list[int]:
    """Return the tokens that end a text: those of the model's generation configuration, and the tokenizer's."""
    configured = model.network.generation_config.eos_token_id
    ends = configured if isinstance(configured, list) else [configured]
    return sorted({int(end) for end in (*ends, model.tokenizer.eos_token_id) if end is not None})


class TextGenerator:
    """Generates greedy answers with one model, whole or without some of its layers.

    Of the model's generation configuration, only the special tokens apply. An answer ends at any token that ends a
    text, whether the configuration or the tokenizer names it.

    Prompts of different lengths share a batch and are padded on the left, unless padding changes the model's answers;
    a trial at the first use finds out. A prompt has a batch of its own if the model may begin to scale positions in
    another way within the answer.

    Args:
        model: with its causal head.
        max_batch_tokens: largest number of tokens in a batch, prompts, answers and padding included.
        max_prompts: largest number of prompts in a batch.
    """

    def __init__(self, model: LoadedModel, max_batch_tokens: int, max_prompts: int = MAX_PROMPTS) -> None:
        self._model, self._max_batch_tokens, self._max_prompts = model, max_batch_tokens, max_prompts

    @cached_property
    def ignores_padding(self) -> bool:
        """Whether the model continues a prompt that is padded on the left as it continues the prompt alone."""
        vocabulary: int = self._model.network.get_input_embeddings().weight.shape[0]
        short, long = ([(7 * i + 3) % vocabulary for i in range(length)] for length in TRIAL_LENGTHS)
        try:
            alone, beside = (self._continue(rows) for rows in ([short], [short, long]))
        except (TypeError, ValueError, RuntimeError, IndexError):
            return False  # whatever fails here fails for each prompt, whose error is reported
        tolerance = LOG_LIKELIHOOD_TOLERANCE[self._model.network.dtype]
        for before, after in zip(alone, beside, strict=True):
            likely = before.topk(min(TRIAL_CHOICES, vocabulary)).indices
            if not bool(((before - after)[likely].abs() <= tolerance).all()):
                return False
            if before.argmax() != after.argmax():
                break  # a tie: the next tokens have different contexts
        return True

    def batches(self, prompts: Sequence[GenerationPrompt]) -> list[list[int]]:
        """Group prompts with the same stop strings and longest answer into batches, and return their indices."""
        max_padding = 1.0 if self.ignores_padding else 0.0
        batches = []
        for key in sorted({(prompt.until, prompt.max_tokens) for prompt in prompts}):
            members = [i for i, prompt in enumerate(prompts) if (prompt.until, prompt.max_tokens) == key]
            lengths = [len(prompts[i].ids) + prompts[i].max_tokens for i in members]
            classes = self._classes([len(prompts[i].ids) for i in members], lengths)
            groups = bucket(lengths, self._max_batch_tokens, max_padding, self._max_prompts, classes)
            batches += [[members[p] for p in group] for group in groups]
        return batches

    def _classes(self, starts: Sequence[int], ends: Sequence[int]) -> list[int]:
        """Return classes of prompts whose positions are scaled alike, from the first token of the answer to the last.

        Args:
            starts: length of each prompt.
            ends: its length with the longest answer.
        """
        first, last = (self._model.scaling.classes(lengths) for lengths in (starts, ends))
        return [a if a == b else -1 - number for number, (a, b) in enumerate(zip(first, last, strict=True))]

    def answer_batch(self, prompts: Sequence[GenerationPrompt]) -> list[str | None]:
        """Return the answers to a batch of prompts with the same stop strings and longest answer.

        An answer is None if the model's logits in its row are not finite at a step of the batch.
        """
        tokenizer, until = self._model.tokenizer, prompts[0].until
        start = max(len(prompt.ids) for prompt in prompts)
        criteria = [_StopStrings(tokenizer, until, start, len(prompts))] if until else []
        finite = _FiniteLogits()
        output = self._generate(
            [prompt.ids for prompt in prompts],
            prompts[0].max_tokens,
            stopping_criteria=StoppingCriteriaList(criteria),
            logits_processor=LogitsProcessorList([finite]),
        )
        rows = [self._up_to_end(row) for row in output[:, start:].tolist()]
        return [self._text(row, until) if ok else None for row, ok in zip(rows, finite.rows, strict=True)]

    def answer(self, prompts: Sequence[GenerationPrompt], dropped: Sequence[int] = ()) -> list[str | None]:
        """Return the answer to each prompt, in order; None where the model's logits are not finite.

        Args:
            prompts: in any order.
            dropped: layers to leave out.
        """
        answers: list[str | None] = [None] * len(prompts)
        batches = self.batches(prompts) if prompts else []
        with without_layers(self._model, dropped):
            for batch in batches:
                for index, text in zip(batch, self.answer_batch([prompts[i] for i in batch]), strict=True):
                    answers[index] = text
        return answers

    def _up_to_end(self, ids: Sequence[int]) -> list[int]:
        """Return an answer's tokens up to its end; what follows pads it to the length of the longest in the batch."""
        return list(takewhile(lambda token: token not in self._ends, ids))

    def _text(self, ids: Sequence[int], until: Sequence[str]) -> str:
        """Return the text of an answer up to a stop string, which may contain special tokens, without such tokens."""
        special = [stop for stop in until if any(token in stop for token in self._special)]
        kept = self._before(ids, special) if special else ids
        return _truncate(self._model.tokenizer.decode(kept, skip_special_tokens=True), until)

    def _before(self, ids: Sequence[int], stops: Sequence[str]) -> Sequence[int]:
        """Return the tokens before the first stop string."""
        texts = [self._model.tokenizer.decode(ids[:end], skip_special_tokens=False) for end in range(len(ids) + 1)]
        for text in texts:
            found = next((stop for stop in stops if stop in text), None)
            if found is not None:
                room = len(text.partition(found)[0])
                return ids[: max(end for end in range(len(texts)) if len(texts[end]) <= room)]
        return ids

    @cached_property
    def _ends(self) -> frozenset[int]:
        return frozenset(end_tokens(self._model))

    @cached_property
    def _special(self) -> frozenset[str]:
        """The special tokens as texts."""
        tokenizer = self._model.tokenizer
        added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        return frozenset(added | set(tokenizer.all_special_tokens))

    def _continue(self, rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Return the log-probabilities of each generated token of the first row, shape (vocabulary,)."""
        output = self._generate(rows, TRIAL_TOKENS, output_logits=True, return_dict_in_generate=True)
        return [logits[0].double().log_softmax(dim=-1) for logits in output.logits]

    def _generate(self, rows: Sequence[Sequence[int]], max_tokens: int, **more: Any) -> Any:
        """Generate at most so many tokens after each row; further options are those of transformers."""
        ids, mask = self._padded(rows)
        with torch.inference_mode(), plain_generation(self._model):
            return self._model.network.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=max_tokens,
                do_sample=False,
                pad_token_id=self._filler,
                use_cache=True,
                **more,
            )

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and mask of rows, padded on the left, on the model's device."""
        ids, mask = pad([row[::-1] for row in rows], self._filler)
        return ids.flip(1).to(self._model.device), mask.flip(1).to(self._model.device)

    @property
    def _filler(self) -> int:
        return int(self._model.tokenizer.pad_token_id or 0)


class _FiniteLogits(LogitsProcessor):  # type: ignore[misc]
    """Records in which rows of a batch all logits so far have a finite maximum; it changes none.

    The most likely token of other rows would be the first NaN. A logit of minus infinity, which rules out a token, is
    allowed. Whether all are finite stays on the device until the end.
    """

    def __init__(self) -> None:
        self._finite: torch.Tensor | None = None

    @property
    def rows(self) -> list[bool]:
        """Whether the logits of each row were finite."""
        assert self._finite is not None, "no token was generated"
        finite: list[bool] = self._finite.tolist()
        return finite

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        finite = scores.amax(dim=-1).isfinite()
        self._finite = finite if self._finite is None else self._finite & finite
        return scores


class _StopStrings(StoppingCriteria):  # type: ignore[misc]
    """Stops answers that contain a stop string.

    The criterion of transformers needs a tokenizer that can spell out its vocabulary, which not every tokenizer can.
    Only the end of each unfinished answer is decoded, so that the cost of a step does not grow with the answers.

    Args:
        tokenizer: decodes answers.
        until: the stop strings.
        start: number of tokens before the answers.
        num_rows: number of answers.
    """

    def __init__(self, tokenizer: Any, until: Sequence[str], start: int, num_rows: int) -> None:
        self._tokenizer, self._until, self._start = tokenizer, [stop for stop in until if stop], start
        self._tail = max((len(stop.encode()) for stop in self._until), default=0) + TAIL_TOKENS
        self._done = [False] * num_rows

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_options: Any) -> Any:  # noqa: ARG002
        tails = input_ids[:, max(self._start, input_ids.shape[1] - self._tail) :].tolist()
        open_rows = [row for row, done in enumerate(self._done) if not done]
        texts = self._tokenizer.batch_decode([tails[row] for row in open_rows], skip_special_tokens=False)
        for row, text in zip(open_rows, texts, strict=True):
            self._done[row] = any(stop in text for stop in self._until)
        return torch.tensor(self._done, device=input_ids.device)


def _truncate(text: str, until: Sequence[str]) -> str:
    for stop in until:
        text = text.partition(stop)[0] if stop else text
    return text
