"""Tables and page sections on groups of prompts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table as TerminalTable

from stratoscope.pipelines.reporting.formatting import number_text
from stratoscope.pipelines.score.read_scores import ScoredLayers, read_scorings
from stratoscope.results import PageSection, Run, Table
from stratoscope.scoring import lowest, num_dropped
from stratoscope.statistics import spearman

MAX_GROUPS = {"terminal": 12, "page": 100}
"""Maximum number of groups that are shown. The largest groups come first."""


@dataclass(frozen=True)
class _GroupScoring:
    """One scoring of one group of prompts."""

    group: str
    size: str
    scoring: ScoredLayers
    correlation: float
    """Rank correlation of its layer scores with those of all prompts."""

    def cells(self, count: int) -> list[str]:
        """Return a row of a table, with the `count` lowest layers."""
        return [
            self.group,
            self.size,
            self.scoring.label,
            " ".join(map(str, lowest(self.scoring.rank, count))),
            number_text(self.scoring.scoring.split_half, ".2f"),
            number_text(self.correlation, "+.2f"),
        ]


HEADER = ("group", "prompts", "score", "lowest layers", "split-half", "correlation with all")


def group_tables(run: Run) -> Iterator[TerminalTable]:
    """Yield a table of the groups of prompts, if there are several."""
    groups = _groups(run)
    if len(groups) < 2:
        return
    shown = groups[: MAX_GROUPS["terminal"]]
    table = TerminalTable(title=_title(len(groups), len(shown)), title_justify="left")
    for name in HEADER:
        table.add_column(name, justify="left" if name in ("group", "score", "lowest layers") else "right")
    for row in _rows(run, shown, list(read_scorings(run))):
        table.add_row(*row)
    yield table


def group_sections(run: Run, scorings: Sequence[ScoredLayers]) -> Iterator[PageSection]:
    """Yield a section on the groups of prompts, if there are several.

    Args:
        run: a finished score run.
        scorings: its scorings of all prompts.
    """
    groups = _groups(run)
    if len(groups) < 2:
        return
    shown = groups[: MAX_GROUPS["page"]]
    text = (
        f"{_title(len(groups), len(shown))}. The metric is the first one; the table layer_scores has all metrics of "
        "all groups. The correlation is that of the ranks of layers with those of all prompts."
    )
    yield PageSection("Groups", [text], [], [Table(HEADER, _rows(run, shown, scorings))])


def group_correlations(run: Run, scoring: ScoredLayers) -> dict[str, float]:
    """Return each group's rank correlation of layers with that of all prompts; empty for a single group.

    Args:
        run: a finished score run.
        scoring: the scoring of all prompts to compare with, at its tap and metric.
    """
    groups = _groups(run)[: MAX_GROUPS["page"]]
    return {
        each.group: each.correlation for group in groups for each in _scorings(run, group, [scoring]) if len(groups) > 1
    }


def _groups(run: Run) -> list[str]:
    """Return the groups, the largest first; runs of older versions do not name them."""
    sizes = run.manifest.facts.get("groups", {})
    return sorted(sizes, key=lambda group: (-sizes[group], group))


def _title(num_groups: int, num_shown: int) -> str:
    column = "Groups of prompts"
    return column if num_shown == num_groups else f"{column}: the largest {num_shown} of {num_groups}"


def _rows(run: Run, groups: Sequence[str], scorings: Sequence[ScoredLayers]) -> list[list[str]]:
    count = num_dropped(run.manifest.config["scores"]["ratio"], len(scorings[0].rank))
    return [scoring.cells(count) for group in groups for scoring in _scorings(run, group, scorings)]


def _scorings(run: Run, group: str, scorings: Sequence[ScoredLayers]) -> Iterator[_GroupScoring]:
    """Yield the scorings of a group by the first metric."""
    size = f"{run.manifest.facts['groups'][group]:,}"
    by_label = {scoring.label: scoring for scoring in scorings}
    for scoring in read_scorings(run, group):
        if scoring.scoring.metric == scorings[0].scoring.metric and scoring.label in by_label:
            yield _GroupScoring(group, size, scoring, _correlation(scoring, by_label[scoring.label]))


def _correlation(group: ScoredLayers, whole: ScoredLayers) -> float:
    """Return the rank correlation over the layers that have a score in both; NaN where it is not defined.

    Layers without a score all rank last, which would count as agreement.
    """
    scored = np.isfinite(group.score) & np.isfinite(whole.score)
    return spearman(group.score[scored], whole.score[scored]) if scored.sum() > 1 else float("nan")
