"""Paths that hold tensors, on the meta device: a tensor that was left on the CPU ends them as it would on a GPU.

That device has no values. What a step decides by values is prepared outside, and what is copied to the host at its end
becomes zeros. Generation has no such form: each token decides how its loop goes on.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.fx.experimental._config
from torch import Tensor
from torch.utils._pytree import tree_map

from stratoscope.activations import Probe, Span, Tap, run_head
from stratoscope.evaluation.likelihood import Scorer
from stratoscope.evaluation.rows import Request, lay_out
from stratoscope.forecasting import FORECASTERS, Shape, TimeSieveSettings
from stratoscope.forecasting.faithful import FaithfulLoss, faithful_loss
from stratoscope.mitigation import Anchor, LossTerms, ReferenceStates, Weights
from stratoscope.mitigation.examples import PaddedRows
from stratoscope.mitigation.objective import Counts, MicroBatch, MitigationObjective
from stratoscope.models import LoadedModel
from tests.mitigation.spawned import corpus
from tests.tiny import CONFIGURATIONS, ENCODERS, load_tiny

META = torch.device("meta")
CORPUS = corpus()


def on_meta(name: str, folder: Path) -> LoadedModel:
    model = load_tiny(name, folder)
    return LoadedModel(model.network.to(META, torch.bfloat16), model.tokenizer, model.anatomy, META)


@pytest.fixture
def without_values(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Decide without values: all is taken, no row holds several texts or is cut, and zeros arrive on the host."""
    copy = Tensor.cpu
    monkeypatch.setattr(Tensor, "cpu", lambda t: torch.zeros_like(t, device="cpu") if t.is_meta else copy(t))
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda *_, **__: None)
    monkeypatch.setattr("transformers.masking_utils._ignore_causal_mask_sdpa", lambda *_, **__: False)
    monkeypatch.setattr(torch, "bincount", lambda values, minlength: values.new_zeros(minlength))
    monkeypatch.setattr(PaddedRows, "parts", lambda rows, _: iter([(list(range(len(rows.ids))), rows)]))
    with torch.fx.experimental._config.patch(meta_nonzero_assume_all_nonzero=True):
        yield


@pytest.mark.usefixtures("without_values")
@pytest.mark.parametrize("name", [name for name in CONFIGURATIONS if name not in ENCODERS])
def test_evaluation(name: str, tiny_model_folder: Path) -> None:
    requests = [Request((5, 9, 33), (9,)), Request((5, 9, 33), (12, 40, 3)), Request((7, 21), (77, 5))]
    scorer = Scorer(on_meta(name, tiny_model_folder), max_batch_tokens=64)
    for batch in scorer._make_batches(lay_out(requests, share_contexts=True)):
        chosen, best = scorer._predict(batch)
        assert chosen.shape == best.shape


def spread_over(model: LoadedModel, first: int, device: torch.device) -> None:
    """Put the upper layers on another device; as accelerate does it, a module moves its own arguments."""
    base = model.network.base_model
    for module in (*base.layers[first:], base.norm):
        module.to_empty(device=device)
        module.forward = partial(move_and_call, module.forward, device)


def move_and_call(forward: Callable[..., object], device: torch.device, *args: object, **options: object) -> object:
    args, options = tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, (args, options))
    return forward(*args, **options)


@pytest.fixture
def zeros_leave_the_meta_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a copy from the meta device to another consist of zeros."""
    to = Tensor.to

    def copy(tensor: Tensor, *args: object, **options: object) -> Tensor:
        aim = args[0] if args else None
        place = aim.device if isinstance(aim, Tensor) else aim
        leaves = tensor.is_meta and isinstance(place, torch.device) and place.type != "meta"
        return to(torch.zeros_like(tensor, device="cpu") if leaves else tensor, *args, **options)

    monkeypatch.setattr(Tensor, "to", copy)


@pytest.mark.usefixtures("without_values", "zeros_leave_the_meta_device")
def test_a_model_spread_over_two_devices(tiny_model_folder: Path) -> None:
    """Sums lie on the device of the lower layers; each device has its own bins and segments."""
    model = on_meta("llama", tiny_model_folder)
    spread_over(model, 2, torch.device("cpu"))
    ids = torch.ones(2, 6, dtype=torch.long)
    with Probe(model, tuple(Tap), (0.01,), [(0, 2), (1, 3)]) as probe:
        assert not probe._can_fuse()
        measured = probe.measure(ids, ids)
        assert probe._bins.devices == {META, torch.device("cpu")}
    assert measured.statistics.shape == (2, 4, len(Tap))
    assert measured.span_cosine.shape == (2, 2)


@pytest.mark.usefixtures("without_values")
def test_own_answers(tiny_model_folder: Path) -> None:
    """Answers are read in part, by a pass that predicts their tokens too."""
    model = on_meta("llama", tiny_model_folder)
    ids, mask, keep = (torch.ones(2, 6, dtype=torch.long) for _ in range(3))

    def forward(device_ids: Tensor, device_mask: Tensor) -> None:
        run_head(model, device_ids, device_mask, keep.bool())

    with Probe(model, tuple(Tap), (0.01,)) as probe:
        statistics = probe.measure(ids, mask, [Span(0, 2, 6), Span(1, 3, 6)], forward).statistics
    assert statistics.shape == (2, 4, len(Tap))


@pytest.mark.usefixtures("without_values")
@pytest.mark.parametrize("anchor", ["question", "frozen"])
def test_mitigation(anchor: Anchor, tiny_model_folder: Path) -> None:
    frozen, model = (on_meta("llama", tiny_model_folder) for _ in range(2))
    layers = tuple(range(len(model.anatomy)))
    width = frozen.network.config.hidden_size
    states = {layer: torch.zeros(width, device=META) for layer in layers}
    reference = ReferenceStates(frozen, layers, states, states)
    terms = LossTerms(Weights(1.0, 0.5, 0.7, 0.9, 0.0, 0.3), anchor=anchor)
    objective = MitigationObjective(
        model.network, model.anatomy, layers=[1, 3], spans=[], terms=terms, corpus=CORPUS, reference=reference,
        filler=0, max_padding=1.0,
    )  # fmt: skip
    wrong = sum(len(CORPUS.questions[i].wrong) for i in (0, 1, 2))
    micro = MicroBatch((0, 1, 2), (0, 1), [wrong], Counts.of(CORPUS, (0, 1, 2), (0, 1)))
    sum(objective(micro).values()).backward()
    gradients = {name for name, p in model.network.named_parameters() if p.grad is not None and p.grad.device == META}
    assert any("layers.1." in name for name in gradients)


@pytest.mark.parametrize("name", FORECASTERS)
def test_forecasters(name: str) -> None:
    forecaster = FORECASTERS[name]
    with META:
        model = forecaster.make(Shape(lookback=16, horizon=8, channels=3), TimeSieveSettings())
        windows, target = torch.zeros(4, 16, 3), torch.zeros(4, 8, 3)
        if forecaster.trainable:
            faithful_loss(model, (windows, target, target), FaithfulLoss(), torch.Generator()).backward()
        else:
            assert model(windows).values.device == META
