"""Token ids as columns of a shard, for shards that CPU tasks encode before the actors get them."""

from collections.abc import Sequence
from functools import cache
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import numpy as np

from stratoscope.models import ModelSource, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@cache
def cached_tokenizer(source: ModelSource, trust_remote_code: bool) -> "PreTrainedTokenizerBase":
    """Return the tokenizer of a model, which each process loads once."""
    return load_tokenizer(source, trust_remote_code=trust_remote_code)


def pack_ids(rows: Sequence[Sequence[int]]) -> bytes:
    """Return the ids of all rows as bytes of int32."""
    return np.fromiter(chain.from_iterable(rows), np.int32, sum(map(len, rows))).tobytes()


def unpack_ids(packed: bytes, lengths: Sequence[int]) -> list[memoryview]:
    """Return the ids of each row, given the rows' lengths."""
    ids = memoryview(packed).cast("i")
    return [ids[start:end] for start, end in pairwise([0, *np.cumsum(lengths, dtype=int).tolist()])]
