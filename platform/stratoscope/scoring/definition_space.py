"""The space of ways to flag layers: definition of EAVSS, tap, part, variance, sparsity threshold, propensity, level."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from stratoscope.scoring.answers import AnswerView, Part
from stratoscope.scoring.measures import EpsilonKind, VarianceKind

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
    """Index of the sparsity threshold in the space."""
    propensity: float
    level: float

    @property
    def view(self) -> AnswerView:
        """The view of the answers that the candidate reads."""
        return AnswerView(self.part, self.variance, self.threshold)


@dataclass(frozen=True)
class DefinitionSpace:
    """All candidates. Optuna calls an instance as its define-by-run search space."""

    definitions: tuple[str, ...]
    taps: tuple[str, ...]
    parts: tuple[Part, ...]
    variances: tuple[VarianceKind, ...]
    epsilons: tuple[tuple[EpsilonKind, float], ...]
    """Kind and value of each sparsity threshold."""
    propensities: tuple[float, ...]
    levels: tuple[float, ...]

    def __call__(self, trial: "Trial") -> None:
        """Suggest a candidate."""
        for name, choices in self._choices().items():
            trial.suggest_categorical(name, choices)

    def candidate(self, config: Mapping[str, Any]) -> DefinitionCandidate:
        """Return the candidate that a suggestion stands for."""
        return DefinitionCandidate(**{name: config[name] for name in self._choices()})

    def config(self, candidate: DefinitionCandidate) -> dict[str, Any]:
        """Return the suggestion that stands for a candidate."""
        return {name: getattr(candidate, name) for name in self._choices()}

    def grid(self) -> Iterator[DefinitionCandidate]:
        """Yield every candidate once."""
        for values in product(*self._choices().values()):
            yield DefinitionCandidate(*values)

    def starting_points(self) -> list[DefinitionCandidate]:
        """Return the first candidate of each definition at each tap."""
        first: dict[tuple[str, str], DefinitionCandidate] = {}
        for candidate in self.grid():
            first.setdefault((candidate.definition, candidate.tap), candidate)
        return list(first.values())

    def _choices(self) -> dict[str, Sequence[Any]]:
        return {
            "definition": self.definitions,
            "tap": self.taps,
            "part": self.parts,
            "variance": self.variances,
            "threshold": list(range(len(self.epsilons))),
            "propensity": self.propensities,
            "level": self.levels,
        }
