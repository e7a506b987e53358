from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, GPTNeoConfig, Llama4TextConfig, PreTrainedConfig

from stratoscope.evaluation import likelihood
from stratoscope.evaluation.likelihood import Scorer
from stratoscope.evaluation.rows import Batch, Request, lay_out, make_batches
from stratoscope.models import LoadedModel, find_anatomy, without_layers
from tests.models.test_prune import load_tiny
from tests.tiny import CONFIGURATIONS, ENCODERS

ARCHITECTURES = [name for name in CONFIGURATIONS if name not in ENCODERS]
CONTEXTS = ((5, 9, 33), (7, 21, 60, 11), (4,), (90, 8, 8, 41, 17, 3))
TARGETS = ((9,), (12, 40, 3), (77, 5), (12, 40), (100,))
REQUESTS = [Request(context, target) for context in CONTEXTS for target in TARGETS]
KEEP = 10**9
SIZES = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 128}
LOCAL_ATTENTION = [
    GPTNeoConfig(
        **SIZES, num_layers=4, num_heads=4, attention_types=[[["global", "local"], 2]], window_size=32,
    ),
    Llama4TextConfig(
        **SIZES, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_local_experts=2,
        num_experts_per_tok=1, intermediate_size_mlp=48, interleave_moe_layer_step=5, attention_chunk_size=32,
        pad_token_id=0, layer_types=[*["chunked_attention"] * 3, "full_attention"],
    ),
]  # fmt: skip


def plainly(model: LoadedModel, request: Request, dropped: tuple[int, ...] = ()) -> tuple[float, int]:
    """The likelihood of one request by itself."""
    ids = torch.tensor([[*request.context, *request.target]])
    with torch.inference_mode(), without_layers(model, dropped) as pruned:
        log_p = pruned.network(ids, use_cache=False).logits[0].float().log_softmax(-1)
    places = range(len(request.context) - 1, ids.shape[1] - 1)
    hits = [int(log_p[p].argmax()) == int(ids[0, p + 1]) for p in places]
    return sum(float(log_p[p, ids[0, p + 1]]) for p in places), sum(hits)


def shares_contexts(batches: Sequence[Batch]) -> bool:
    return any(batch.visible is not None for batch in batches)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_requests_score_as_each_would_alone(name: str, tiny_model_folder: Path) -> None:
    model = load_tiny(name, tiny_model_folder)
    scorer = Scorer(model, max_batch_tokens=64)
    batches = scorer.batches(REQUESTS)
    likelihoods = scorer.score(batches, (1,))
    for index, request in enumerate(REQUESTS):
        log_likelihood, correct = plainly(model, request, (1,))
        assert likelihoods[index].log_likelihood == pytest.approx(log_likelihood, abs=2e-4)
        assert (likelihoods[index].correct, likelihoods[index].tokens) == (correct, len(request.target))
    assert shares_contexts(batches)


@pytest.mark.parametrize("config", LOCAL_ATTENTION, ids=lambda config: config.model_type)
@pytest.mark.parametrize("fields_are_known", [True, False])
def test_long_contexts_are_not_shared_under_local_attention(
    config: PreTrainedConfig, fields_are_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fields_are_known:
        monkeypatch.setattr(likelihood, "WINDOW_FIELDS", ())
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model = LoadedModel(network, SimpleNamespace(pad_token_id=0), find_anatomy(network, 4), network.device)
    generator = torch.Generator().manual_seed(1)

    def draw(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 128, (length,), generator=generator).tolist())

    contexts = [draw(length) for length in (6, 6, 6, 40, 40)]
    requests = [Request(context, draw(length)) for context in contexts for length in (2, 3, 4, 5)]
    scorer = Scorer(model, max_batch_tokens=4096)
    for part in (requests[:12], requests):
        batches = scorer.batches(part)
        likelihoods = scorer.score(batches, ())
        for index, request in enumerate(part):
            assert likelihoods[index].log_likelihood == pytest.approx(plainly(model, request)[0], abs=2e-3)


def test_contexts_are_shared_where_the_model_allows_it(tiny_model_folder: Path) -> None:
    model = load_tiny("llama", tiny_model_folder)
    assert shares_contexts(Scorer(model, max_batch_tokens=64).batches(REQUESTS))

    class Forgetful(torch.nn.Module):
        """A rotary embedding that counts places instead of reading positions."""

        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor, **_given: torch.Tensor) -> torch.Tensor:
            return self.inner(x, torch.arange(x.shape[1])[None])

    model.network.model.rotary_emb = Forgetful(model.network.model.rotary_emb)
    scorer = Scorer(model, max_batch_tokens=64)
    batches = scorer.batches(REQUESTS)
    likelihoods = scorer.score(batches, ())
    assert not shares_contexts(batches)
    for index, request in enumerate(REQUESTS):
        assert likelihoods[index].log_likelihood == pytest.approx(plainly(model, request)[0], abs=2e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("kept_states", [KEEP, 6_000])
def test_starting_behind_kept_states_changes_no_bit(name: str, kept_states: int, tiny_model_folder: Path) -> None:
    model = load_tiny(name, tiny_model_folder)
    plain, cached = Scorer(model, 64), Scorer(model, 64)
    batches = plain.batches(REQUESTS)
    cached.score(batches, (), key="a", keep_bytes=kept_states)
    for dropped in [(3,), (2,), (1, 3), (0,), (1, 2), ()]:
        assert cached.score(batches, dropped, key="a") == plain.score(batches, dropped)
    cached.score(batches, (2,), key="a", keep_bytes=kept_states)
    for dropped in [(2, 3), (1, 2), (3,), (0, 2), (2,)]:
        assert cached.score(batches, dropped, key="a") == plain.score(batches, dropped)
    assert cached.cache.layers_run < plain.cache.layers_run + 7 * len(batches)


def test_a_set_that_differs_late_runs_only_the_layers_behind(tiny_model_folder: Path) -> None:
    model = load_tiny("llama", tiny_model_folder)
    scorer = Scorer(model, 64)
    batches = scorer.batches(REQUESTS)
    scorer.score(batches, (1,), key="a", keep_bytes=KEEP)
    before = scorer.cache.layers_run
    scorer.score(batches, (1, 3), key="a")
    assert scorer.cache.layers_run == before
    scorer.score(batches, (1, 2), key="a")
    assert scorer.cache.layers_run == before + len(batches)
    scorer.score(batches, (1, 2), key="b")
    assert scorer.cache.layers_run == before + 3 * len(batches)


tokens = st.lists(st.integers(3, 127), min_size=1, max_size=6).map(tuple)
requests = st.lists(st.builds(Request, tokens, tokens), min_size=1, max_size=20)


@settings(max_examples=200)
@given(requests, st.booleans(), st.integers(6, 40))
def test_every_target_token_is_predicted_once_from_the_place_before_it(
    given_requests: list[Request], share: bool, longest: int
) -> None:
    rows = lay_out(given_requests, share_contexts=share, longest_shared=longest)
    assert all(len(row.ids) <= longest for row in rows if row.branched)
    predicted: dict[int, list[int]] = {}
    for batch in make_batches(rows, 64, 0, 0.1):
        places = batch.keep.nonzero().tolist()
        for request, token, kept in zip(batch.requests, batch.tokens.tolist(), batch.kept.tolist(), strict=True):
            row, place = places[kept]
            seen = batch.ids[row] if batch.visible is None else batch.ids[row][batch.visible[row, 0, place]]
            prefix = seen[: place + 1].tolist() if batch.visible is None else seen.tolist()
            step = len(predicted.setdefault(request, []))
            wanted = [*given_requests[request].context, *given_requests[request].target[:step]]
            assert prefix == wanted
            if batch.positions is not None:
                assert batch.positions[row, place] == len(wanted) - 1
            predicted[request].append(token)
    assert {i: tuple(p) for i, p in predicted.items()} == {i: r.target for i, r in enumerate(given_requests)}


def test_states_of_a_set_that_ran_out_of_memory_are_not_used(tiny_model_folder: Path) -> None:
    model = load_tiny("llama", tiny_model_folder)
    scorer, plain = Scorer(model, 16), Scorer(model, 16)
    batches = scorer.batches(REQUESTS)
    predict, number = scorer._predict, iter(range(len(batches)))

    def predict_two(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        if next(number) == 2:
            raise torch.OutOfMemoryError("out of memory")
        return predict(batch)

    scorer._predict = predict_two
    with pytest.raises(torch.OutOfMemoryError):
        scorer.score(batches, (2,), key="a", keep_bytes=KEEP)
    scorer._predict = predict
    assert scorer.score(batches, (2, 3), key="a") == plain.score(batches, (2, 3))
