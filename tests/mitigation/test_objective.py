"""The whole loss of a step on a tiny model: its gradients, and how its layers tell right answers from wrong ones."""

from pathlib import Path

import pytest
import torch

from stratoscope.mitigation import (
    Anchor,
    LossTerms,
    ReferenceStates,
    TrainableSpec,
    Weights,
    answer_rows,
    dropped_spans,
    measure_reference,
    separation,
    unfreeze,
)
from stratoscope.mitigation.objective import Counts, MicroBatch, MitigationObjective
from stratoscope.models import LoadedModel, kept_layers, load_model, without_layers
from tests.mitigation.spawned import corpus
from tests.tiny import load_tiny

QUESTIONS, TEXTS = (0, 1, 2), (0, 1)
CORPUS = corpus()


def wide_model(folder: Path) -> LoadedModel:
    """A tiny GPT-2 in double precision; others compute their norms in single, and differences would drown in that."""
    model = load_tiny("gpt2", folder)
    model.network.double()
    return model


def objective(
    model: LoadedModel, frozen: LoadedModel, terms: LossTerms, dropped: tuple[int, ...] = (), max_padding: float = 0.1
) -> MitigationObjective:
    layer_of = kept_layers(len(frozen.anatomy), dropped)
    reference = measure_reference(
        ReferenceStates(frozen, layer_of), range(len(frozen.anatomy)), answer_rows(CORPUS.questions, filler=0)
    )
    layers = [1, 2] if dropped else [1, 3]
    return MitigationObjective(
        unfreeze(model, TrainableSpec(tuple(layers)), seed=0),
        model.anatomy,
        layers=layers,
        spans=dropped_spans(len(frozen.anatomy), dropped),
        terms=terms,
        corpus=CORPUS,
        reference=reference,
        filler=0,
        max_padding=max_padding,
    )


def micro() -> MicroBatch:
    wrong = sum(len(CORPUS.questions[i].wrong) for i in QUESTIONS)
    return MicroBatch(QUESTIONS, TEXTS, [wrong], Counts.of(CORPUS, QUESTIONS, TEXTS))


@pytest.mark.parametrize(
    ("terms", "dropped"),
    [
        (LossTerms(Weights(1.0, 0.5, 0.7, 0.9, 0.0, 0.3), temperature=0.3), ()),
        (LossTerms(Weights(contrastive=1.0), temperature=0.3, anchor="frozen"), ()),
        (LossTerms(Weights(forgetting=1.0, hidden=0.5, text=0.3), softening=2.0), (2,)),
    ],
    ids=["fine-tuning", "anchored on the frozen model", "recovery"],
)
def test_gradients_are_what_differences_of_the_loss_say(
    terms: LossTerms, dropped: tuple[int, ...], tiny_model_folder: Path
) -> None:
    frozen, model = wide_model(tiny_model_folder), wide_model(tiny_model_folder)
    generator = torch.Generator().manual_seed(0)
    with without_layers(model, dropped) as student:
        loss_of = objective(student, frozen, terms, dropped)
        trained = [p for p in loss_of.parameters() if p.requires_grad]
        # Away from the frozen model, where the divergence would be flat.
        for parameter in trained:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)

        def loss() -> torch.Tensor:
            return sum(terms.weights.used()[name] * part for name, part in loss_of(micro()).items())

        assert set(loss_of(micro())) == set(terms.weights.used())
        gradients = torch.autograd.grad(loss(), trained)
        for _ in range(3):
            directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in trained]
            expected = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True)).item()
            ends = []
            for length in (1e-6, -2e-6):
                for parameter, direction in zip(trained, directions, strict=True):
                    parameter.data += length * direction
                ends.append(loss().item())
            for parameter, direction in zip(trained, directions, strict=True):
                parameter.data += 1e-6 * direction
            assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("anchor", ["question", "frozen"])
def test_the_loss_is_the_same_however_rows_are_grouped(anchor: Anchor, tiny_model_folder: Path) -> None:
    terms = LossTerms(Weights(1.0, 0.5, 0.7, 0.9, 0.0, 0.3), anchor=anchor)
    parts = []
    for max_padding in (1.0, 0.25, 0.0):
        frozen, model = wide_model(tiny_model_folder), wide_model(tiny_model_folder)
        parts.append(
            {k: v.item() for k, v in objective(model, frozen, terms, max_padding=max_padding)(micro()).items()}
        )
    assert parts[1] == pytest.approx(parts[0], rel=1e-9)
    assert parts[2] == pytest.approx(parts[0], rel=1e-9)


def test_separation_is_that_of_every_question_alone(tiny_model_folder: Path) -> None:
    model = load_model(str(tiny_model_folder), head=True)
    layers = tuple(range(len(model.anatomy)))
    reference = measure_reference(ReferenceStates(model, layers), layers, answer_rows(CORPUS.questions, filler=0))
    together = separation(model, CORPUS.questions, reference, layers)
    assert together.gap.shape == together.closer.shape == (len(CORPUS.questions), len(layers))
    alone = separation(model, CORPUS.questions[5:6], reference, layers)
    torch.testing.assert_close(torch.tensor(alone.gap), torch.tensor(together.gap[5:6]), atol=1e-5, rtol=0)
    question = CORPUS.questions[5]
    rows = [question.question + answer for answer in (question.right, *question.wrong)]
    with torch.no_grad():
        hidden = [
            model.network(torch.tensor([row]), output_hidden_states=True).hidden_states[2][0].double() for row in rows
        ]
    standard = [(h - reference.mean[1].double()) / reference.deviation[1].double() for h in hidden]
    end = len(question.question)
    cosines = [torch.cosine_similarity(s[end:].mean(dim=0), s[end - 1], dim=0).item() for s in standard]
    wrong = cosines[1:]
    assert alone.gap[0, 1] == pytest.approx(cosines[0] - sum(wrong) / len(wrong), abs=1e-5)
    assert alone.closer[0, 1] == pytest.approx(sum(c < cosines[0] for c in wrong) / len(wrong))


def test_without_a_layer_the_layers_behind_it_are_numbered_as_in_the_whole_model(tiny_model_folder: Path) -> None:
    model = load_model(str(tiny_model_folder), head=True)
    layers = tuple(range(len(model.anatomy)))
    reference = measure_reference(ReferenceStates(model, layers), layers, answer_rows(CORPUS.questions, filler=0))
    whole = separation(model, CORPUS.questions, reference, layers)
    with without_layers(model, (3,)) as pruned:
        result = separation(pruned, CORPUS.questions, reference, (0, 1, 2))
    torch.testing.assert_close(torch.tensor(result.gap), torch.tensor(whole.gap[:, :3]), atol=1e-5, rtol=0)
