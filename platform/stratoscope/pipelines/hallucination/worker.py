"""What an actor of the hallucination job does with a shard of questions."""

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from stratoscope.activations import Probe, Tap, run_head
from stratoscope.data import Answer, Answers, Question, decode
from stratoscope.evaluation import GenerationPrompt, equals_one_of, generate
from stratoscope.execution import FIRST_ATTEMPT, Attempt, WorkMetrics
from stratoscope.models import LoadSpec, bucket, encode_text, pad, peak_memory_bytes
from stratoscope.pipelines.hallucination import tables
from stratoscope.pipelines.hallucination.config import ReadPart
from stratoscope.pipelines.hallucination.rows import AnswerRow, Unit, encode_answers, group_questions, read_parts
from stratoscope.pipelines.sharded.batches import run_batches
from stratoscope.pipelines.sharded.rows import stats_table
from stratoscope.results import ShardResult, from_rows, to_parquet
from stratoscope.statistics import Statistics

END_OF_ANSWER = ("\n",)


@dataclass(frozen=True)
class HallucinationWorkerSettings:
    """All that a worker has to know; equal settings and an equal shard give an equal result, to the bit."""

    loading: LoadSpec
    answers: Answers
    answer_tokens: int
    """Longest answer that the model writes."""
    taps: tuple[Tap, ...]
    parts: tuple[ReadPart, ...]
    epsilons: tuple[float, ...]
    max_tokens: int
    """Longest row."""
    batch_tokens: int
    num_threads: int


@dataclass
class _Shard:
    """A shard on its way."""

    questions: list[Question]
    errors: dict[int, str] = field(default_factory=dict)
    generated: dict[int, Answer] = field(default_factory=dict)
    rows: list[list[AnswerRow]] = field(default_factory=list)
    stats: dict[int, pa.Table] = field(default_factory=dict)
    log_likelihood: dict[int, list[float]] = field(default_factory=dict)
    nonfinite: int = 0
    tokens: int = 0
    padded: int = 0
    halved: int = 0

    @property
    def open(self) -> list[int]:
        """Questions that nothing has gone wrong with."""
        return [i for i in range(len(self.questions)) if i not in self.errors]


class HallucinationWorker:
    """Reduces shards of questions to statistics of their answers. The model is loaded once, when the worker is made.

    Two threads may call it at once: one runs the model while the other writes its tables.
    """

    def __init__(self, settings: HallucinationWorkerSettings, metrics: WorkMetrics | None = None) -> None:
        torch.set_num_threads(settings.num_threads)
        self.settings, self._metrics = settings, metrics
        self._model_in_use = threading.Lock()
        self.model = settings.loading.load(head=True)

    def __call__(self, shard: dict[str, Any], attempt: Attempt = FIRST_ATTEMPT) -> ShardResult:
        """Let the model answer, where its own answers are wanted, and read the activations on all answers.

        Args:
            shard: `shard`, its number, and the lists `prompt_id`, `group` and `text` of its questions.
            attempt: what earlier attempts at the shard have shown.

        Raises:
            BrokenProcessError: the device is in a state that only a new process mends.
        """
        columns = zip(shard["prompt_id"], shard["group"], shard["text"], strict=True)
        work = _Shard([decode(*row) for row in columns])
        with self._model_in_use:
            torch.set_num_threads(self.settings.num_threads)  # it holds for the calling thread alone
            started = time.time()
            if self.settings.answers != "given":
                self._answer(work, attempt)
            self._read(work, attempt)
            ended = time.time()
        if self._metrics:
            self._metrics.errors(len(work.errors))
        return ShardResult(
            shard=int(shard["shard"]),
            files=self._files(work),
            counts={
                "questions": len(work.questions),
                "scored": len(work.stats),
                "answers": sum(len(work.rows[i]) for i in work.stats),
                "errors": len(work.errors),
                "tokens": work.tokens,
                "padded_tokens": work.padded,
                "nonfinite": work.nonfinite,
                "halved": work.halved,
                "attempts": attempt.number,
                "process": os.getpid(),
                "started": started,
                "ended": ended,
                "peak_memory_bytes": peak_memory_bytes(),
            },
        )

    def _answer(self, work: _Shard, attempt: Attempt) -> None:
        """Let the model answer all questions, and add what it wrote to their answers."""
        settings = self.settings
        prompts = [
            GenerationPrompt(tuple(encode_text(self.model.tokenizer, q.prompt)), END_OF_ANSWER, settings.answer_tokens)
            for q in work.questions
        ]
        todo = [i for i, question in enumerate(work.questions) if question.written is None]
        lengths = [len(prompts[i].ids) + settings.answer_tokens for i in todo]
        batches = [[todo[p] for p in batch] for batch in bucket(lengths, settings.batch_tokens)]

        def write(batch: Sequence[int]) -> tuple[int, int]:
            texts = generate(self.model, [prompts[i] for i in batch], (), settings.batch_tokens)
            for i, text in zip(batch, texts, strict=True):
                self._take(work, i, text)
            return 0, 0

        for i, question in enumerate(work.questions):
            if question.written is not None:
                self._take(work, i, question.written)

        ran = run_batches(batches, write, attempt)
        work.errors |= {i: f"no answer was written: {error}" for i, error in ran.errors.items()}
        work.halved += ran.halved

    def _take(self, work: _Shard, index: int, text: str) -> None:
        """Grade what the model wrote and add it to the answers, where it is to be read."""
        question = work.questions[index]
        answer = Answer(text.strip(), equals_one_of(text, question.gold), "own")
        work.generated[index] = answer
        if self.settings.answers == "own" or not answer.right:
            work.questions[index] = replace(question, answers=(*question.answers, answer))

    def _read(self, work: _Shard, attempt: Attempt) -> None:
        settings = self.settings
        work.rows = [encode_answers(self.model.tokenizer, question) for question in work.questions]
        for i in work.open:
            longest = max((len(row.ids) for row in work.rows[i]), default=0)
            if not work.rows[i]:
                work.errors[i] = "no answer has tokens"
            elif longest > settings.max_tokens:
                work.errors[i] = f"too long: {longest} tokens, at most {settings.max_tokens} are read"
        readable = work.open
        groups = group_questions([work.rows[i] for i in readable], settings.batch_tokens)
        batches = [[readable[p] for p in group] for group in groups]
        with Probe(self.model, settings.taps, settings.epsilons) as probe:
            ran = run_batches(batches, lambda batch: self._measure(probe, work, batch), attempt, self._metrics)
        work.errors |= ran.errors
        work.padded += ran.padded
        work.halved += ran.halved

    def _measure(self, probe: Probe, work: _Shard, batch: Sequence[int]) -> tuple[int, int]:
        rows = [row for i in batch for row in work.rows[i]]
        parts: list[tuple[Unit, Any]] = []
        units: dict[int, slice] = {}
        first = 0
        for i in batch:
            found = read_parts(work.questions[i], work.rows[i], self.settings.parts, first)
            units[i] = slice(len(parts), len(parts) + len(found))
            parts += found
            first += len(work.rows[i])
        ids, mask = pad([row.ids for row in rows], self.model.tokenizer.pad_token_id or 0)
        scored: list[list[float]] = []

        def forward(device_ids: Tensor, device_mask: Tensor) -> None:
            scored[:] = [self._log_likelihoods(rows, device_ids, device_mask)]

        statistics = probe.measure(ids, mask, [span for _, span in parts], forward).statistics
        values = iter(scored[0])
        for i in batch:
            work.log_likelihood[i] = [next(values) for _ in work.rows[i]]
            own = units[i]
            work.stats[i] = self._table([unit for unit, _ in parts[own]], statistics[own])
        tokens = sum(len(row.ids) for row in rows)
        work.nonfinite += int(statistics.nonfinite.sum())
        work.tokens += tokens
        return tokens, ids.numel()

    def _log_likelihoods(self, rows: Sequence[AnswerRow], ids: Tensor, mask: Tensor) -> list[float]:
        """Run the model and return the log-likelihood of each row's answer."""
        keep = torch.zeros(ids.shape, dtype=torch.bool)
        for index, row in enumerate(rows):
            keep[index, row.question_tokens - 1 : len(row.ids) - 1] = True
        keep = keep.to(ids.device)
        logits = run_head(self.model, ids, mask, keep).float()
        targets = ids[:, 1:][keep[:, :-1]]
        chosen = logits.gather(1, targets[:, None]).squeeze(1) - torch.logsumexp(logits, dim=1)
        lengths = [row.num_tokens for row in rows]
        return [float(part.double().sum()) for part in torch.split(chosen, lengths)]

    def _table(self, units: Sequence[Unit], statistics: Statistics) -> pa.Table:
        columns = {
            "prompt_id": np.asarray([u.prompt_id for u in units], object),
            "group": np.asarray([u.question.dataset for u in units], object),
            "question_id": np.asarray([u.question.question_id for u in units], object),
            "dataset": np.asarray([u.question.dataset for u in units], object),
            "right": np.asarray([u.right for u in units], object),
            "part": np.asarray([u.part for u in units], object),
        }
        return stats_table(statistics, columns, self.settings.taps, tables.PAIR_STATS)

    def _files(self, work: _Shard) -> dict[str, bytes]:
        done = sorted(work.stats)
        files: dict[str, bytes] = {}
        if done:
            files["pair_stats"] = to_parquet(pa.concat_tables([work.stats[i] for i in done]).combine_chunks())
            answers = [row for i in done for row in _answer_rows(work, i)]
            files["answers"] = to_parquet(from_rows(answers, tables.ANSWERS))
        if work.generated:
            generated = [
                (work.questions[i].question_id, work.questions[i].dataset, a.text, a.right)
                for i, a in sorted(work.generated.items())
            ]
            files["generated"] = to_parquet(from_rows(generated, tables.GENERATED))
        if work.errors:
            errors = [(work.questions[i].question_id, error) for i, error in sorted(work.errors.items())]
            files["errors"] = to_parquet(from_rows(errors, tables.ERRORS))
        return files


def _answer_rows(work: _Shard, index: int) -> list[tuple[object, ...]]:
    question = work.questions[index]
    pairs = zip(work.rows[index], work.log_likelihood[index], strict=True)
    return [
        (
            f"{question.question_id}-{number}",
            question.question_id,
            question.dataset,
            row.answer.right,
            row.answer.origin,
            row.answer.text,
            row.num_tokens,
            row.question_tokens,
            log_likelihood,
        )
        for number, (row, log_likelihood) in enumerate(pairs)
    ]


def make_worker(settings: HallucinationWorkerSettings) -> HallucinationWorker:
    """Make the worker of an actor, which tells Prometheus what it does."""
    return HallucinationWorker(settings, WorkMetrics("hallucination", settings.loading.source.name))
