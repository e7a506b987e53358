"""The training objective of a step: one module, so that DeepSpeed sees all that happens to the parameters."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn

from stratoscope.mitigation import objectives
from stratoscope.mitigation.capture import captured
from stratoscope.mitigation.examples import Corpus, Rows, answer_rows, text_rows
from stratoscope.mitigation.gather import gather_rows
from stratoscope.mitigation.states import ReferenceStates, answer_means, question_ends
from stratoscope.models import LayerLayout

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
class LossTerms:
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
class DroppedSpan:
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
class MicroBatch:
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
        max_padding: largest share of a pass through the model that may be padding; 1 makes one pass of all rows.
    """

    def __init__(
        self,
        network: nn.Module,
        anatomy: LayerLayout,
        *,
        layers: Sequence[int],
        cuts: Sequence[DroppedSpan],
        terms: LossTerms,
        corpus: Corpus,
        reference: ReferenceStates,
        filler: int,
        max_padding: float,
    ) -> None:
        super().__init__()
        self.network = network
        self._anatomy, self._terms, self._corpus, self._filler = anatomy, terms, corpus, filler
        self._cuts, self._max_padding = list(cuts), max_padding
        self._numbers = [(layer, reference.layer_of[layer]) for layer in layers]
        # In a list, for it is no part of what is trained.
        self._reference = [reference]

    @property
    def reference(self) -> ReferenceStates:
        """The frozen model."""
        return self._reference[0]

    def forward(self, micro: MicroBatch) -> dict[str, Tensor]:
        """Return this worker's part of each term, divided by the counts of the step; their sum over workers counts."""
        parts: dict[str, Tensor] = {}
        weights = self._terms.weights
        if weights.uses_questions:
            parts |= self._of_questions(micro)
        if weights.uses_texts:
            parts |= self._of_texts(micro)
        return parts

    def _of_questions(self, micro: MicroBatch) -> dict[str, Tensor]:
        weights, counts = self._terms.weights, micro.counts
        examples = [self._corpus.questions[i] for i in micro.questions]
        rows = answer_rows(examples, self._filler).to(self._device)
        num = len(examples)
        answers = self._answers(rows)
        parts: dict[str, Tensor] = {}
        if weights.likelihood:
            parts["likelihood"] = -answers.likelihood[:num].sum() / counts.right_tokens
        if weights.margin:
            per_token = answers.likelihood / rows.segment.sum(dim=1)
            question = torch.tensor([i for i, e in enumerate(examples) for _ in e.wrong], device=self._device)
            missing = objectives.margin(per_token[:num], per_token[num:], question, self._terms.margin)
            parts["margin"] = missing / max(1, counts.wrong)
        if weights.contrastive:
            wrong = gather_rows(answers.means[num:], micro.wrong_of_workers)
            anchor = answers.ends[:num] if self._terms.anchor == "question" else self._frozen_means(rows, num)
            loss = objectives.info_nce(anchor, answers.means[:num], wrong, self._terms.temperature)
            parts["contrastive"] = loss / (counts.questions * len(self._numbers))
        return parts

    def _answers(self, rows: Rows) -> "_Answers":
        """Run the model on rows of answers, those of like length together."""
        layers = [layer for layer, _ in self._numbers] if self._terms.weights.contrastive else []
        order: list[int] = []
        found: list[_Answers] = []
        for chosen, part in rows.parts(self._max_padding):
            row, place, tokens = part.predicted
            with captured(self._anatomy, layers) as states:
                logits = _predict(self.network, part, row, place)
            likelihood = objectives.token_log_likelihood(logits, tokens)
            total = torch.zeros(len(chosen), dtype=likelihood.dtype, device=self._device).index_add(0, row, likelihood)
            numbers = self._numbers if layers else []
            found.append(
                _Answers(
                    total,
                    answer_means(states, part, numbers, self.reference),
                    question_ends(states, part, len(chosen), numbers, self.reference),
                )
            )
            order += chosen
        back = torch.tensor(order, device=self._device).argsort()
        return _Answers(
            torch.cat([f.likelihood for f in found])[back],
            torch.cat([f.means for f in found])[back],
            torch.cat([f.ends for f in found])[back],
        )

    def _frozen_means(self, rows: Rows, num: int) -> Tensor:
        """Return the frozen model's mean states of the right answers, shape (num, L, D)."""
        right = Rows(rows.ids[:num], rows.mask[:num], rows.segment[:num])
        originals = [original for _, original in self._numbers]
        with torch.no_grad(), captured(self.reference.model.anatomy, originals) as frozen:
            self.reference.model.backbone(right.ids, attention_mask=right.mask, use_cache=False)
        return answer_means(frozen, right, [(o, o) for o in originals], self.reference)

    def _of_texts(self, micro: MicroBatch) -> dict[str, Tensor]:
        rows = text_rows([self._corpus.texts[i] for i in micro.texts], self._filler).to(self._device)
        sums: dict[str, Tensor] = {}
        for _, part in rows.parts(self._max_padding):
            for name, value in self._sums_of_texts(part).items():
                sums[name] = sums[name] + value if name in sums else value
        return {name: value / micro.counts.text_tokens for name, value in sums.items()}

    def _sums_of_texts(self, rows: Rows) -> dict[str, Tensor]:
        """Return the sums over tokens of the terms that look at texts."""
        weights = self._terms.weights
        row, place, tokens = rows.predicted
        cuts = self._cuts if weights.hidden else []
        with captured(self._anatomy, [cut.layer for cut in cuts]) as states:
            logits = _predict(self.network, rows, row, place)
        sums: dict[str, Tensor] = {}
        if weights.text:
            sums["text"] = -objectives.token_log_likelihood(logits, tokens).sum()
        if not weights.forgetting and not cuts:
            return sums
        frozen = self.reference.model
        with torch.no_grad(), captured(frozen.anatomy, [cut.reference for cut in cuts]) as there:
            expected = _predict(frozen.network, rows, row, place)
        if weights.forgetting:
            sums["forgetting"] = objectives.divergence(expected, logits, self._terms.softening)
        if cuts:
            apart = [
                objectives.mismatch(
                    self.reference.standard(there[cut.reference][row, place], cut.reference),
                    self.reference.standard(states[cut.layer][row, place], cut.reference),
                )
                for cut in cuts
            ]
            sums["hidden"] = torch.stack(apart).mean()
        return sums

    @property
    def _device(self) -> torch.device:
        return self.reference.model.device


@dataclass(frozen=True, eq=False)
class _Answers:
    """What a model makes of rows of answers."""

    likelihood: Tensor
    """Log-likelihood of each, shape (rows,)."""
    means: Tensor
    """Mean standardised states in the L contrasted layers, shape (rows, L, D)."""
    ends: Tensor
    """Those of the question's end, shape (rows, L, D)."""


def _predict(network: Any, rows: Rows, row: Tensor, place: Tensor) -> Tensor:
    """Return the logits at some places, shape (T, V); the head runs on these alone."""
    handle = network.get_output_embeddings().register_forward_pre_hook(
        lambda _head, given: (given[0][row, place][None],)
    )
    try:
        logits = network(rows.ids, attention_mask=rows.mask, use_cache=False).logits
    finally:
        handle.remove()
    return torch.as_tensor(logits[0])
