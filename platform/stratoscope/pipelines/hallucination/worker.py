"""The worker of the hallucination job: statistics of the answers to a shard of questions."""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from stratoscope.activations import Probe, Tap, run_head
from stratoscope.data import Answer, Answers, Question
from stratoscope.evaluation import GenerationPrompt, TextGenerator, equals_one_of, has_word
from stratoscope.execution import FIRST_ATTEMPT, Attempt, WorkMetrics
from stratoscope.models import LoadSpec, pad, peak_gpu_memory_bytes, peak_memory_bytes, to_device, to_host
from stratoscope.pipelines.hallucination.encoding import decode_shard, unpack_questions
from stratoscope.pipelines.hallucination.rows import (
    EncodedAnswer,
    EncodedQuestion,
    ReadUnit,
    encode_answer,
    encode_question,
    group_questions,
    read_parts,
)
from stratoscope.pipelines.sharded.batches import Finish, batches_ahead, run_batches
from stratoscope.pipelines.sharded.sizes import BATCH_TOKENS, BatchSizes, measured_tokens
from stratoscope.results import ShardResult, to_parquet
from stratoscope.scoring import ReadPart
from stratoscope.statistics import Statistics, stack
from stratoscope.tables.activations import statistics_table
from stratoscope.tables.hallucination import AnswerRow, GeneratedRow, HallucinationErrorRow, PairStatsRow

END_OF_ANSWER = ("\n",)


@dataclass(frozen=True)
class HallucinationWorkerSettings:
    """Settings of a worker; equal settings and an equal shard give a bit-identical result."""

    loading: LoadSpec
    answers: Answers
    answer_tokens: int
    """Maximum number of tokens of an answer that the model generates."""
    taps: tuple[Tap, ...]
    parts: tuple[ReadPart, ...]
    epsilons: tuple[float, ...]
    max_tokens: int
    """Maximum number of tokens of a question with an answer."""
    sizes: BatchSizes
    num_threads: int


@dataclass(frozen=True, eq=False)
class _ReadQuestion:
    """The statistics that were read from the answers to a question."""

    units: Sequence[ReadUnit]
    statistics: Statistics
    """Shape (units, layers, taps)."""


@dataclass
class _ShardState:
    """State of a shard during its processing. The keys of dictionaries are indices of questions."""

    questions: list[Question]
    encoded: list[EncodedQuestion]
    errors: dict[int, str] = field(default_factory=dict)
    generated: dict[int, Answer] = field(default_factory=dict)
    stats: dict[int, _ReadQuestion] = field(default_factory=dict)
    log_likelihood: dict[int, list[float]] = field(default_factory=dict)
    nonfinite: int = 0
    tokens: int = 0
    padded: int = 0
    halved: int = 0

    @property
    def open(self) -> list[int]:
        """Indices of the questions without an error."""
        return [i for i in range(len(self.questions)) if i not in self.errors]


class HallucinationWorker:
    """Reduces shards of questions to statistics of their answers. The constructor loads the model.

    Several threads may call a worker concurrently: one runs the model while the others write tables.
    """

    def __init__(self, settings: HallucinationWorkerSettings, metrics: WorkMetrics | None = None) -> None:
        torch.set_num_threads(settings.num_threads)
        self.settings, self._metrics = settings, metrics
        self._model_in_use = threading.Lock()
        self.model = settings.loading.load(head=True)
        self.batch_tokens = settings.sizes.max_tokens
        self.withdrawn: dict[str, str] = {}
        self.by_difference: list[int] = []

    def tune(self) -> dict[str, int]:
        """Return the values that all workers share: the tokens per batch, measured if the settings do not give them."""
        return {BATCH_TOKENS: self.batch_tokens or measured_tokens(self.model)}

    def adopt(self, tuning: Mapping[str, int]) -> None:
        """Use the values that all workers of the run share."""
        self.batch_tokens = tuning[BATCH_TOKENS]

    @cached_property
    def generator(self) -> TextGenerator:
        """Generates the model's own answers."""
        assert self.batch_tokens is not None, "the worker was not tuned"
        return TextGenerator(self.model, self.batch_tokens, self.settings.sizes.max_prompts)

    def __call__(self, shard: dict[str, Any], attempt: Attempt = FIRST_ATTEMPT) -> ShardResult:
        """Generate the model's own answers if the settings ask for them, and read the activations on all answers.

        Args:
            shard: `shard`, its number, and the lists `prompt_id`, `group` and `text` of its questions. It also has
                the columns that `QuestionEncoder` adds, if a task has encoded the shard.
            attempt: the record of earlier attempts at the shard.

        Raises:
            BrokenProcessError: the device is in a state that only a new process recovers.
        """
        state = self._open(shard)
        with self._model_in_use:
            torch.set_num_threads(self.settings.num_threads)  # the setting is per thread
            start = time.time()
            if self.settings.answers != "given":
                self._answer(state, attempt)
            self._read(state, attempt)
            end = time.time()
        if self._metrics:
            self._metrics.errors(len(state.errors))
        return ShardResult(
            shard=int(shard["shard"]),
            files=self._files(state),
            counts={
                "questions": len(state.questions),
                "scored": len(state.stats),
                "answers": sum(len(state.encoded[i].rows) for i in state.stats),
                "errors": len(state.errors),
                "tokens": state.tokens,
                "padded_tokens": state.padded,
                "nonfinite": state.nonfinite,
                "halved": state.halved,
                "attempts": attempt.number,
                "process": os.getpid(),
                "started": start,
                "ended": end,
                "peak_memory_bytes": peak_memory_bytes(),
                "peak_gpu_memory_bytes": peak_gpu_memory_bytes(),
                "withdrawn": self.withdrawn,
                "by_difference": self.by_difference,
                BATCH_TOKENS: self.batch_tokens,
            },
        )

    def _open(self, shard: Mapping[str, Any]) -> _ShardState:
        """Return the state of a shard with its questions and their tokens. A task may already have encoded them."""
        questions = decode_shard(shard)
        if "row_ids" in shard:
            return _ShardState(questions, unpack_questions(questions, shard))
        return _ShardState(questions, [encode_question(self.model.tokenizer, question) for question in questions])

    def _answer(self, state: _ShardState, attempt: Attempt) -> None:
        """Generate an answer to each question that has none from vLLM, and grade all generated answers."""
        prompts = [GenerationPrompt(e.prompt, END_OF_ANSWER, self.settings.answer_tokens) for e in state.encoded]
        pending = [i for i, question in enumerate(state.questions) if question.written is None]
        batches = []
        if pending:
            groups = self.generator.batches([prompts[i] for i in pending])
            batches = [[pending[p] for p in group] for group in groups]

        def write(batch: Sequence[int]) -> Finish:
            texts = self.generator.answer_batch([prompts[i] for i in batch])
            for i, text in zip(batch, texts, strict=True):
                if text is None:
                    state.errors[i] = "no answer was written: the model's logits are not finite"
                else:
                    self._grade(state, i, text)
            return lambda: (0, 0)

        for i, question in enumerate(state.questions):
            if question.written is not None:
                self._grade(state, i, question.written)

        outcome = run_batches(batches, write, attempt)
        state.errors |= {i: f"no answer was written: {error}" for i, error in outcome.errors.items()}
        state.halved += outcome.halved

    def _grade(self, state: _ShardState, index: int, text: str) -> None:
        """Grade a generated answer, and add it to the question's answers if it is right or wrong and is to be read."""
        question = state.questions[index]
        answer = Answer(text.strip(), equals_one_of(text, question.gold), "own")
        state.generated[index] = answer
        is_graded = answer.right or has_word(text)
        if is_graded and (self.settings.answers == "own" or not answer.right):
            state.questions[index] = replace(question, answers=(*question.answers, answer))
            row = encode_answer(self.model.tokenizer, question, answer)
            encoded = state.encoded[index]
            state.encoded[index] = replace(encoded, rows=(*encoded.rows, *([row] if row else [])))

    def _read(self, state: _ShardState, attempt: Attempt) -> None:
        settings = self.settings
        for i in state.open:
            longest = max((len(row.ids) for row in state.encoded[i].rows), default=0)
            if not state.encoded[i].rows:
                state.errors[i] = "the model wrote no word" if i in state.generated else "no answer has tokens"
            elif longest > settings.max_tokens:
                state.errors[i] = f"too long: {longest} tokens, at most {settings.max_tokens} are read"
        readable = state.open
        assert self.batch_tokens is not None, "the worker was not tuned"
        groups = group_questions(
            [state.encoded[i].rows for i in readable], self.batch_tokens, settings.sizes.max_prompts
        )
        batches = [[readable[p] for p in group] for group in groups]
        with Probe(self.model, settings.taps, settings.epsilons) as probe:
            self.withdrawn = {str(tap): reason for tap, reason in probe.withdrawn.items()}
            self.by_difference = list(probe.layers_read_by_difference)
            measure, ahead = partial(self._measure, probe, state), batches_ahead(self.model.device)
            outcome = run_batches(batches, measure, attempt, self._metrics, ahead=ahead)
        state.errors |= outcome.errors
        state.padded += outcome.padded
        state.halved += outcome.halved

    def _measure(self, probe: Probe, state: _ShardState, batch: Sequence[int]) -> Finish:
        """Start a batch. The returned function waits for the statistics and stores them."""
        rows = [row for i in batch for row in state.encoded[i].rows]
        parts: list[tuple[ReadUnit, Any]] = []
        units: dict[int, slice] = {}
        first = 0
        for i in batch:
            of_question = read_parts(state.questions[i], state.encoded[i].rows, self.settings.parts, first)
            units[i] = slice(len(parts), len(parts) + len(of_question))
            parts += of_question
            first += len(state.encoded[i].rows)
        ids, mask = pad([row.ids for row in rows], self.model.tokenizer.pad_token_id or 0)
        predicted: list[tuple[Sequence[int], Callable[[], tuple[NDArray[Any], ...]]]] = []

        def forward(device_ids: Tensor, device_mask: Tensor) -> None:
            values = self._log_probabilities([rows[i] for i in probe.rows], device_ids, device_mask)
            predicted.append((probe.rows, to_host(values)))

        measured = probe.start(ids, mask, [span for _, span in parts], forward)

        def finish() -> tuple[int, int]:
            statistics = measured().statistics
            values = iter(_log_likelihoods(rows, predicted))
            for i in batch:
                state.log_likelihood[i] = [next(values) for _ in state.encoded[i].rows]
                own = units[i]
                state.stats[i] = _ReadQuestion([unit for unit, _ in parts[own]], statistics[own])
            tokens = sum(len(row.ids) for row in rows)
            state.nonfinite += int(statistics.nonfinite.sum())
            state.tokens += tokens
            return tokens, ids.numel()

        return finish

    def _log_probabilities(self, rows: Sequence[EncodedAnswer], ids: Tensor, mask: Tensor) -> Tensor:
        """Run the model and return the log-probability of each token of the rows' answers, on the model's device."""
        keep = torch.zeros(ids.shape, dtype=torch.bool)
        for index, row in enumerate(rows):
            keep[index, row.question_tokens - 1 : len(row.ids) - 1] = True
        logits = run_head(self.model, ids, mask, keep).float()
        targets = to_device(torch.tensor([token for row in rows for token in row.answer_ids]), logits.device)
        return logits.gather(1, targets[:, None]).squeeze(1) - torch.logsumexp(logits, dim=1)

    def _table(self, units: Sequence[ReadUnit], statistics: Statistics) -> pa.Table:
        columns = {
            "prompt_id": np.asarray([u.prompt_id for u in units], object),
            "group": np.asarray([u.question.dataset for u in units], object),
            "question_id": np.asarray([u.question.question_id for u in units], object),
            "dataset": np.asarray([u.question.dataset for u in units], object),
            "right": np.asarray([u.right for u in units], object),
            "part": np.asarray([u.part for u in units], object),
        }
        return statistics_table(PairStatsRow, statistics, columns, self.settings.taps)

    def _files(self, state: _ShardState) -> dict[str, bytes]:
        done = sorted(state.stats)
        files: dict[str, bytes] = {}
        if done:
            read = [state.stats[i] for i in done]
            units = [unit for question in read for unit in question.units]
            files["pair_stats"] = to_parquet(self._table(units, stack([question.statistics for question in read])))
            answers = [row for i in done for row in _answer_rows(state, i)]
            files["answers"] = to_parquet(AnswerRow.table(answers))
        if state.generated:
            generated = [
                GeneratedRow(
                    question_id=state.questions[i].question_id,
                    dataset=state.questions[i].dataset,
                    text=answer.text,
                    right=answer.right,
                )
                for i, answer in sorted(state.generated.items())
            ]
            files["generated"] = to_parquet(GeneratedRow.table(generated))
        if state.errors:
            errors = [
                HallucinationErrorRow(question_id=state.questions[i].question_id, error=error)
                for i, error in sorted(state.errors.items())
            ]
            files["errors"] = to_parquet(HallucinationErrorRow.table(errors))
        return files


def _log_likelihoods(
    rows: Sequence[EncodedAnswer], predicted: Sequence[tuple[Sequence[int], Callable[[], tuple[NDArray[Any], ...]]]]
) -> list[float]:
    """Return the log-likelihood of each row's answer.

    Args:
        rows: rows of a batch.
        predicted: for each forward pass, the indices of its rows, and a function that waits for the log-probabilities
            of all tokens of their answers. If a pass was repeated, the last one for a row counts.
    """
    values = [0.0] * len(rows)
    for chosen, wait in predicted:
        (log_probabilities,) = wait()
        ends = np.cumsum([rows[i].num_tokens for i in chosen])[:-1]
        for i, part in zip(chosen, np.split(log_probabilities.astype(np.float64), ends), strict=True):
            values[i] = float(part.sum())
    return values


def _answer_rows(state: _ShardState, index: int) -> list[AnswerRow]:
    question = state.questions[index]
    pairs = zip(state.encoded[index].rows, state.log_likelihood[index], strict=True)
    return [
        AnswerRow(
            prompt_id=f"{question.question_id}-{number}",
            question_id=question.question_id,
            dataset=question.dataset,
            right=row.answer.right,
            origin=row.answer.origin,
            text=row.answer.text,
            tokens=row.num_tokens,
            question_tokens=row.question_tokens,
            log_likelihood=log_likelihood,
        )
        for number, (row, log_likelihood) in enumerate(pairs)
    ]


def make_worker(settings: HallucinationWorkerSettings) -> HallucinationWorker:
    """Return the worker of an actor, which reports metrics to Prometheus."""
    return HallucinationWorker(settings, WorkMetrics("hallucination", settings.loading.source.name))
