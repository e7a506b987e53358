"""The training objective of a step: one module, so that DeepSpeed sees every use of the parameters."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from stratoscope.mitigation import objectives
from stratoscope.mitigation.examples import Corpus, PaddedRows, answer_rows, text_rows
from stratoscope.mitigation.gather import gather_rows
from stratoscope.mitigation.options import Anchor
from stratoscope.mitigation.states import ReferenceStates, answer_means, capture_states, question_ends
from stratoscope.models import LayerLayout

Tensor = torch.Tensor


@dataclass(frozen=True)
class Weights:
    """Weight of each term; zero switches it off."""

    contrastive: float = 0.0
    """InfoNCE on hidden states of the trained layers."""
    likelihood: float = 0.0
    """Likelihood of right answers."""
    margin: float = 0.0
    """Margin of the likelihood of right answers over wrong ones."""
    forgetting: float = 0.0
    """Divergence from the reference model on texts."""
    hidden: float = 0.0
    """Mismatch of hidden states with the reference's where layers were dropped, on texts."""
    text: float = 0.0
    """Likelihood of texts."""

    @property
    def uses_questions(self) -> bool:
        """Whether any term is computed on questions."""
        return bool(self.contrastive or self.likelihood or self.margin)

    @property
    def uses_texts(self) -> bool:
        """Whether any term is computed on texts."""
        return bool(self.forgetting or self.hidden or self.text)

    def used(self) -> dict[str, float]:
        """Return the weights that are not zero, by term."""
        return {name: weight for name, weight in asdict(self).items() if weight}


@dataclass(frozen=True)
class LossTerms:
    """The terms of the loss and their parameters."""

    weights: Weights
    temperature: float = 0.1
    """Temperature of the contrast."""
    anchor: Anchor = "question"
    """Anchor of the contrast: the end of the question, or the right answer in the frozen model."""
    margin: float = 1.0
    """Margin, in nats per token."""
    softening: float = 1.0
    """Temperature of the divergence."""


@dataclass(frozen=True)
class DroppedSpan:
    """A span of dropped layers after a remaining layer."""

    layer: int
    """Layer before the span, as the trained model numbers it; its output should match that of the span."""
    reference: int
    """Last layer of the span, as the reference model numbers it."""


@dataclass(frozen=True)
class Counts:
    """Counts over all workers and micro-batches of a step, by which the sums of its terms are divided."""

    questions: int
    wrong: int
    right_tokens: int
    text_tokens: int

    @classmethod
    def of(cls, corpus: Corpus, questions: Sequence[int], texts: Sequence[int]) -> "Counts":
        """Count the examples of a step."""
        chosen = [corpus.questions[i] for i in questions]
        return cls(
            len(chosen),
            sum(len(q.wrong) for q in chosen),
            sum(len(q.right) for q in chosen),
            sum(len(corpus.texts[i]) - 1 for i in texts),
        )


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """The examples of one worker in one micro-batch."""

    questions: tuple[int, ...]
    """Numbers of questions in the corpus."""
    texts: tuple[int, ...]
    wrong_of_workers: list[int]
    """Number of wrong answers of each worker in this micro-batch."""
    counts: Counts


class MitigationObjective(nn.Module):
    """Computes a worker's part of the loss of a micro-batch.

    Args:
        network: the trained model, wrapped by peft where it has adapters.
        anatomy: layers of the trained model.
        layers: layers whose states are contrasted.
        spans: spans of dropped layers.
        terms: terms of the loss.
        corpus: the training data.
        reference: the frozen model.
        filler: padding token id.
        max_padding: largest share of padding in a pass through the model; 1 makes a single pass of all rows.
    """

    def __init__(
        self,
        network: nn.Module,
        anatomy: LayerLayout,
        *,
        layers: Sequence[int],
        spans: Sequence[DroppedSpan],
        terms: LossTerms,
        corpus: Corpus,
        reference: ReferenceStates,
        filler: int,
        max_padding: float,
    ) -> None:
        super().__init__()
        self.network = network
        self._anatomy, self._terms, self._corpus, self._filler = anatomy, terms, corpus, filler
        self._spans, self._max_padding = list(spans), max_padding
        self._numbers = [(layer, reference.layer_of[layer]) for layer in layers]
        # In a list, so that its parameters are not registered as this module's.
        self._reference = [reference]

    @property
    def reference(self) -> ReferenceStates:
        """The frozen model."""
        return self._reference[0]

    def forward(self, micro: MicroBatch) -> dict[str, Tensor]:
        """Return this worker's part of each term, divided by the counts of the step; a term is their sum."""
        parts: dict[str, Tensor] = {}
        weights = self._terms.weights
        if weights.uses_questions:
            parts |= self._question_terms(micro)
        if weights.uses_texts:
            parts |= self._text_terms(micro)
        return parts

    def _question_terms(self, micro: MicroBatch) -> dict[str, Tensor]:
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
            violations = objectives.margin(per_token[:num], per_token[num:], question, self._terms.margin)
            parts["margin"] = violations / max(1, counts.wrong)
        if weights.contrastive:
            wrong = gather_rows(answers.means[num:], micro.wrong_of_workers)
            anchor = answers.ends[:num] if self._terms.anchor == "question" else self._frozen_means(rows, num)
            loss = objectives.info_nce(anchor, answers.means[:num], wrong, self._terms.temperature)
            parts["contrastive"] = loss / (counts.questions * len(self._numbers))
        return parts

    def _answers(self, rows: PaddedRows) -> "_Answers":
        """Run the model on rows of answers, grouped by similar length."""
        layers = [layer for layer, _ in self._numbers] if self._terms.weights.contrastive else []
        order: list[int] = []
        groups: list[_Answers] = []
        for members, part in rows.parts(self._max_padding):
            row, position, tokens = part.predictions
            with capture_states(self._anatomy, layers) as states:
                logits = _predict(self.network, part, row, position)
            likelihood = objectives.token_log_likelihood(logits, tokens)
            total = torch.zeros(len(members), dtype=likelihood.dtype, device=self._device).index_add(0, row, likelihood)
            numbers = self._numbers if layers else []
            groups.append(
                _Answers(
                    total,
                    answer_means(states, part, numbers, self.reference),
                    question_ends(states, part, len(members), numbers, self.reference),
                )
            )
            order += members
        inverse = torch.tensor(order, device=self._device).argsort()
        return _Answers(
            torch.cat([g.likelihood for g in groups])[inverse],
            torch.cat([g.means for g in groups])[inverse],
            torch.cat([g.ends for g in groups])[inverse],
        )

    def _frozen_means(self, rows: PaddedRows, num: int) -> Tensor:
        """Return the frozen model's mean states of the right answers, shape (num, L, D)."""
        right = PaddedRows(rows.ids[:num], rows.mask[:num], rows.segment[:num])
        originals = [original for _, original in self._numbers]
        with torch.no_grad(), capture_states(self.reference.model.anatomy, originals) as frozen:
            self.reference.model.backbone(right.ids, attention_mask=right.mask, use_cache=False)
        return answer_means(frozen, right, [(o, o) for o in originals], self.reference)

    def _text_terms(self, micro: MicroBatch) -> dict[str, Tensor]:
        rows = text_rows([self._corpus.texts[i] for i in micro.texts], self._filler).to(self._device)
        sums: dict[str, Tensor] = {}
        for _, part in rows.parts(self._max_padding):
            for name, value in self._text_sums(part).items():
                sums[name] = sums[name] + value if name in sums else value
        return {name: value / micro.counts.text_tokens for name, value in sums.items()}

    def _text_sums(self, rows: PaddedRows) -> dict[str, Tensor]:
        """Return the sums over tokens of the terms that are computed on texts."""
        weights = self._terms.weights
        row, position, tokens = rows.predictions
        spans = self._spans if weights.hidden else []
        with capture_states(self._anatomy, [span.layer for span in spans]) as states:
            logits = _predict(self.network, rows, row, position)
        sums: dict[str, Tensor] = {}
        if weights.text:
            sums["text"] = -objectives.token_log_likelihood(logits, tokens).sum()
        if not weights.forgetting and not spans:
            return sums
        frozen = self.reference.model
        with torch.no_grad(), capture_states(frozen.anatomy, [span.reference for span in spans]) as targets:
            expected = _predict(frozen.network, rows, row, position)
        if weights.forgetting:
            sums["forgetting"] = objectives.divergence(expected, logits, self._terms.softening)
        if spans:
            mismatches = [
                objectives.mismatch(
                    self.reference.standardise(targets[span.reference][row, position], span.reference),
                    self.reference.standardise(states[span.layer][row, position], span.reference),
                )
                for span in spans
            ]
            sums["hidden"] = torch.stack(mismatches).mean()
        return sums

    @property
    def _device(self) -> torch.device:
        return self.reference.model.device


@dataclass(frozen=True, eq=False)
class _Answers:
    """The output of a model for rows of answers."""

    likelihood: Tensor
    """Log-likelihood of each row, shape (rows,)."""
    means: Tensor
    """Mean standardised states of the answer in the L contrasted layers, shape (rows, L, D)."""
    ends: Tensor
    """Standardised states of the question's last token, shape (rows, L, D)."""


def _predict(network: Any, rows: PaddedRows, row: Tensor, position: Tensor) -> Tensor:
    """Return the logits at some positions, shape (T, V); the head runs on these only."""
    handle = network.get_output_embeddings().register_forward_pre_hook(
        lambda _head, inputs: (inputs[0][row, position][None],)
    )
    try:
        logits = network(rows.ids, attention_mask=rows.mask, use_cache=False).logits
    finally:
        handle.remove()
    return torch.as_tensor(logits[0])
