"""The result of a definition of EAVSS: how well the layers that it flags separate answers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DefinitionOutcome:
    """The result of a candidate on one data set."""

    dataset: str
    """Name of the data set."""
    auroc: float
    """Area under the ROC curve of the flagged layers on held-out questions."""
    ci_low: float
    """Lower end of its interval."""
    ci_high: float
    """Upper end of its interval."""
    random: float
    """Mean area of random sets of as many layers."""
    over_random: float
    """Difference of the two."""
    over_random_low: float
    """Lower end of its interval."""
    over_random_high: float
    """Upper end of its interval."""
    detectable: float | None
    """Difference that data of this size would detect in four of five cases; null where no fold flags a layer, or random
    sets are the same layers."""
    share_of_random_below: float
    """Share of the random sets with a smaller area."""
    num_layers: float
    """Mean number of flagged layers over folds."""
    flagged_layers: tuple[int, ...]
    """Layers flagged on all questions of the data set."""
    epsilon: float
    """Sparsity threshold as applied."""
