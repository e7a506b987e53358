"""Likelihoods of requests under a model without some of its layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stratoscope.evaluation.prefix import PrefixCache
from stratoscope.evaluation.rows import Batch, Request, TokenRow, lay_out, make_batches
from stratoscope.evaluation.tolerance import LOG_LIKELIHOOD_TOLERANCE
from stratoscope.models import LoadedModel, logits_at, padding_limit, to_device

LONGEST_SHARED = 10_240
"""Longest row with a mask of its own, in tokens; the memory of the mask grows with the square of the length."""
PROBED_ROWS = 2
"""Number of the shortest, and of the longest, rows with several targets on which sharing of contexts is verified."""
WINDOW_FIELDS = ("sliding_window", "window_size", "attention_chunk_size", "attention_window_size", "local_attention")
"""Fields of configurations for the number of tokens that a layer of local attention covers."""


@dataclass(frozen=True)
class Likelihood:
    """The likelihood of a target under a model."""

    log_likelihood: float
    """NaN or infinite where the model's logits are not finite."""
    correct: int
    """Tokens of the target that are the model's most likely choice."""
    tokens: int

    @property
    def greedy(self) -> bool:
        """Whether greedy decoding would have produced the target."""
        return self.correct == self.tokens


class Scorer:
    """Computes likelihoods with one model, whole or with layers dropped.

    Args:
        model: with its causal head.
        max_batch_tokens: largest number of tokens in a batch, padding included.
    """

    def __init__(self, model: LoadedModel, max_batch_tokens: int) -> None:
        self.model = model
        self.max_batch_tokens = max_batch_tokens
        self.cache = PrefixCache(model)

    def batches(self, requests: Sequence[Request]) -> list[Batch]:
        """Return the batches of requests, with shared contexts where the model supports them."""
        rows = self._lay_out(requests, share_contexts=True)
        if not self._contexts_can_be_shared(requests, rows):
            rows = self._lay_out(requests, share_contexts=False)
        return self._make_batches(rows)

    def score(
        self, batches: Sequence[Batch], dropped: Sequence[int], *, key: str | None = None, keep_bytes: int = 0
    ) -> dict[int, Likelihood]:
        """Return the likelihood of each request, by its number.

        Args:
            batches: of all requests.
            dropped: layers to leave out.
            key: name of exactly these batches in the cache of hidden states; None does not use the cache.
            keep_bytes: most memory for hidden states of this set, from which others start; 0 keeps none.
        """
        predictions: list[tuple[torch.Tensor, torch.Tensor]] = []
        with torch.inference_mode(), self.cache.run(tuple(sorted(dropped)), key, batches, keep_bytes) as step:
            for index, batch in enumerate(batches):
                with step(index):
                    predictions.append(self._predict(batch))
        # Fetched after the last batch, so that a GPU never waits for the host between batches.
        total: dict[int, float] = {}
        correct: dict[int, int] = {}
        count: dict[int, int] = {}
        for batch, (chosen, best) in zip(batches, predictions, strict=True):
            for request, value, hit in zip(batch.requests, chosen.tolist(), best.tolist(), strict=True):
                total[request] = total.get(request, 0.0) + value
                correct[request] = correct.get(request, 0) + int(hit)
                count[request] = count.get(request, 0) + 1
        return {request: Likelihood(total[request], correct[request], count[request]) for request in total}

    def _predict(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the log-probability of each target token, and whether it is the most likely, shape (picks,) each.

        Both stay on the model's device.
        """
        device, network = self.model.device, self.model.network
        mask: dict[str, Any] = {}
        if batch.visible is not None and batch.positions is not None:
            # An additive mask, which every attention implementation accepts.
            hidden = torch.zeros(batch.visible.shape, dtype=network.dtype)
            hidden.masked_fill_(~batch.visible, torch.finfo(network.dtype).min)
            mask = {"attention_mask": to_device(hidden, device), "position_ids": to_device(batch.positions, device)}
        ids = to_device(batch.ids, device)
        logits = logits_at(network, batch.keep, device, input_ids=ids, use_cache=False, **mask).float()
        kept, tokens = to_device(batch.kept, device), to_device(batch.tokens, device)
        chosen = logits[kept, tokens] - torch.logsumexp(logits, dim=-1)[kept]
        return chosen.double(), logits.argmax(dim=-1)[kept] == tokens

    @property
    def _filler(self) -> int:
        return int(self.model.tokenizer.pad_token_id or 0)

    def _lay_out(self, requests: Sequence[Request], *, share_contexts: bool) -> list[TokenRow]:
        return lay_out(
            requests,
            share_contexts=share_contexts,
            longest_shared=self._longest_shared,
            scaling=self.model.scaling,
        )

    @property
    def _longest_shared(self) -> int:
        """Longest row that the attention of all layers covers, and whose mask fits into memory."""
        config = self.model.network.config.get_text_config()
        windows = [getattr(config, name, None) for name in WINDOW_FIELDS]
        return min([LONGEST_SHARED, *(window for window in windows if isinstance(window, int) and window > 0)])

    def _make_batches(self, rows: Sequence[TokenRow]) -> list[Batch]:
        limit = padding_limit(self.model.device)
        return make_batches(rows, self.max_batch_tokens, self._filler, limit, self.model.scaling)

    def _contexts_can_be_shared(self, requests: Sequence[Request], rows: Sequence[TokenRow]) -> bool:
        """Verify on the model itself that targets score in one row as they do in rows of their own."""
        branched = sorted((row for row in rows if row.branched), key=lambda row: len(row.ids))
        if not branched:
            return True
        # A layer of local attention treats short rows alike, and long ones not.
        probed = [*branched[:PROBED_ROWS], *branched[PROBED_ROWS:][-PROBED_ROWS:]]
        probes = [requests[i] for i in sorted({pick.request for row in probed for pick in row.picks})]
        results = []
        for share in (False, True):
            batches = self._make_batches(self._lay_out(probes, share_contexts=share))
            try:
                results.append(self.score(batches, ()))
            except torch.OutOfMemoryError:
                raise
            except (TypeError, ValueError, RuntimeError, IndexError):
                return False
        alone, shared = results
        differences = [abs(alone[i].log_likelihood - shared[i].log_likelihood) for i in alone]
        return max(differences) <= LOG_LIKELIHOOD_TOLERANCE[self.model.network.dtype]
