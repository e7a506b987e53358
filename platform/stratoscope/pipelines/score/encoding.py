"""Encoding of prompts ahead of the actors that run the model, in tasks on CPUs."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from stratoscope.models import Encoded, Encoding, ModelSource, encode, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ShardEncoder:
    """Encodes the prompts of a shard: a pure function, which loads the tokenizer once in each process."""

    source: ModelSource
    trust_remote_code: bool
    policy: Encoding

    def __call__(self, shard: dict[str, Any]) -> dict[str, Any]:
        """Return the columns of a shard with token ids in place of texts."""
        encoded = encode(_tokenizer(self.source, self.trust_remote_code), shard["text"], self.policy)
        return {name: value for name, value in shard.items() if name != "text"} | pack_encoded(encoded)


@cache
def _tokenizer(source: ModelSource, trust_remote_code: bool) -> "PreTrainedTokenizerBase":
    return load_tokenizer(source, trust_remote_code=trust_remote_code)


def pack_encoded(encoded: list[Encoded]) -> dict[str, Any]:
    """Return encoded texts as columns: all ids as bytes of int32, and the length, truncation and error of each text."""
    lengths = [len(e.ids) for e in encoded]
    ids = np.fromiter(chain.from_iterable(e.ids for e in encoded), np.int32, sum(lengths))
    return {
        "ids": ids.tobytes(),
        "length": lengths,
        "truncated": [e.truncated for e in encoded],
        "error": [e.error or "" for e in encoded],
    }


def unpack_encoded(columns: Mapping[str, Any]) -> list[Encoded]:
    """Return the encoded texts of such columns."""
    ends = np.cumsum(columns["length"]).tolist()
    ids, starts = memoryview(columns["ids"]).cast("i"), [0, *ends]
    rows = zip(starts, ends, columns["truncated"], columns["error"], strict=False)
    return [Encoded(ids[start:end], truncated, error or None) for start, end, truncated, error in rows]
