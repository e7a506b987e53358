"""Where the longest sequence of a batch decides how positions are scaled: a row has the results that it has alone."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config, PreTrainedConfig

from stratoscope.activations import Probe, Tap
from stratoscope.evaluation import GenerationPrompt, TextGenerator
from stratoscope.evaluation.likelihood import Scorer
from stratoscope.evaluation.rows import Request
from stratoscope.models import LoadedModel, bucket, describe_model, load_model, pad, resolve_source
from stratoscope.models.positions import PositionScaling, position_scaling
from tests.models import zoo
from tests.tiny import GROUPED, VOCABULARY

LIMIT = 32
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [1.0, 4.0, 8.0, 16.0],
    "original_max_position_embeddings": LIMIT,
}
SIZES = GROUPED | {"max_position_embeddings": 4 * LIMIT}
PHI3 = Phi3Config(**SIZES, original_max_position_embeddings=LIMIT, rope_parameters=LONGROPE)
DYNAMIC = LlamaConfig(
    **GROUPED | {"max_position_embeddings": LIMIT},
    rope_parameters={"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 8.0},
)
LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=60)


def save(config: PreTrainedConfig, folder: Path) -> str:
    """Save a random model of a configuration with large weights, and return its name."""
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    network.save_pretrained(folder)
    zoo.write_tokenizer(folder)
    return str(folder)


@pytest.fixture(scope="module", params=[PHI3, DYNAMIC], ids=["longrope", "dynamic"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(save(request.param, tmp_path_factory.mktemp("model")), head=True)


def draw(length: int, seed: int = 0) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(1000 * seed + length)
    return tuple(torch.randint(3, VOCABULARY, (length,), generator=generator).tolist())


def log_likelihoods(model: LoadedModel, requests: Sequence[Request]) -> list[float]:
    scorer = Scorer(model, 4096)
    scores = scorer.score(scorer.batches(requests), ())
    return [scores[i].log_likelihood for i in range(len(requests))]


def test_a_likelihood_does_not_depend_on_other_requests(model: LoadedModel) -> None:
    """Below, at and above the limit, with contexts of their own and with one context whose targets cross it."""
    own = [Request(draw(length), (5,)) for length in (LIMIT + 6, LIMIT - 2, LIMIT, LIMIT + 1, LIMIT + 3, LIMIT)]
    context = draw(LIMIT - 4, seed=1)
    shared = [Request(context, draw(length, seed=2)) for length in (2, 5, 6, 9, 5)]
    requests = [*own, *shared]
    alone = [log_likelihoods(model, [request])[0] for request in requests]
    assert log_likelihoods(model, requests) == pytest.approx(alone, abs=1e-4)
    with torch.inference_mode():
        for request, value in zip(requests, alone, strict=True):
            ids = torch.tensor([[*request.context, *request.target]])
            log_p = model.network(ids[:, :-1], use_cache=False).logits[0].log_softmax(-1)
            targets = ids[0, len(request.context) :, None]
            plain = log_p[len(request.context) - 1 :].gather(1, targets).sum()
            assert value == pytest.approx(float(plain), abs=1e-4)


def test_statistics_of_a_prompt_do_not_depend_on_other_prompts(model: LoadedModel) -> None:
    rows = [draw(length) for length in (LIMIT + 7, LIMIT - 3, LIMIT, LIMIT + 1, 5)]
    with Probe(model, (Tap.UPDATE,), (0.01,)) as probe:
        alone = [probe.measure(*pad([row], 0)).statistics.variance[0] for row in rows]
        together = probe.measure(*pad(rows, 0)).statistics.variance
        short = probe.measure(*pad(rows[1:3], 0)).statistics.variance
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    np.testing.assert_allclose(short, alone[1:3], rtol=1e-4)


def test_an_answer_does_not_depend_on_other_prompts(model: LoadedModel) -> None:
    """Some answers stay below the limit, some cross it, and some begin beyond it."""
    lengths = (LIMIT + 9, LIMIT - 3, LIMIT - 20, LIMIT - 2, LIMIT - 15, LIMIT + 4, LIMIT)
    prompts = [GenerationPrompt(draw(length), (), 8) for length in lengths]
    generator = TextGenerator(model, 4096)
    assert generator.ignores_padding
    batches = generator.batches(prompts)
    assert any(len(batch) > 1 for batch in batches)
    texts = generator.answer(prompts)
    for prompt, text in zip(prompts, texts, strict=True):
        ids = torch.tensor([prompt.ids])
        new = model.network.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
        assert text == model.tokenizer.decode(new, skip_special_tokens=True)


def test_dynamic_scaling_forgets_earlier_batches(tmp_path: Path) -> None:
    model = load_model(save(DYNAMIC, tmp_path), head=True)
    ids = torch.tensor([draw(LIMIT)])
    with torch.inference_mode():
        before = model.network(ids).logits
        model.network(torch.tensor([draw(2 * LIMIT)]))
        torch.testing.assert_close(model.network(ids).logits, before, rtol=0, atol=0)


def test_the_limit_is_read_before_the_model_is_loaded(tmp_path: Path, tiny_model_folder: Path) -> None:
    phi = save(PHI3, tmp_path / "phi")
    for head in (False, True):
        assert describe_model(resolve_source(phi), head=head).rescaled_after == LIMIT
        assert load_model(phi, head=head).scaling == PositionScaling(switches=(LIMIT,))
    assert describe_model(resolve_source(str(tiny_model_folder))).rescaled_after is None


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"rope_parameters": {"rope_type": "default"}}, PositionScaling()),
        ({"rope_parameters": None}, PositionScaling()),
        ({"rope_parameters": LONGROPE}, PositionScaling(switches=(LIMIT,))),
        ({"rope_parameters": {"type": "su"}, "original_max_position_embeddings": 9}, PositionScaling(switches=(9,))),
        (
            {"rope_parameters": {"full": LONGROPE, "sliding": {"rope_type": "dynamic"}, "none": None}},
            PositionScaling(switches=(LIMIT,), stretches=(64,)),
        ),
    ],
)
def test_parameters_of_every_layer_type_and_inner_network_are_read(config: dict, expected: PositionScaling) -> None:
    outer, inner = torch.nn.Module(), torch.nn.Module()
    outer.config = SimpleNamespace()
    inner.config = SimpleNamespace(max_position_embeddings=64, **config)
    outer.inner = inner
    assert position_scaling(outer) == expected


@given(LENGTHS, st.lists(st.integers(1, 200), max_size=2), st.lists(st.integers(1, 200), max_size=2))
def test_lengths_share_a_class_only_if_no_limit_separates_them(
    lengths: list[int], switches: list[int], stretches: list[int]
) -> None:
    scaling = PositionScaling(tuple(switches), tuple(stretches))
    a, b = min(lengths), max(lengths)
    crossed = any(a <= limit < b for limit in switches) or (a != b and any(b > limit for limit in stretches))
    assert scaling.separates(lengths) == crossed
    assert scaling.classes(sorted(lengths)) == sorted(scaling.classes(lengths))


@given(LENGTHS, st.integers(1, 400), st.integers(1, 200))
def test_batches_are_those_of_each_class(lengths: list[int], max_tokens: int, limit: int) -> None:
    classes = PositionScaling((limit,)).classes(lengths)
    batches = bucket(lengths, max_tokens, classes=classes)
    for key in set(classes):
        members = [i for i, own in enumerate(classes) if own == key]
        expected = [[members[p] for p in batch] for batch in bucket([lengths[i] for i in members], max_tokens)]
        assert [batch for batch in batches if classes[batch[0]] == key] == expected
    longest = [lengths[batch[0]] for batch in batches]
    assert longest == sorted(longest, reverse=True)
