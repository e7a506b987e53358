"""The training objective of a step: one module, so that DeepSpeed sees all that happens to the parameters."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn

from stratoscope.mitigation import objectives
from stratoscope.mitigation.capture import States, captured
from stratoscope.mitigation.examples import Corpus, Rows, answer_rows, text_rows
from stratoscope.mitigation.gather import gather_rows
from stratoscope.mitigation.states import Reference, answer_means, question_ends
from stratoscope.models import Anatomy

Tensor = torch.Tensor
Anchor = Literal["question", "frozen"]
TERMS = ("contrastive", "likelihood", "margin", "forgetting", "hidden", "text")


@dataclass(frozen=True)
class Weights:
    """Weight of each term; zero switches it off."""

    contrastive: float = 0.0
    """InfoNCE on hidden states of the trained layers."""
    likelihood: float = 0.0
    """Of right answers."""
    margin: float = 0.0
    """Of the likelihood of right answers over wrong ones."""
    forgetting: float = 0.0
    """Divergence from the reference on texts."""
    hidden: float = 0.0
    """Mismatch of hidden states with the reference's where layers were dropped, on texts."""
    text: float = 0.0
    """Likelihood of texts."""

    @property
    def uses_questions(self) -> bool:
        """Whether any term looks at questions."""
        return bool(self.contrastive or self.likelihood or self.margin)

    @property
    def uses_texts(self) -> bool:
        """Whether any term looks at texts."""
        return bool(self.forgetting or self.hidden or self.text)

    def used(self) -> dict[str, float]:
        """Return the weights that are not zero, by term."""
        return {name: weight for name, weight in asdict(self).items() if weight}


@dataclass(frozen=True)
class Terms:
    """The terms and what they need to know."""

    weights: Weights
    temperature: float = 0.1
    """Of the contrast."""
    anchor: Anchor = "question"
    """What right and wrong answers are compared with: the end of the question, or the frozen model's right answer."""
    margin: float = 1.0
    """Nats per token."""
    softening: float = 1.0
    """Temperature of the divergence."""


@dataclass(frozen=True)
class Cut:
    """A place where layers were dropped."""

    layer: int
    """Whose output should be what the last of the dropped layers put out."""
    reference: int
    """That layer, as the reference numbers it."""


@dataclass(frozen=True)
class Counts:
    """What the sums of a step's terms are divided by; over all workers and micro-batches."""

    questions: int
    wrong: int
    right_tokens: int
    text_tokens: int

    @classmethod
    def of(cls, corpus: Corpus, questions: Sequence[int], texts: Sequence[int]) -> "Counts":
        """Count a step's examples."""
        chosen = [corpus.questions[i] for i in questions]
        return cls(
            len(chosen),
            sum(len(q.wrong) for q in chosen),
            sum(len(q.right) for q in chosen),
            sum(len(corpus.texts[i]) - 1 for i in texts),
        )


@dataclass(frozen=True, eq=False)
class Micro:
    """What one worker sees in one micro-batch."""

    questions: tuple[int, ...]
    """Numbers in the corpus."""
    texts: tuple[int, ...]
    wrong_of_workers: list[int]
    """How many wrong answers each worker has in this micro-batch."""
    counts: Counts


class Objective(nn.Module):
    """Computes a worker's part of the loss of a micro-batch.

    Args:
        network: the model that is trained, perhaps wrapped by peft.
        anatomy: its layers.
        layers: those that are contrasted.
        cuts: places where layers were dropped.
        terms: of the loss.
        corpus: what is trained on.
        reference: the frozen model.
        filler: token id to pad with.
    """

    def __init__(
        self,
        network: nn.Module,
        anatomy: Anatomy,
        *,
        layers: Sequence[int],
        cuts: Sequence[Cut],
        terms: Terms,
        corpus: Corpus,
        reference: Reference,
        filler: int,
    ) -> None:
        super().__init__()
        self.network = network
        self._anatomy, self._terms, self._corpus, self._filler = anatomy, terms, corpus, filler
        self._cuts = list(cuts)
        self._numbers = [(layer, reference.layer_of[layer]) for layer in layers]
        # In a list, for it is no part of what is trained.
        self._reference = [reference]

    @property
    def reference(self) -> Reference:
        """The frozen model."""
        return self._reference[0]

    def forward(self, micro: Micro) -> dict[str, Tensor]:
        """Return this worker's part of each term, divided by the counts of the step; their sum over workers counts."""
        parts: dict[str, Tensor] = {}
        weights = self._terms.weights
        if weights.uses_questions:
            parts |= self._of_questions(micro)
        if weights.uses_texts:
            parts |= self._of_texts(micro)
        return parts

    def _of_questions(self, micro: Micro) -> dict[str, Tensor]:
        weights, counts = self._terms.weights, micro.counts
        examples = [self._corpus.questions[i] for i in micro.questions]
        rows = answer_rows(examples, self._filler).to(self._device)
        num, num_rows = len(examples), len(rows.ids)
        layers = [layer for layer, _ in self._numbers] if weights.contrastive else []
        row, place, tokens = rows.predicted
        with captured(self._anatomy, layers) as states:
            logits = _predict(self.network, rows, row, place)
        parts: dict[str, Tensor] = {}
        likelihood = objectives.token_log_likelihood(logits, tokens)
        if weights.likelihood:
            parts["likelihood"] = -likelihood[row < num].sum() / counts.right_tokens
        if weights.margin:
            per_token = objectives.segment_mean(likelihood, row, num_rows)
            question = torch.tensor([i for i, e in enumerate(examples) for _ in e.wrong], device=self._device)
            missing = objectives.margin(per_token[:num], per_token[num:], question, self._terms.margin)
            parts["margin"] = missing / max(1, counts.wrong)
        if weights.contrastive:
            answers = answer_means(states, rows, self._numbers, self.reference)
            wrong = gather_rows(answers[num:], micro.wrong_of_workers)
            anchor = self._anchors(states, rows, num)
            loss = objectives.info_nce(anchor, answers[:num], wrong, self._terms.temperature)
            parts["contrastive"] = loss / (counts.questions * len(layers))
        return parts

    def _anchors(self, states: States, rows: Rows, num: int) -> Tensor:
        """Return what each question's answers are compared with, shape (num, L, D)."""
        if self._terms.anchor == "question":
            return question_ends(states, rows, num, self._numbers, self.reference)
        right = Rows(rows.ids[:num], rows.mask[:num], rows.segment[:num])
        originals = [original for _, original in self._numbers]
        with torch.no_grad(), captured(self.reference.model.anatomy, originals) as frozen:
            self.reference.model.backbone(right.ids, attention_mask=right.mask, use_cache=False)
        return answer_means(frozen, right, [(o, o) for o in originals], self.reference)

    def _of_texts(self, micro: Micro) -> dict[str, Tensor]:
        weights, total = self._terms.weights, micro.counts.text_tokens
        rows = text_rows([self._corpus.texts[i] for i in micro.texts], self._filler).to(self._device)
        row, place, tokens = rows.predicted
        cuts = self._cuts if weights.hidden else []
        with captured(self._anatomy, [cut.layer for cut in cuts]) as states:
            logits = _predict(self.network, rows, row, place)
        parts: dict[str, Tensor] = {}
        if weights.text:
            parts["text"] = -objectives.token_log_likelihood(logits, tokens).sum() / total
        if not weights.forgetting and not cuts:
            return parts
        frozen = self.reference.model
        with torch.no_grad(), captured(frozen.anatomy, [cut.reference for cut in cuts]) as there:
            expected = _predict(frozen.network, rows, row, place)
        if weights.forgetting:
            parts["forgetting"] = objectives.divergence(expected, logits, self._terms.softening) / total
        if cuts:
            apart = [
                objectives.mismatch(
                    self.reference.standard(there[cut.reference][row, place], cut.reference),
                    self.reference.standard(states[cut.layer][row, place], cut.reference),
                )
                for cut in cuts
            ]
            parts["hidden"] = torch.stack(apart).mean() / total
        return parts

    @property
    def _device(self) -> torch.device:
        return self.reference.model.device


def _predict(network: Any, rows: Rows, row: Tensor, place: Tensor) -> Tensor:
    """Return the logits at some places, shape (T, V); the head runs on the columns in which there is one."""
    columns, column = torch.unique(place, return_inverse=True)
    logits = network(rows.ids, attention_mask=rows.mask, use_cache=False, logits_to_keep=columns).logits
    return torch.as_tensor(logits[row, column])
