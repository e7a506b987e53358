"""The tables of a search with target eavss."""

from dataclasses import dataclass
from typing import Literal

from stratoscope.results import Int32, TableRow
from stratoscope.scoring.definition_outcome import DefinitionOutcome


@dataclass(frozen=True)
class DefinitionTrialRow(TableRow):
    """One row per trial, in order. Areas are means over the data sets that trials are compared on."""

    trial_id: str
    """Number of the trial."""
    target: str
    """Target of the search, eavss."""
    origin: str
    """Origin of the trial: starting point, tpe or grid."""
    tap: str
    """Tap whose activations were read."""
    metric: str
    """Definition of EAVSS."""
    part: str
    """Part of an answer: answer, last or change."""
    variance: str
    """Kind of variance."""
    epsilon_kind: str
    """Kind of the sparsity threshold, absolute or quantile."""
    epsilon: float
    """Sparsity threshold as applied; as requested where the trial failed."""
    propensity: float
    """Propensity above which a layer is flagged."""
    level: float
    """Significance level that a flagged layer passes."""
    objective: float | None
    """Objective of the search, which is maximised."""
    auroc: float | None
    """Area under the ROC curve of the flagged layers."""
    random: float | None
    """Mean area of random sets of as many layers."""
    over_random: float | None
    """Difference of the two."""
    num_layers: float | None
    """Mean number of flagged layers."""
    seconds: float | None
    """Duration of the trial."""
    status: str
    """done or error."""
    error: str | None
    """Error message of a failed trial."""


@dataclass(frozen=True)
class DefinitionOutcomeRow(DefinitionOutcome, TableRow):
    """One row per trial and data set."""

    flagged_layers: tuple[Int32, ...]
    """Layers flagged on all questions of the data set."""
    trial_id: str
    """Number of the trial."""
    role: Literal["chosen_on", "confirmed_on"]
    """Role of the data set: chosen_on for those that trials are compared on, confirmed_on for those they never use."""


TABLES: dict[str, type[TableRow]] = {
    "trials": DefinitionTrialRow,
    "outcomes": DefinitionOutcomeRow,
    "front": DefinitionTrialRow,
}
