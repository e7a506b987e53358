"""Encoding of prompts ahead of the actors that run the model, in tasks on CPUs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stratoscope.models import Encoded, Encoding, ModelSource, encode
from stratoscope.pipelines.sharded.packing import cached_tokenizer, pack_ids, unpack_ids


@dataclass(frozen=True)
class ShardEncoder:
    """Encodes the prompts of a shard: a pure function, which loads the tokenizer once in each process."""

    source: ModelSource
    trust_remote_code: bool
    policy: Encoding

    def __call__(self, shard: dict[str, Any]) -> dict[str, Any]:
        """Return the columns of a shard with token ids instead of texts."""
        encoded = encode(cached_tokenizer(self.source, self.trust_remote_code), shard["text"], self.policy)
        return {name: value for name, value in shard.items() if name != "text"} | pack_encoded(encoded)


def pack_encoded(encoded: list[Encoded]) -> dict[str, Any]:
    """Return encoded texts as columns: all ids as bytes of int32, and the length, truncation and error of each text."""
    return {
        "ids": pack_ids([e.ids for e in encoded]),
        "length": [len(e.ids) for e in encoded],
        "truncated": [e.truncated for e in encoded],
        "error": [e.error or "" for e in encoded],
    }


def unpack_encoded(columns: Mapping[str, Any]) -> list[Encoded]:
    """Return the encoded texts from the columns of `pack_encoded`."""
    rows = unpack_ids(columns["ids"], columns["length"])
    columns_of_rows = zip(rows, columns["truncated"], columns["error"], strict=True)
    return [Encoded(ids, truncated, error or None) for ids, truncated, error in columns_of_rows]
