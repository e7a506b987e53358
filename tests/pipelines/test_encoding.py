"""Prompts that were encoded ahead of the actor."""

from pathlib import Path

import pytest

from stratoscope.models import Encoding, encode, load_tokenizer, resolve_source
from stratoscope.pipelines.score.encoding import ShardEncoder, pack_encoded, unpack_encoded


@pytest.mark.parametrize("too_long", ["truncate", "refuse"])
def test_a_shard_comes_back_as_it_would_be_encoded_by_the_actor(tiny_model_folder: Path, too_long: str) -> None:
    source = resolve_source(str(tiny_model_folder))
    policy = Encoding(chat=False, bos="auto", max_tokens=4, too_long=too_long)  # type: ignore[arg-type]
    texts = ["w1 w2", "", "w3 w4 w5 w6 w7 w8", "w9"]
    shard = {"shard": 2, "start": 8, "prompt_id": list("abcd"), "group": ["x"] * 4, "text": texts}
    prepared = ShardEncoder(source, trust_remote_code=False, policy=policy)(shard)
    assert "text" not in prepared
    assert {name: prepared[name] for name in ("shard", "start", "prompt_id")} == {
        name: shard[name] for name in ("shard", "start", "prompt_id")
    }
    expected = encode(load_tokenizer(source), texts, policy)
    unpacked = unpack_encoded(prepared)
    assert [(tuple(e.ids), e.truncated, e.error) for e in unpacked] == [
        (tuple(e.ids), e.truncated, e.error) for e in expected
    ]


def test_nothing_is_packed_as_nothing() -> None:
    assert unpack_encoded(pack_encoded([])) == []
