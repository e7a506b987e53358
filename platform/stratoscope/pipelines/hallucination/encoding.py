"""Encoding of questions and answers ahead of the actors that run the model, in tasks on CPUs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from stratoscope.data import Question, decode
from stratoscope.models import ModelSource
from stratoscope.pipelines.hallucination.rows import EncodedAnswer, EncodedQuestion, encode_question
from stratoscope.pipelines.sharded.packing import cached_tokenizer, pack_ids, unpack_ids


@dataclass(frozen=True)
class QuestionEncoder:
    """Encodes the questions of a shard: a pure function, which loads the tokenizer once in each process."""

    source: ModelSource
    trust_remote_code: bool

    def __call__(self, shard: dict[str, Any]) -> dict[str, Any]:
        """Return the columns of a shard with additional columns for its token ids."""
        tokenizer = cached_tokenizer(self.source, self.trust_remote_code)
        questions = decode_shard(shard)
        return shard | pack_questions(questions, [encode_question(tokenizer, question) for question in questions])


def decode_shard(shard: Mapping[str, Any]) -> list[Question]:
    """Return the questions of a shard from its columns `prompt_id`, `group` and `text`."""
    return [decode(*row) for row in zip(shard["prompt_id"], shard["group"], shard["text"], strict=True)]


def pack_questions(questions: Sequence[Question], encoded: Sequence[EncodedQuestion]) -> dict[str, Any]:
    """Return encoded questions as columns: all ids as bytes of int32, and the lengths and counts that divide them."""
    rows = list(chain.from_iterable(e.rows for e in encoded))
    pairs = zip(questions, encoded, strict=True)
    answer_index = [question.answers.index(row.answer) for question, e in pairs for row in e.rows]
    return {
        "prompt_ids": pack_ids([e.prompt for e in encoded]),
        "prompt_length": [len(e.prompt) for e in encoded],
        "row_ids": pack_ids([row.ids for row in rows]),
        "row_length": [len(row.ids) for row in rows],
        "question_tokens": [row.question_tokens for row in rows],
        "answer_index": answer_index,
        "num_rows": [len(e.rows) for e in encoded],
    }


def unpack_questions(questions: Sequence[Question], columns: Mapping[str, Any]) -> list[EncodedQuestion]:
    """Return the encoded questions from the columns of `pack_questions`."""
    prompts = unpack_ids(columns["prompt_ids"], columns["prompt_length"])
    rows = zip(
        unpack_ids(columns["row_ids"], columns["row_length"]),
        columns["question_tokens"],
        columns["answer_index"],
        strict=True,
    )
    encoded = []
    for question, prompt, num_rows in zip(questions, prompts, columns["num_rows"], strict=True):
        own = [next(rows) for _ in range(num_rows)]
        answers = tuple(EncodedAnswer(question.answers[index], tuple(ids), before) for ids, before, index in own)
        encoded.append(EncodedQuestion(tuple(prompt), answers))
    return encoded
