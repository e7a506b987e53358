"""The terms of the training objective, as pure functions of tensors.

Each returns a sum, to be divided by a count over all workers and micro-batches of a step, so that the loss does not
depend on how a batch is divided. The paper on EAVSS (arXiv 2411.10069) applies contrastive learning to the layers that
it flags; the loss, the vectors and the temperature could not be recovered. Everything here is ours.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

Tensor = torch.Tensor


def upcast(values: Tensor) -> Tensor:
    """Return half-precision values in single precision; others unchanged."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def info_nce(anchor: Tensor, right: Tensor, wrong: Tensor, temperature: float) -> Tensor:
    """Return the sum over questions and layers of the InfoNCE loss.

    For a question q at a layer: -log(exp(s(a, p) / t) / (exp(s(a, p) / t) + sum_n exp(s(a, n) / t))), with s the
    cosine, a the question's anchor, p its right answer, and n the wrong answers of all questions.

    Args:
        anchor: shape (Q, L, D).
        right: shape (Q, L, D).
        wrong: wrong answers of these and other questions, shape (N, L, D).
        temperature: temperature t.

    Source: van den Oord et al., 'Representation learning with contrastive predictive coding', 2018; its use here: ours.
    """
    anchor, right, wrong = (functional.normalize(upcast(v), dim=-1) for v in (anchor, right, wrong))
    positive = (anchor * right).sum(dim=-1) / temperature
    negative = torch.einsum("qld,nld->qln", anchor, wrong) / temperature
    similarities = torch.cat([positive[..., None], negative], dim=-1)
    return (torch.logsumexp(similarities, dim=-1) - positive).sum()


def margin(right: Tensor, wrong: Tensor, question: Tensor, target: float) -> Tensor:
    """Return the sum over wrong answers of how far the right answer's likelihood is short of a margin above theirs.

    Args:
        right: log-likelihood per token of each question's right answer, shape (Q,).
        wrong: log-likelihood per token of the wrong answers, shape (N,).
        question: number of each wrong answer's question, shape (N,).
        target: the margin, in nats per token.

    Source: ours; a hinge loss.
    """
    return functional.relu(target - (right[question] - wrong)).sum()


def token_log_likelihood(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-probability of each token.

    Args:
        logits: shape (T, V).
        tokens: shape (T,).
    """
    result: Tensor = _TokenLogLikelihood.apply(logits, tokens)  # type: ignore[no-untyped-call]
    return result


def divergence(reference: Tensor, logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the sum over tokens of the Kullback-Leibler divergence from a reference to a model, in nats.

    Args:
        reference: logits of the reference, shape (T, V); it receives no gradient.
        logits: logits of the model, shape (T, V).
        temperature: temperature of both; the result is multiplied by its square, which keeps the size of gradients.

    Source: Hinton et al., 'Distilling the knowledge in a neural network', 2015.
    """
    result: Tensor = _Divergence.apply(reference, logits, temperature)  # type: ignore[no-untyped-call]
    return result


CPU_ELEMENTS, GPU_ELEMENTS = 2**20, 2**26
"""Number of logits converted to single precision at once: per CPU thread (about what its cache holds), and on a GPU."""


def _chunks(logits: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield tensors of T rows in parts of equal numbers of rows, logits in single precision."""
    elements = CPU_ELEMENTS * torch.get_num_threads() if logits.device.type == "cpu" else GPU_ELEMENTS
    rows = max(1, elements // max(1, logits.shape[-1]))
    parts = zip(*(torch.split(tensor, rows) for tensor in (logits, *others)), strict=True)
    return ((upcast(own), *rest) for own, *rest in parts)


class _TokenLogLikelihood(torch.autograd.Function):
    """Log-probability of tokens, without a copy of all logits in single precision."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor) -> Tensor:
        normaliser = torch.cat([own.logsumexp(dim=-1) for (own,) in _chunks(logits)])
        ctx.save_for_backward(logits, tokens, normaliser)
        return upcast(logits.gather(1, tokens[:, None])[:, 0]) - normaliser

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, tokens, normaliser = ctx.saved_tensors
        result = torch.empty_like(logits)
        for own, token, norm, outer, part in _chunks(logits, tokens, normaliser, gradient, result):
            probability = (own - norm[:, None]).exp_()
            part.copy_(probability.mul_(-outer[:, None]).scatter_add_(1, token[:, None], outer[:, None]))
        return result, None


class _Divergence(torch.autograd.Function):
    """Divergence from a reference, without copies of all logits in single precision."""

    @staticmethod
    def forward(ctx: Any, reference: Tensor, logits: Tensor, temperature: float) -> Tensor:
        sums, normalisers, targets = [], [], []
        for own, other in _chunks(logits, reference):
            scaled, target = _scaled(own, temperature), _scaled(upcast(other), temperature)
            normalisers.append(scaled.logsumexp(dim=-1))
            targets.append(target.logsumexp(dim=-1))
            log_target = target - targets[-1][:, None]
            # Log-probabilities are subtracted, since logits may differ by a large constant that the softmax ignores.
            difference = log_target - (scaled - normalisers[-1][:, None])
            sums.append(log_target.exp_().mul_(difference).sum(dim=-1))
        ctx.save_for_backward(reference, logits, torch.cat(normalisers), torch.cat(targets))
        ctx.temperature = temperature
        return torch.cat(sums).sum() * temperature**2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        reference, logits, normalisers, targets = ctx.saved_tensors
        result = torch.empty_like(logits)
        for own, other, norm, target_norm, part in _chunks(logits, reference, normalisers, targets, result):
            probability = _scaled(own, ctx.temperature).sub(norm[:, None]).exp_()
            probability -= _scaled(upcast(other), ctx.temperature).sub(target_norm[:, None]).exp_()
            part.copy_(probability.mul_(gradient * ctx.temperature))
        return None, result, None


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    return logits if temperature == 1 else logits / temperature


def mismatch(reference: Tensor, hidden: Tensor) -> Tensor:
    """Return the sum over tokens of the mean squared difference of standardised hidden states.

    Args:
        reference: shape (T, D).
        hidden: shape (T, D).

    Source: ours, after Romero et al., 'FitNets', 2015.
    """
    return (upcast(hidden) - upcast(reference)).square().mean(dim=-1).sum()


def segment_mean(states: Tensor, segment: Tensor, num: int) -> Tensor:
    """Return the mean of the states of each segment.

    Args:
        states: shape (T, ...).
        segment: number of each state's segment, shape (T,).
        num: number of segments; each has a state.

    Returns:
        Shape (num, ...).
    """
    total = torch.zeros((num, *states.shape[1:]), dtype=states.dtype, device=states.device)
    total = total.index_add(0, segment, states)
    count = torch.bincount(segment, minlength=num).to(states.dtype)
    return total / count.reshape(-1, *[1] * (states.ndim - 1))
