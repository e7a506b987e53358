"""Layout of requests in rows of tokens, with each shared context computed once.

A request asks for the likelihood of a target after a context. All targets of one context fit into one row: the context,
then each target without its last token, from which nothing is predicted. A target attends to the context and to itself
only, by a four-dimensional mask, and its positions continue from the context. Where at most one target of a context is
longer than a token, the usual causal mask is equivalent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stratoscope.models import PositionScaling, bucket, pad

NO_SCALING = PositionScaling()
"""Scaling of positions that is the same for all lengths."""
MOST_BRANCHES = 4
"""Most target tokens in one row, as a multiple of the context; beyond it, attention costs more than sharing saves."""


@dataclass(frozen=True)
class Request:
    """Token ids of a context, which is not empty, and of the target after it."""

    context: tuple[int, ...]
    target: tuple[int, ...]


@dataclass(frozen=True)
class TargetPosition:
    """One prediction of a target token."""

    place: int
    """Position in the row that predicts the token."""
    token: int
    request: int


@dataclass(frozen=True)
class TokenRow:
    """Tokens of one context and its targets, computed together."""

    ids: tuple[int, ...]
    context: int
    """Length of the context, which all targets attend to."""
    branches: tuple[int, ...]
    """Length of each target's part, in order; with one or none the causal mask suffices."""
    picks: tuple[TargetPosition, ...]

    @property
    def branched(self) -> bool:
        """Whether the row has several targets that must not attend to each other."""
        return len(self.branches) > 1

    @property
    def num_positions(self) -> int:
        """Number of positions of the context and its longest target."""
        return self.context + max(self.branches, default=0)


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows as a model takes them, and their predictions, in order of rows and places."""

    ids: torch.Tensor
    """Shape (rows, longest)."""
    positions: torch.Tensor | None
    """Same shape; None where they count from 0."""
    visible: torch.Tensor | None
    """Shape (rows, 1, longest, longest), true where the first place attends to the second; None where causal."""
    keep: torch.Tensor
    """Same shape as `ids`, true where predictions are needed."""
    kept: torch.Tensor
    """Number of each pick among the places of `keep`, shape (picks,)."""
    tokens: torch.Tensor
    """The target tokens, shape (picks,)."""
    requests: tuple[int, ...]
    """Number of the request of each target token."""

    @property
    def num_tokens(self) -> int:
        """Tokens, padding included."""
        return self.ids.numel()


def lay_out(
    requests: Sequence[Request],
    *,
    share_contexts: bool,
    longest_shared: int | None = None,
    scaling: PositionScaling = NO_SCALING,
) -> list[TokenRow]:
    """Lay requests out as rows.

    Args:
        requests: what to score.
        share_contexts: put targets of one context into one row; otherwise each that has several tokens gets its own.
        longest_shared: longest row with several targets, for models with a sliding window; None is unlimited.
        scaling: of the model's positions; requests that it separates do not share a row.
    """
    by_context: dict[tuple[tuple[int, ...], int], list[int]] = {}
    for index, request in enumerate(requests):
        length = len(request.context) + len(request.target) - 1
        by_context.setdefault((request.context, scaling.class_of(length)), []).append(index)
    rows: list[TokenRow] = []
    for (context, _), members in by_context.items():
        most = MOST_BRANCHES * len(context) if share_contexts else 0
        if longest_shared is not None:
            most = min(most, longest_shared - len(context))
        for group in _groups(members, [len(request.target) - 1 for request in requests], most):
            rows.append(_row(context, group, requests))
    return rows


def _groups(members: Sequence[int], lengths: Sequence[int], most: int) -> list[list[int]]:
    """Divide requests of one context among rows: at most `most` tokens of targets each, or a single target."""
    groups: list[list[int]] = [[]]
    used = 0
    for index in members:
        if used and lengths[index] and used + lengths[index] > most:
            groups.append([])
            used = 0
        groups[-1].append(index)
        used += lengths[index]
    return groups


def _row(context: tuple[int, ...], members: Sequence[int], requests: Sequence[Request]) -> TokenRow:
    ids, branches, picks = list(context), [], []
    for index in members:
        target = requests[index].target
        picks.append(TargetPosition(len(context) - 1, target[0], index))
        picks += [TargetPosition(len(ids) + step, token, index) for step, token in enumerate(target[1:])]
        ids += target[:-1]
        if len(target) > 1:
            branches.append(len(target) - 1)
    return TokenRow(tuple(ids), len(context), tuple(branches), tuple(sorted(picks, key=lambda p: p.place)))


def make_batches(
    rows: Sequence[TokenRow],
    max_tokens: int,
    filler: int,
    max_padding: float,
    scaling: PositionScaling = NO_SCALING,
) -> list[Batch]:
    """Group rows of similar length into batches; branched rows and plain ones are kept apart.

    Args:
        rows: in any order.
        max_tokens: largest number of tokens in a batch, padding included.
        filler: padding token id.
        max_padding: largest share of padding in a batch.
        scaling: of the model's positions; rows that it separates do not share a batch.
    """
    batches = []
    for branched in (False, True):
        candidates = [row for row in rows if row.branched == branched]
        lengths = [len(row.ids) for row in candidates]
        classes = scaling.classes(row.num_positions for row in candidates)
        for members in bucket(lengths, max_tokens, max_padding, classes=classes):
            batches.append(_batch([candidates[i] for i in members], filler))
    return batches


def _batch(rows: Sequence[TokenRow], filler: int) -> Batch:
    ids, mask = pad([row.ids for row in rows], filler)
    keep = torch.zeros_like(mask, dtype=torch.bool)
    kept, picks, number = [], [], -1
    for index, row in enumerate(rows):
        last = -1
        for pick in row.picks:
            number += pick.place != last
            last = pick.place
            keep[index, pick.place] = True
            kept.append(number)
            picks.append(pick)
    branched = rows[0].branched
    return Batch(
        ids=ids,
        positions=_positions(rows, ids.shape[1]) if branched else None,
        visible=_visible(rows, ids.shape[1]) if branched else None,
        keep=keep,
        kept=torch.tensor(kept),
        tokens=torch.tensor([pick.token for pick in picks]),
        requests=tuple(pick.request for pick in picks),
    )


def _positions(rows: Sequence[TokenRow], longest: int) -> torch.Tensor:
    positions = torch.zeros(len(rows), longest, dtype=torch.long)
    for index, row in enumerate(rows):
        counts = [*range(row.context), *(row.context + step for length in row.branches for step in range(length))]
        positions[index, : len(counts)] = torch.tensor(counts)
    return positions


def _visible(rows: Sequence[TokenRow], longest: int) -> torch.Tensor:
    # The context is group 0, each target a group of its own; padding attends to itself, so that its softmax is defined.
    group = torch.full((len(rows), longest), -1)
    for index, row in enumerate(rows):
        sizes = torch.tensor([row.context, *row.branches])
        group[index, : len(row.ids)] = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    same = group[:, :, None] == group[:, None, :]
    context = (group == 0)[:, None, :] & (group >= 0)[:, :, None]
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    return ((same | context) & causal)[:, None]
