"""Texts that a model generates: equal for equal seeds, of the model's own distribution, and no longer than asked."""

from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from stratoscope.evaluation import TextSampling, sample_texts, sampling
from stratoscope.models import LoadedModel, load_model


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> LoadedModel:
    return load_model(str(tiny_model_folder), head=True)


def test_equal_seeds_generate_equal_texts_and_others_do_not(model: LoadedModel) -> None:
    settings = TextSampling(number=12, max_tokens=9, seed=3)
    texts = sample_texts(model, settings)
    torch.manual_seed(99)
    assert sample_texts(model, settings) == texts
    assert sample_texts(model, TextSampling(12, 9, seed=4)) != texts
    assert len(texts) == 12
    assert len(set(texts)) == 12
    assert all(1 < len(text) <= 9 for text in texts)


def test_random_numbers_of_the_process_are_left_as_they_were(model: LoadedModel) -> None:
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    sample_texts(model, TextSampling(3, 6))
    assert torch.equal(torch.rand(4), expected)


def test_first_tokens_are_words_of_the_vocabulary(model: LoadedModel) -> None:
    firsts = sampling.first_tokens(model, 5000, 0)
    assert set(firsts) == set(range(4, 128))


def test_texts_end_before_the_end_of_the_sequence(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.network.generation_config, "eos_token_id", list(range(2, 66)))
    texts = sample_texts(model, TextSampling(60, 12))
    assert 20 < len(texts) < 60  # half of the tokens end a text, and texts of one token are left out
    assert all(token not in range(2, 66) for text in texts for token in text[1:])


def test_tokens_have_the_probabilities_of_the_model_at_each_temperature(model: LoadedModel) -> None:
    """The generation configuration of a checkpoint, such as its top-k, does not apply."""
    model.network.generation_config.top_k = 1
    start = sampling.first_tokens(model, 1, 0)
    with torch.inference_mode():
        logits = model.network(torch.tensor([start])).logits[0, -1].double()
    for temperature in (0.25, 1.0):
        texts = [
            text
            for seed in range(2)
            for text in sampling._sample_batch(model, start * 4000, TextSampling(1, 2, temperature, seed))
        ]
        nexts = torch.tensor([text[1] for text in texts if len(text) == 2])
        observed = torch.bincount(nexts, minlength=128) / len(texts)
        expected = (logits / temperature).softmax(-1)
        expected[2] = 0  # the end of the sequence
        assert (observed - expected).abs().max() < 0.02
    model.network.generation_config.top_k = 50


def test_large_numbers_run_in_batches(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    whole = sampling._sample_batch

    def counting(model: LoadedModel, firsts: list[int], settings: TextSampling) -> list[tuple[int, ...]]:
        sizes.append(len(firsts))
        return whole(model, firsts, settings)

    monkeypatch.setattr(sampling, "_sample_batch", counting)
    monkeypatch.setattr(sampling, "CPU_TOKENS", 40)
    assert len(sample_texts(model, TextSampling(10, 8))) == 10
    assert sizes == [5, 5]


def test_the_generation_configuration_of_the_model_does_not_apply(model: LoadedModel) -> None:
    sampling = TextSampling(8, 8, seed=3)
    plain = sample_texts(model, sampling)
    own = model.network.generation_config
    try:
        model.network.generation_config = GenerationConfig(**own.to_diff_dict(), min_p=0.9, no_repeat_ngram_size=1)
        assert sample_texts(model, sampling) == plain
    finally:
        model.network.generation_config = own
