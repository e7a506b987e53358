"""What is trained on, what trials are judged on, and what is held out: three parts that share no question or text."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stratoscope.data import FORMATS, DataSet, PairChoice, PromptSource, Question, decode, load_pairs, load_prompts
from stratoscope.digest import digest
from stratoscope.errors import InputError
from stratoscope.evaluation import Text
from stratoscope.mitigation import Corpus, QuestionExample
from stratoscope.models import encode_pair, encode_text
from stratoscope.pipelines.mitigation.config import MitigationConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEPARATED = 40
"""Held-out questions of each data set whose hidden states are looked at, layer by layer."""


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """Questions and texts that a model is judged on."""

    questions: tuple[Question, ...]
    texts: tuple[Text, ...]
    answered: frozenset[str] = frozenset()
    """Data sets whose questions the model is to answer too."""
    separated: Mapping[str, tuple[QuestionExample, ...]] = field(default_factory=dict)
    """By data set, questions whose hidden states are looked at."""


@dataclass(frozen=True, eq=False)
class Material:
    """All that a run reads."""

    corpus: Corpus
    validation: EvaluationSet
    held_out: EvaluationSet
    used: frozenset[str]
    """Ids of the rows that are trained on, validated on, or were used to choose layers."""
    datasets: tuple[DataSet, ...]
    counts: dict[str, dict[str, int]]
    """By data set: questions trained on, validated on, held out."""
    fingerprint: str


def load_material(
    config: MitigationConfig, tokenizer: "PreTrainedTokenizerBase", seen: Collection[str], longest: int
) -> Material:
    """Read questions and texts and divide them.

    Args:
        config: of the job.
        tokenizer: of the model.
        seen: ids of questions that layers were chosen by; none of them is held out.
        longest: most tokens of a sequence.

    Raises:
        InputError: a source cannot be read, or nothing is left to train on or to hold out.
    """
    train, validate, held, datasets, prints = _divided(config, frozenset(seen))
    held_ids = {question.question_id for question in held}
    texts, text_ids, checked, text_print = _texts(config, tokenizer, held_ids, longest)
    examples = _examples(tokenizer, train, longest, config.train.wrong_answers)
    if config.terms.weights.uses_questions and not examples:
        raise InputError(
            "pairs.source: no question is left to train on; take data sets that are not in evaluation.only"
        )
    used = frozenset(seen) | text_ids | {q.question_id for q in (*train, *validate)}
    short = {d.name for d in datasets if FORMATS[d.format].short_gold}
    perplexity = _perplexity_texts(config, tokenizer, used, longest)
    counts = {
        d.name: {
            part: sum(q.dataset == d.name for q in questions)
            for part, questions in (("trained", train), ("validated", validate), ("held_out", held))
        }
        for d in datasets
    }
    return Material(
        Corpus(examples, tuple(texts)),
        EvaluationSet(tuple(validate), tuple(checked)),
        EvaluationSet(
            tuple(held),
            tuple(perplexity),
            frozenset(short) if config.evaluation.generate else frozenset(),
            {
                d.name: _examples(tokenizer, [q for q in held if q.dataset == d.name][:SEPARATED], longest, None)
                for d in datasets
            },
        ),
        used,
        tuple(datasets),
        counts,
        digest(
            {
                "questions": prints,
                "texts": text_print,
                "held_out": sorted(held_ids),
                "perplexity": [text.ids for text in perplexity],
            }
        ),
    )


def _divided(
    config: MitigationConfig, seen: frozenset[str]
) -> tuple[list[Question], list[Question], list[Question], Sequence[DataSet], str]:
    """Return the questions that are trained on, validated on and held out, in their seeded order."""
    if not config.terms.weights.uses_questions and config.healing:
        return [], [], [], (), ""
    choice = PairChoice("given", None, config.pairs.answers_per_question, config.seed)
    questions = load_pairs(config.pairs.to_sources(), choice)
    names = [d.name for d in questions.datasets]
    for name in config.evaluation.only:
        if name not in names:
            raise InputError(f"evaluation.only: pairs.source has no data set {name!r}; it has {', '.join(names)}")
    train: list[Question] = []
    validate: list[Question] = []
    held: list[Question] = []
    for name in names:
        own = [
            decode(row["prompt_id"], row["group"], row["text"])
            for row in questions.table.to_pylist()
            if row["group"] == name
        ]
        fresh = [q for q in own if q.question_id not in seen][: config.evaluation.limit]
        if not fresh:
            raise InputError(
                f"pairs.source: all questions of {name!r} were used to choose the layers, so none can be held out; "
                "choose them by fewer (pairs.limit of the hallucination run) or leave the data set out there"
            )
        held += fresh
        if name in config.evaluation.only:
            continue
        kept = {q.question_id for q in fresh}
        rest = [q for q in own if q.question_id not in kept]
        checked = config.tune.limit if config.tune.num_samples else 0
        validate += rest[:checked]
        train += rest[checked:][: config.pairs.limit]
    return train, validate, held, questions.datasets, questions.fingerprint


def _examples(
    tokenizer: "PreTrainedTokenizerBase", questions: Sequence[Question], longest: int, most_wrong: int | None
) -> tuple[QuestionExample, ...]:
    """Return questions as token ids, without those that have an answer of no token or one that does not fit."""
    found = (_example(tokenizer, question, longest, most_wrong) for question in questions)
    return tuple(example for example in found if example is not None)


def _example(
    tokenizer: "PreTrainedTokenizerBase", question: Question, longest: int, most_wrong: int | None
) -> QuestionExample | None:
    right = next(a.text for a in question.answers if a.right)
    wrong = [a.text for a in question.answers if not a.right][:most_wrong]
    pairs = [encode_pair(tokenizer, question.prompt, f" {text}") for text in (right, *wrong)]
    if any(not answer or len(before) + len(answer) > longest for before, answer in pairs):
        return None
    before = pairs[0][0]
    return QuestionExample(tuple(before), tuple(pairs[0][1]), tuple(tuple(answer) for _, answer in pairs[1:]))


def _texts(
    config: MitigationConfig, tokenizer: "PreTrainedTokenizerBase", held_out: Collection[str], longest: int
) -> tuple[list[tuple[int, ...]], frozenset[str], list[Text], str]:
    """Return texts to train on, the ids of all that are used, those that trials are judged on, and a fingerprint."""
    section = config.texts
    if not config.terms.weights.uses_texts:
        return [], frozenset(), [], ""
    trained: list[tuple[int, ...]] = []
    checked: list[Text] = []
    ids: set[str] = set()
    prints = []
    validated = config.tune.limit if config.healing and config.tune.num_samples else 0
    for index, source in enumerate(section.source):
        template = section.template[index] if section.template else None
        limit = None if section.limit is None else section.limit + validated
        found = load_prompts(PromptSource(source, template, section.split), limit, config.seed)
        prints.append(found.ordered.fingerprint)
        rows = [
            (p.prompt_id, _cut(tokenizer, p.text, min(section.max_tokens, longest)))
            for p in found.prompts
            if p.prompt_id not in held_out
        ]
        rows = [(text_id, tokens) for text_id, tokens in rows if len(tokens) > 1]
        ids |= {text_id for text_id, _ in rows}
        checked += [Text("validation", text_id, tokens) for text_id, tokens in rows[:validated]]
        trained += [tokens for _, tokens in rows[validated:]]
    if not trained:
        raise InputError("texts.source: no text of more than one token is left to train on")
    return trained, frozenset(ids), checked, digest({"texts": prints})


def _perplexity_texts(
    config: MitigationConfig, tokenizer: "PreTrainedTokenizerBase", used: Collection[str], longest: int
) -> list[Text]:
    source = config.evaluation.text
    if source is None:
        return []
    found = load_prompts(PromptSource(source), None, config.seed)
    rows = [
        (p.prompt_id, _cut(tokenizer, p.text, min(config.texts.max_tokens, longest)))
        for p in found.prompts
        if p.prompt_id not in used
    ]
    texts = [Text(_name(source), text_id, tokens) for text_id, tokens in rows if len(tokens) > 1]
    if not texts:
        raise InputError(f"evaluation.text {source!r}: all its texts are trained on, so none can be held out")
    return texts[: config.evaluation.limit]


def _name(source: str) -> str:
    return source.rstrip("/").rpartition("/")[2].removesuffix(".txt") or source


def _cut(tokenizer: "PreTrainedTokenizerBase", text: str, most: int) -> tuple[int, ...]:
    return tuple(encode_text(tokenizer, text)[:most])
