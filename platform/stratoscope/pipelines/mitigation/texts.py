"""The texts of a run: for training, for validation, and held out, none of which is a version of another part's text."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from stratoscope.data import Prompt, PromptSource, load_prompts
from stratoscope.digest import digest
from stratoscope.errors import InputError
from stratoscope.evaluation import BEGINNING, Text, Wordings
from stratoscope.models import encode_text
from stratoscope.pipelines.mitigation.config import MitigationConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TextSource:
    """Row counts of a source of texts. The rows read are the sum of the rows kept and those left out."""

    name: str
    prompts_read: int
    num_prompts: int
    """Number of texts kept."""
    prompts_empty: int
    prompts_duplicate: int
    prompts_held_out: int
    """Number of texts left out because they are of a held-out question, contain one, or are versions of a text for
    validation."""
    prompts_too_short: int
    """Number of texts left out because they have a single token, from which nothing is predicted."""


@dataclass(frozen=True)
class Texts:
    """Texts for training and validation."""

    train: tuple[tuple[int, ...], ...] = ()
    validation: tuple[Text, ...] = ()
    ids: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    """What versions of these texts share (see `text_keys`)."""
    sources: tuple[TextSource, ...] = ()
    fingerprint: str = ""


def text_keys(texts: Sequence[str]) -> list[str]:
    """Return what versions of one text share, for each text of a source.

    It is the first characters of the text, after a beginning that all texts of the source share, as by a template.
    """
    pairs = zip(min(texts, default=""), max(texts, default=""), strict=False)
    start = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs))) if len(set(texts)) > 1 else 0
    return [text[start:].strip()[:BEGINNING] for text in texts]


@dataclass(frozen=True)
class _Row:
    """A text as token ids."""

    text_id: str
    key: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class TextReader:
    """Reads texts as token ids."""

    config: MitigationConfig
    tokenizer: "PreTrainedTokenizerBase"
    max_tokens: int
    """Largest number of tokens of a text; longer ones are truncated."""

    def read_training(self, held_out: Collection[str], questions: Wordings) -> Texts:
        """Read the texts for training and validation.

        Args:
            held_out: ids of held-out questions; texts of the same rows are left out.
            questions: held-out questions; texts that contain one are left out.

        Raises:
            InputError: no text is left for training.
        """
        config, section = self.config, self.config.texts
        if not config.terms.weights.uses_texts:
            return Texts()
        number = config.num_validation_texts
        prints, sources, parts = [], [], []
        for index, (name, most) in enumerate(zip(section.source, section.limits, strict=True)):
            limit = None if most is None else most + number
            template = section.template[index] if section.template else None
            prompts = load_prompts(PromptSource(name, template, section.split, section="texts"), limit, config.seed)
            usable = [p for p in prompts.prompts if p.prompt_id not in held_out and not questions.appear_in(p.text)]
            parts.append((prompts.ordered, usable, self._encode(usable)))
            prints.append(prompts.ordered.fingerprint)
        validation = [row for _, _, rows in parts for row in rows[:number]]
        validated = {row.key for row in validation}
        train: list[_Row] = []
        for name, (ordered, usable, rows) in zip(section.source, parts, strict=True):
            kept = [row for row in rows[number:] if row.key not in validated]
            num_validation = len(rows[:number])
            train += kept
            sources.append(
                TextSource(
                    name=name,
                    prompts_read=ordered.num_read,
                    num_prompts=num_validation + len(kept),
                    prompts_empty=ordered.num_empty,
                    prompts_duplicate=ordered.num_duplicates,
                    prompts_held_out=ordered.table.num_rows - len(usable) + len(rows) - num_validation - len(kept),
                    prompts_too_short=len(usable) - len(rows),
                )
            )
        if not train and not config.samples.number:
            raise InputError("texts.source: no text of more than one token is left for training")
        return Texts(
            train=tuple(row.tokens for row in train),
            validation=tuple(Text("validation", row.text_id, row.tokens) for row in validation),
            ids=frozenset(row.text_id for row in (*validation, *train)),
            keys=frozenset(row.key for row in (*validation, *train)),
            sources=tuple(sources),
            fingerprint=digest({"texts": prints}),
        )

    def read_perplexity(self, used: Collection[str], keys: Collection[str]) -> tuple[Text, ...]:
        """Read the held-out texts whose perplexity is measured.

        Args:
            used: ids of rows that are used otherwise; their texts are left out.
            keys: keys of the texts for training and validation; versions of these texts are left out.

        Raises:
            InputError: no text is left.
        """
        source = self.config.evaluation.text
        if source is None:
            return ()
        prompts = load_prompts(PromptSource(source, section="evaluation.text"), None, self.config.seed).prompts
        rows = [row for row in self._encode(list(prompts)) if row.text_id not in used and row.key not in keys]
        if not rows:
            raise InputError(f"evaluation.text {source!r}: all its texts are used for training; none can be held out")
        name = source.rstrip("/").rpartition("/")[2].removesuffix(".txt") or source
        return tuple(Text(name, row.text_id, row.tokens) for row in rows[: self.config.evaluation.limit])

    def _encode(self, prompts: Sequence[Prompt]) -> list[_Row]:
        """Return the texts with at least two tokens."""
        keys = text_keys([prompt.text for prompt in prompts])
        ids = [tuple(encode_text(self.tokenizer, prompt.text)[: self.max_tokens]) for prompt in prompts]
        rows = [_Row(p.prompt_id, key, tokens) for p, key, tokens in zip(prompts, keys, ids, strict=True)]
        return [row for row in rows if len(row.tokens) > 1]
