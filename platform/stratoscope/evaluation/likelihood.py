"""Likelihoods of requests under a model without some of its layers; what two such models share is computed once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stratoscope.evaluation.prefix import PrefixCache
from stratoscope.evaluation.rows import Batch, Request, TokenRow, lay_out, make_batches
from stratoscope.models import LoadedModel

SAME = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.3}
"""How far log-likelihoods may lie apart that are computed in rows of another shape."""
TRIED = 8
"""Requests on which sharing contexts is tried out."""


@dataclass(frozen=True)
class Likelihood:
    """What a model thinks of a target."""

    log_likelihood: float
    correct: int
    """Tokens of it that the model itself would have chosen."""
    tokens: int

    @property
    def greedy(self) -> bool:
        """Whether the model would have written just this."""
        return self.correct == self.tokens


class Scorer:
    """Computes likelihoods with one model, whole or with layers dropped.

    Args:
        model: with its causal head.
        max_batch_tokens: most tokens of a batch, padding included.
    """

    def __init__(self, model: LoadedModel, max_batch_tokens: int) -> None:
        self.model = model
        self.max_batch_tokens = max_batch_tokens
        self.cache = PrefixCache(model)
        self._shares: bool | None = None

    def batches(self, requests: Sequence[Request]) -> list[Batch]:
        """Return the batches in which requests are computed, contexts shared where the model allows that."""
        rows = lay_out(requests, share_contexts=self._shares is not False, longest_shared=self._window)
        if self._shares is None and any(row.branched for row in rows):
            self._shares = self._contexts_can_be_shared(requests, rows)
            rows = lay_out(requests, share_contexts=self._shares, longest_shared=self._window)
        return make_batches(rows, self.max_batch_tokens, self._filler)

    def score(
        self, batches: Sequence[Batch], dropped: Sequence[int], *, key: str | None = None, keep_bytes: int = 0
    ) -> dict[int, Likelihood]:
        """Return the likelihood of each request, by its number.

        Args:
            batches: of all requests.
            dropped: layers to leave out.
            key: names these very batches for the cache of hidden states; None does without.
            keep_bytes: most memory for hidden states of this set, for others to start from; 0 keeps none.
        """
        total: dict[int, float] = {}
        correct: dict[int, int] = {}
        count: dict[int, int] = {}
        with torch.inference_mode(), self.cache.run(tuple(sorted(dropped)), key, batches, keep_bytes) as step:
            for index, batch in enumerate(batches):
                with step(index):
                    chosen, best = self._predict(batch)
                for request, value, hit in zip(batch.requests, chosen.tolist(), best.tolist(), strict=True):
                    total[request] = total.get(request, 0.0) + value
                    correct[request] = correct.get(request, 0) + int(hit)
                    count[request] = count.get(request, 0) + 1
        return {request: Likelihood(total[request], correct[request], count[request]) for request in total}

    def _predict(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the log-probability of each picked token and whether it is the likeliest, shape (picks,) each."""
        device, network = self.model.device, self.model.network
        given: dict[str, Any] = {}
        if batch.visible is not None and batch.positions is not None:
            # Additive, for every attention implementation takes that.
            hidden = torch.zeros(batch.visible.shape, dtype=network.dtype)
            hidden.masked_fill_(~batch.visible, torch.finfo(network.dtype).min)
            given = {"attention_mask": hidden.to(device), "position_ids": batch.positions.to(device)}
        logits = network(batch.ids.to(device), logits_to_keep=batch.keep.to(device), use_cache=False, **given).logits
        logits = logits.reshape(-1, logits.shape[-1]).float()
        kept, tokens = batch.kept.to(device), batch.tokens.to(device)
        chosen = logits[kept, tokens] - torch.logsumexp(logits, dim=-1)[kept]
        return chosen.double().cpu(), (logits.argmax(dim=-1)[kept] == tokens).cpu()

    @property
    def _filler(self) -> int:
        return int(self.model.tokenizer.pad_token_id or 0)

    @property
    def _window(self) -> int | None:
        """Longest row that all layers' attention spans."""
        window = getattr(self.model.network.config.get_text_config(), "sliding_window", None)
        return int(window) if window else None

    def _contexts_can_be_shared(self, requests: Sequence[Request], rows: Sequence[TokenRow]) -> bool:
        """Try on the model itself whether targets beside each other score as they do alone."""
        branched = [row for row in rows if row.branched]
        members = sorted({pick.request for row in branched[:2] for pick in row.picks})[:TRIED]
        tried = [requests[i] for i in members]
        found = []
        for share in (False, True):
            batches = make_batches(lay_out(tried, share_contexts=share), self.max_batch_tokens, self._filler)
            try:
                found.append(self.score(batches, ()))
            except torch.OutOfMemoryError:
                raise
            except (TypeError, ValueError, RuntimeError, IndexError):
                return False
        close = SAME.get(self.model.network.dtype, 0.3)
        apart = [abs(found[0][i].log_likelihood - found[1][i].log_likelihood) for i in found[0]]
        return max(apart) <= close
