"""The data of a run: training, validation and held-out parts, which have no question or text in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from stratoscope.data import (
    FORMATS,
    DataSet,
    PairChoice,
    Question,
    load_pairs,
)
from stratoscope.digest import digest
from stratoscope.errors import InputError
from stratoscope.evaluation import QuestionSplit, SplitSizes, Text, Wordings, split_questions
from stratoscope.execution import WorkerResources
from stratoscope.mitigation import Corpus, QuestionExample, TrainingSettings, Variant, encode_question
from stratoscope.models import ModelSource, encode_pair
from stratoscope.pipelines.mitigation.config import MitigationConfig
from stratoscope.pipelines.mitigation.texts import TextReader, TextSource
from stratoscope.pipelines.reporting.data_notes import left_out_note

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUM_SEPARATION = 40
"""Number of held-out questions of each data set whose hidden states are compared, layer by layer."""


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """Questions and texts that a model is evaluated on."""

    questions: tuple[Question, ...]
    texts: tuple[Text, ...]
    answered: frozenset[str] = frozenset()
    """Data sets whose questions the model also answers in free text."""
    separation: Mapping[str, tuple[QuestionExample, ...]] = field(default_factory=dict)
    """Questions whose hidden states are compared, by data set."""


@dataclass(frozen=True, eq=False)
class MitigationData:
    """All data of a run."""

    corpus: Corpus
    """The training data."""
    validation: EvaluationSet
    """The data that trials of the search are evaluated on."""
    held_out: EvaluationSet
    """The data that the base and all variants are evaluated on."""
    used: frozenset[str]
    """Ids of the rows that were used for training, for validation and to choose layers."""
    counts: dict[str, dict[str, int]]
    """Number of questions by data set and part: trained, validated, held_out, and left_out of training."""
    datasets: tuple[DataSet, ...]
    """Numbers of questions that were read and kept, by data set."""
    sources: tuple[TextSource, ...]
    """Numbers of texts that were read and kept, by source of training texts."""
    fingerprint: str
    num_samples: int = 0
    """Number of training texts that the model generated."""

    def with_samples(self, samples: Sequence[tuple[int, ...]], num_validation: int) -> "MitigationData":
        """Return the data with generated texts.

        Args:
            samples: token ids of the texts.
            num_validation: number of texts that are used only to evaluate the trials of the search.
        """
        texts = [Text("validation", f"sample-{i}", tokens) for i, tokens in enumerate(samples[:num_validation])]
        return replace(
            self,
            corpus=replace(self.corpus, texts=(*self.corpus.texts, *samples[num_validation:])),
            validation=replace(self.validation, texts=(*self.validation.texts, *texts)),
            num_samples=len(samples[num_validation:]),
        )


@dataclass(frozen=True, eq=False)
class TrainingInputs:
    """The inputs of trainings and evaluations besides the run's context."""

    config: MitigationConfig
    source: ModelSource
    num_layers: int
    dtype: str
    data: MitigationData
    max_length: int
    """Maximum number of tokens in a sequence."""
    batch_tokens: int
    """Maximum number of tokens in a batch of an evaluator, padding included."""
    workers: WorkerResources
    flagged: Mapping[int, tuple[int, ...]]
    """Flagged layers by how many there are, for each number of layers in the search space."""
    max_positions: int
    """Longest sequence that the model takes, in tokens; it bounds the prompts of tasks."""

    def settings(self, variant: Variant) -> TrainingSettings:
        """Return the configured settings of a variant's training."""
        config, train = self.config, self.config.train
        return TrainingSettings(
            loading=config.model.to_loading(self.source, min(1.0, self.workers.gpus)),
            dropped=variant.dropped,
            trainable=config.parameters.to_spec(variant.layers),
            terms=config.terms,
            optimizer=train.to_optimizer(),
            sharding=train.to_sharding(),
            questions_per_step=train.questions,
            texts_per_step=train.texts,
            micro_batches=train.micro_batches,
            checkpoint_every=train.checkpoint_every,
            validate_every=0,
            num_threads=self.workers.cpus,
            seed=variant.seed,
        )


def load_data(
    config: MitigationConfig, tokenizer: "PreTrainedTokenizerBase", seen: frozenset[str], max_length: int
) -> MitigationData:
    """Read questions and texts and divide them.

    Args:
        config: configuration of the job.
        tokenizer: tokenizer of the model.
        seen: ids of the questions and prompts that were used to choose layers; none of them is held out.
        max_length: maximum number of tokens in a sequence.

    Raises:
        InputError: a source cannot be read, or nothing is left for training or evaluation.
    """
    split, datasets, questions_print = _load_questions(config, seen)
    whole, split = split, _with_tokens(tokenizer, split)
    formats = {dataset.name: dataset.format for dataset in datasets}
    held_ids = {question.question_id for question in split.held_out}
    encoded = {
        name: _encode(tokenizer, [q for q in split.train if q.dataset == name], max_length, config.train.wrong_answers)
        for name in formats
    }
    examples = tuple(example for own in encoded.values() for example in own)
    if config.terms.weights.uses_questions and not examples:
        raise InputError(
            f"pairs.source: no question is left for training{left_out_note({'left_out': len(split.train)})}; add data "
            "sets that are not in evaluation.only"
        )
    reader = TextReader(config, tokenizer, min(config.texts.max_tokens, max_length))
    texts = reader.read_training(held_ids, Wordings(split.held_out))
    used = seen | texts.ids | {q.question_id for q in (*split.train, *split.validation)}
    perplexity = reader.read_perplexity(used, texts.keys)
    short = frozenset(name for name, kind in formats.items() if FORMATS[kind].short_gold)
    separation = {
        name: _encode(tokenizer, [q for q in split.held_out if q.dataset == name][:NUM_SEPARATION], max_length)
        for name in formats
    }
    return MitigationData(
        Corpus(examples, texts.train),
        EvaluationSet(split.validation, texts.validation),
        EvaluationSet(split.held_out, perplexity, short if config.evaluation.generate else frozenset(), separation),
        used,
        {name: _count(whole, split, name, len(encoded[name])) for name in formats},
        datasets,
        texts.sources,
        digest(
            {
                "questions": questions_print,
                "texts": texts.fingerprint,
                "held_out": sorted(held_ids),
                "perplexity": [text.ids for text in perplexity],
            }
        ),
    )


def _load_questions(config: MitigationConfig, seen: frozenset[str]) -> tuple[QuestionSplit, tuple[DataSet, ...], str]:
    """Return the questions in their parts, the data sets, and a fingerprint."""
    if not config.terms.weights.uses_questions and config.recovery:
        return QuestionSplit(), (), ""
    questions = load_pairs(
        config.pairs.to_sources(), PairChoice("given", None, config.pairs.answers_per_question, config.seed)
    )
    by_dataset: dict[str, list[Question]] = {dataset.name: [] for dataset in questions.datasets}
    for name in config.evaluation.only:
        if name not in by_dataset:
            raise InputError(f"evaluation.only: pairs.source has no data set {name!r}; it has {', '.join(by_dataset)}")
    for question in questions:
        by_dataset[question.dataset].append(question)
    split = split_questions(by_dataset, seen, {name: _split_sizes(config, name) for name in by_dataset})
    for name in by_dataset:
        if not any(question.dataset == name for question in split.held_out):
            raise InputError(
                f"pairs.source: all questions of {name!r} were used to choose the layers, so none can be held out; "
                "use fewer for the choice (pairs.limit of the hallucination run) or leave the data set out there"
            )
    return split, questions.datasets, questions.fingerprint


def _split_sizes(config: MitigationConfig, name: str) -> SplitSizes:
    """Return the sizes of the parts of a data set. Those in evaluation.only have no question for training."""
    held_out = config.evaluation.limit
    if name in config.evaluation.only:
        return SplitSizes(held_out, 0, 0)
    return SplitSizes(held_out, config.tune.limit if config.tune.num_samples else 0, config.pairs.limit)


def _with_tokens(tokenizer: "PreTrainedTokenizerBase", split: QuestionSplit) -> QuestionSplit:
    """Return the split with only such questions for evaluation whose answers all have tokens."""

    def readable(question: Question) -> bool:
        return all(encode_pair(tokenizer, question.prompt, f" {answer.text}")[1] for answer in question.answers)

    validation, held_out = (tuple(filter(readable, part)) for part in (split.validation, split.held_out))
    return replace(split, validation=validation, held_out=held_out)


def _count(whole: QuestionSplit, split: QuestionSplit, name: str, num_encoded: int) -> dict[str, int]:
    """Return the numbers of questions of a data set's parts, and of those that cannot be trained on or evaluated."""
    train, validation, held_out, *all_parts = (
        sum(question.dataset == name for question in part)
        for part in (split.train, split.validation, split.held_out, whole.validation, whole.held_out)
    )
    return {
        "trained": num_encoded,
        "validated": validation,
        "held_out": held_out,
        "left_out": train - num_encoded,
        "unreadable": sum(all_parts) - validation - held_out,
    }


def _encode(
    tokenizer: "PreTrainedTokenizerBase",
    questions: Sequence[Question],
    max_length: int,
    most_wrong: int | None = None,
) -> tuple[QuestionExample, ...]:
    """Encode questions, except those with an answer that has no token or is too long."""
    examples = []
    for question in questions:
        right = next(a.text for a in question.answers if a.right)
        wrong = [a.text for a in question.answers if not a.right][:most_wrong]
        examples.append(encode_question(tokenizer, question.prompt, right, wrong, max_length))
    return tuple(example for example in examples if example is not None)
