"""The candidates of the search for EAVSS thresholds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from stratoscope.pipelines.search.eavss.config import DefinitionSearchSection
from stratoscope.scoring import AnswerView, EpsilonKind, Part, VarianceKind

if TYPE_CHECKING:
    from optuna.trial import Trial


@dataclass(frozen=True)
class DefinitionCandidate:
    """One way to flag layers."""

    definition: str
    tap: str
    part: Part
    variance: VarianceKind
    threshold: int
    """Of sparsity: its place among the section's."""
    propensity: float
    level: float

    @property
    def view(self) -> AnswerView:
        """How it looks at answers."""
        return AnswerView(self.part, self.variance, self.threshold)


@dataclass(frozen=True)
class DefinitionSpace:
    """All candidates. An instance is what Optuna's define-by-run search calls."""

    section: DefinitionSearchSection
    taps: tuple[str, ...]

    def __call__(self, trial: "Trial") -> None:
        """Suggest a candidate."""
        for name, values in self._choices().items():
            trial.suggest_categorical(name, values)

    def candidate(self, config: Mapping[str, Any]) -> DefinitionCandidate:
        """Return the candidate of a suggestion."""
        return DefinitionCandidate(**{name: config[name] for name in self._choices()})

    def grid(self) -> Iterator[DefinitionCandidate]:
        """Yield every candidate once."""
        for values in product(*self._choices().values()):
            yield DefinitionCandidate(*values)

    def config(self, candidate: DefinitionCandidate) -> dict[str, Any]:
        """Return the suggestion that means a candidate."""
        return {name: getattr(candidate, name) for name in self._choices()}

    def starting_points(self) -> list[DefinitionCandidate]:
        """Return each definition's first choice at each tap."""
        first: dict[tuple[str, str], DefinitionCandidate] = {}
        for candidate in self.grid():
            first.setdefault((candidate.definition, candidate.tap), candidate)
        return list(first.values())

    @property
    def epsilons(self) -> list[tuple[EpsilonKind, float]]:
        """Kind and value of the sparsity thresholds."""
        absolute: list[tuple[EpsilonKind, float]] = [("absolute", value) for value in self.section.epsilons]
        return absolute + [("quantile", value) for value in self.section.quantiles]

    def _choices(self) -> dict[str, Sequence[Any]]:
        s = self.section
        return {
            "definition": list(s.definitions),
            "tap": list(self.taps),
            "part": list(s.parts),
            "variance": list(s.variance),
            "threshold": list(range(len(self.epsilons))),
            "propensity": list(s.propensities),
            "level": list(s.levels),
        }
