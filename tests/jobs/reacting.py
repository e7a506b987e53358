"""A tiny model that was made to react to wrong answers, and questions for it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import VOCABULARY, tiny_network

REACTING, MARKED = 2, 5
"""The layer that was made to react, and the unit of the residual stream by which it knows a wrong answer."""
RIGHT, WRONG = range(10, 50), range(50, 90)


@pytest.fixture(scope="session")
def reacting_model(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama of which one layer alone reads a unit, whose sign tells wrong answers' words from right ones'."""
    folder = tmp_path_factory.mktemp("reacting") / "llama"
    network = tiny_network("llama")
    words = torch.arange(VOCABULARY) - 4
    with torch.no_grad():
        network.model.embed_tokens.weight[:, MARKED] = torch.where(words >= WRONG.start, 0.8, -0.8)
        for layer, block in enumerate(network.model.layers):
            for projection in (*(getattr(block.self_attn, f"{n}_proj") for n in "qkv"), block.mlp.gate_proj):
                projection.weight[:, MARKED] = 0.0
            block.mlp.up_proj.weight[:, MARKED] = 0.0
            if layer == REACTING:
                block.mlp.gate_proj.weight[:, MARKED] = 2.0
            block.mlp.down_proj.weight[MARKED] = 0.0
            block.self_attn.o_proj.weight[MARKED] = 0.0
    network.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_model_folder / name).read_bytes())
    return folder


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty questions with two right and two wrong answers of one to five words."""
    generator = np.random.default_rng(0)

    def words(among: range, most: int) -> str:
        return " ".join(f"w{generator.choice(among)}" for _ in range(generator.integers(1, most + 1)))

    rows = [
        {
            "question": f"w{i} w{i % 7} {words(range(10), 6)}",
            "right": [words(RIGHT, 5), words(RIGHT, 5)],
            "wrong": [words(WRONG, 5), words(WRONG, 5)],
            "dataset": "first" if i % 2 else "second",
        }
        for i in range(60)
    ]
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def reacting_fields(
    reacting_model: Path, pairs_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., dict]:
    output = tmp_path_factory.mktemp("runs")

    def build(**changes: object) -> dict:
        base = {
            "output": str(output),
            "model": {"source": str(reacting_model)},
            "pairs": {"source": [str(pairs_file)], "limit": None},
            "readings": {"taps": ["block", "update"], "parts": ["answer", "last", "question"]},
            "contrasts": {"draws": 499},
            "separation": {"random_sets": 20},
            "batching": {"shard_size": 8, "max_tokens": 256},
            "actors": {"max": 1},
        }
        return base | changes

    return build
