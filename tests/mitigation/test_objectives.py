"""The terms of the loss: against hand numbers, against finite differences, and their limits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from stratoscope.mitigation import objectives


def test_info_nce_of_hand_numbers() -> None:
    anchor = torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]])
    right = torch.tensor([[[3.0, 0.0]], [[0.0, 1.0]]])
    wrong = torch.tensor([[[0.0, 1.0]], [[5.0, 0.0]], [[-1.0, 0.0]]])
    # Cosines: 1 with the right answer, and 0, 1, -1 of the first question, 1, 0, 0 of the second, with the wrong ones.
    e = math.e
    first = -math.log(e / (e + 1 + e + 1 / e))
    second = -math.log(e / (e + e + 1 + 1))
    assert objectives.info_nce(anchor, right, wrong, 1.0).item() == pytest.approx(first + second, abs=1e-6)


def test_info_nce_vanishes_where_answers_are_told_apart_and_counts_choices_where_they_are_not() -> None:
    anchor = torch.tensor([[[1.0, 0.0]]])
    far = torch.tensor([[[-1.0, 0.0]]]).repeat(3, 1, 1)
    assert objectives.info_nce(anchor, anchor, far, 0.05).item() == pytest.approx(0, abs=1e-6)
    same = anchor.repeat(3, 1, 1)
    assert objectives.info_nce(anchor, anchor, same, 0.05).item() == pytest.approx(math.log(4), abs=1e-6)


def test_margin_counts_what_is_missing_of_each_wrong_answer() -> None:
    right, wrong = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -4.0, -2.0])
    # Above them by 0.5 and 3 (enough), and by 0.
    assert objectives.margin(right, wrong, torch.tensor([0, 0, 1]), 1.0).item() == pytest.approx(0.5 + 0.0 + 1.0)


@given(st.floats(0.3, 4), st.integers(0, 10_000))
def test_divergence_is_never_negative_and_zero_for_equal_models(temperature: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    one, other = torch.randn(3, 7, generator=generator), torch.randn(3, 7, generator=generator)
    assert objectives.divergence(one, one, temperature).item() == pytest.approx(0, abs=1e-5)
    assert objectives.divergence(one, other, temperature).item() > 0


def test_divergence_is_that_of_its_definition() -> None:
    reference, logits = torch.tensor([[0.0, 1.0, 3.0]]), torch.tensor([[1.0, -1.0, 0.5]])
    p, q = (torch.softmax(v / 2, dim=-1)[0] for v in (reference, logits))
    expected = 4 * sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p, q, strict=True))
    assert objectives.divergence(reference, logits, 2.0).item() == pytest.approx(expected, rel=1e-5)


def test_segment_means_are_those_of_each_segment() -> None:
    states = torch.arange(10.0).reshape(5, 2)
    means = objectives.segment_mean(states, torch.tensor([1, 0, 1, 1, 0]), 2)
    assert torch.equal(means, torch.stack([states[[1, 4]].mean(dim=0), states[[0, 2, 3]].mean(dim=0)]))


def test_every_term_does_not_depend_on_how_a_batch_is_dealt() -> None:
    generator = torch.Generator().manual_seed(0)
    anchor, right, wrong = (torch.randn(n, 2, 4, generator=generator) for n in (6, 6, 9))
    whole = objectives.info_nce(anchor, right, wrong, 0.3)
    parts = sum(objectives.info_nce(anchor[s], right[s], wrong, 0.3) for s in (slice(0, 2), slice(2, 6)))
    assert whole.item() == pytest.approx(parts.item(), rel=1e-5)


@pytest.mark.parametrize("term", ["contrastive", "margin", "divergence", "mismatch"])
def test_gradients_are_those_of_finite_differences(term: str) -> None:
    generator = torch.Generator().manual_seed(1)
    fixed = torch.randn(3, 2, 5, generator=generator, dtype=torch.float64)
    moved = torch.randn(3, 2, 5, generator=generator, dtype=torch.float64)
    wrong = torch.randn(4, 2, 5, generator=generator, dtype=torch.float64)

    def value(x: torch.Tensor) -> torch.Tensor:
        if term == "contrastive":
            return objectives.info_nce(fixed, x, wrong, 0.5)
        if term == "margin":
            return objectives.margin(x[0, 0], wrong[:, 0, 0], torch.tensor([0, 2, 1, 1]), 1.0)
        if term == "divergence":
            return objectives.divergence(fixed[0], x[0], 1.5)
        return objectives.mismatch(fixed[0], x[0])

    moved.requires_grad_(True)
    (gradient,) = torch.autograd.grad(value(moved), moved)
    step = 1e-2
    for place in ((0, 0, 0), (0, 0, 2), (0, 1, 4), (2, 1, 1)):
        up, down = moved.detach().clone(), moved.detach().clone()
        up[place] += step
        down[place] -= step
        difference = (value(up) - value(down)).item() / (2 * step)
        assert gradient[place].item() == pytest.approx(difference, rel=2e-2, abs=2e-3)


def straightforward(name: str, reference: torch.Tensor, logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return a term by the operations of torch that hold all logits at once."""
    if name == "likelihood":
        return -functional.cross_entropy(logits, tokens, reduction="none")
    target, own = (functional.log_softmax(values / 1.5, dim=-1) for values in (reference, logits))
    return functional.kl_div(own, target, reduction="sum", log_target=True) * 1.5**2


def in_parts(name: str, reference: torch.Tensor, logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    if name == "likelihood":
        return objectives.token_log_likelihood(logits, tokens)
    return objectives.divergence(reference, logits, 1.5)


@pytest.mark.parametrize("name", ["likelihood", "divergence"])
@pytest.mark.parametrize("elements", [1, 26, 10_000])
def test_terms_in_parts_have_the_values_and_gradients_of_terms_over_all_logits(
    name: str, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objectives, "CPU_ELEMENTS", elements)
    generator = torch.Generator().manual_seed(2)
    reference, logits = (3 * torch.randn(7, 13, generator=generator, dtype=torch.float64) for _ in range(2))
    tokens = torch.randint(0, 13, (7,), generator=generator)
    found, expected = (logits.clone().requires_grad_(True) for _ in range(2))
    values = [f(name, reference, x, tokens) for f, x in ((in_parts, found), (straightforward, expected))]
    torch.testing.assert_close(*values)
    weights = torch.randn(values[0].shape, generator=generator, dtype=torch.float64)
    for value in values:
        (value * weights).sum().backward()
    torch.testing.assert_close(found.grad, expected.grad)


@pytest.mark.parametrize("name", ["likelihood", "divergence"])
def test_terms_of_half_precision_are_computed_in_single_precision(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    reference, logits = (3 * torch.randn(5, 400, generator=generator).bfloat16() for _ in range(2))
    tokens = torch.randint(0, 400, (5,), generator=generator)
    half, single = logits.clone().requires_grad_(True), logits.float().requires_grad_(True)
    values = [in_parts(name, reference.to(x.dtype), x, tokens) for x in (half, single)]
    assert values[0].dtype == torch.float32
    assert torch.equal(*values)
    for value in values:
        value.sum().backward()
    assert half.grad is not None
    assert single.grad is not None
    assert torch.equal(half.grad, single.grad.bfloat16())


@pytest.mark.parametrize("name", ["likelihood", "divergence"])
def test_terms_of_no_tokens_are_zero(name: str) -> None:
    logits, tokens = torch.zeros(0, 9, requires_grad=True), torch.zeros(0, dtype=torch.int64)
    value = in_parts(name, logits.detach(), logits, tokens).sum()
    value.backward()
    assert value.item() == 0
