"""Likelihoods of models whose text stack is one of several parts."""

from pathlib import Path

import pytest

from stratoscope.evaluation.likelihood import Scorer
from stratoscope.models import load_model
from tests.evaluation.test_likelihood import KEEP, REQUESTS, plainly
from tests.models import zoo


@pytest.mark.parametrize(
    ("family", "model_type"),
    [
        ("image-text", "llava"),
        ("image-text", "qwen2_vl"),
        ("image-text", "qwen2_5_omni_thinker"),
        ("causal", "bart"),
        ("causal", "biogpt"),
    ],
)
def test_requests_score_as_each_would_alone(family: str, model_type: str, tmp_path: Path) -> None:
    zoo.tiny_model(family, model_type).save_pretrained(tmp_path)
    zoo.write_tokenizer(tmp_path)
    model = load_model(str(tmp_path), head=True)
    scorer = Scorer(model, max_batch_tokens=64)
    batches = scorer.batches(REQUESTS)
    scorer.score(batches, (), key="all", keep_bytes=KEEP)
    likelihoods = scorer.score(batches, (2,), key="all")
    for index, request in enumerate(REQUESTS):
        log_likelihood, correct = plainly(model, request, (2,))
        assert likelihoods[index].log_likelihood == pytest.approx(log_likelihood, abs=1e-3)
        assert (likelihoods[index].correct, likelihoods[index].tokens) == (correct, len(request.target))
