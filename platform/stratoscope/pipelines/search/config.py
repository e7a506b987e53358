"""The configuration of the search job: the fields that both targets share, and the sections of each."""

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, field_validator, model_validator

from stratoscope.pipelines.runtime.config import NOT_IN_IDENTITY, ConfigSection, JobConfig
from stratoscope.pipelines.runtime.demand import Demand
from stratoscope.pipelines.runtime.validators import (
    Count,
    CountOrZero,
    Draws,
    FractionOrOne,
    NotNegative,
    Place,
    Workers,
)
from stratoscope.pipelines.score.config import PromptsSection
from stratoscope.pipelines.search.eavss.config import DefinitionSearchSection
from stratoscope.pipelines.search.pruning.config import EvaluatorsSection, FinalSection, SpaceSection, TasksSection
from stratoscope.pipelines.sharded.config import ActorsSection, ModelSection
from stratoscope.pruning import Objective, StrategyName

if TYPE_CHECKING:
    from ray.tune import Callback


class SearchSection(ConfigSection):
    """How the space is searched."""

    algorithm: Literal["tpe", "nsga2", "grid", "greedy", StrategyName] = "nsga2"
    """Over scores: tpe, one objective, with ASHA; nsga2, retention against size; grid, every combination. Over sets of
    layers: greedy, layer by layer; greedy_from_scores, the same from a score's set; surrogate, a regression proposes
    sets; swap and double_swap, exchanges of one (then two) or two layers; beam, several sets at once; random. Measured:
    over 128 items of each task swap found the best set at a quarter of the layers; over 16, no search over sets did."""
    num_samples: Draws = 24
    """Trials of tpe and nsga2, starting points included, or evaluations of a search over sets, for each ratio (greedy
    has as many as it needs). Equal sets of layers are evaluated once."""
    starting_points: bool = True
    """Begin with each metric's first candidate at each ratio, so that the report can compare metrics."""
    objective: Objective = "retention_raw"
    """Objective to improve: a retention, averaged over tasks; bits_per_byte of language-model text; likelihood, the
    share of the right answers' probability that is kept, per byte for text; mixed, the mean of retention_raw and it."""
    keep: FractionOrOne = 0.9
    """Retention to reach: with several ratios, tpe and the final choice prefer the largest set that reaches it."""
    rungs: list[FractionOrOne] = Field([0.25, 0.5, 1.0], min_length=1)
    """Increasing shares of the items, up to 1: ASHA may stop a trial after each, a search over sets uses the first."""
    finalists: Count = 4
    """Best sets of each ratio that a search over sets evaluates on all items; of greedy's, all are."""
    beam_width: Count = 2
    """Number of sets that a beam extends at once."""
    swaps: CountOrZero = 0
    """Swaps of a dropped layer for a retained one that are tried on the best set, in a seeded order."""
    concurrency: Workers | None = None
    """Concurrent trials; null is one per evaluator. With one, the search is deterministic."""
    cache_gb: NotNegative = Field(2.0, json_schema_extra=NOT_IN_IDENTITY)
    """Memory of each evaluator for stored hidden states that candidates start from."""

    def demand(self, name: str) -> Demand | None:
        """Return the memory for hidden states, where it is given."""
        given = "cache_gb" in self.model_fields_set
        return Demand({"memory": 1e9 * self.cache_gb}, {"memory": f"{name}.cache_gb"}) if given else None

    @field_validator("rungs")
    @classmethod
    def _check_rungs(cls, values: list[float]) -> list[float]:
        if values != sorted(set(values)) or values[0] <= 0 or values[-1] != 1:
            raise ValueError("rungs must rise from above 0 to 1")
        return values


class TrackingSection(ConfigSection):
    """Where trials are logged besides the run folder. TensorBoard files are always in its tune/."""

    mlflow: str | None = None
    """Tracking URI of an MLflow server or folder; needs the package mlflow."""
    mlflow_experiment: str = "stratoscope"
    """Name of the MLflow experiment."""

    def to_callbacks(self, run_id: str) -> "list[Callback]":
        """Return the callbacks of Ray Tune that log the trials of a run."""
        from stratoscope.execution import mlflow_callback

        return [mlflow_callback(self.mlflow, self.mlflow_experiment, run_id)] if self.mlflow else []


class SearchConfig(JobConfig):
    """Find layers that a language model can do without, validate the result on held-out items, and export the model."""

    target: Literal["pruning", "eavss"] = "pruning"
    """pruning: layers to drop; eavss: how to flag hallucinating layers, from a hallucination run's statistics."""
    statistics: Place | None = None
    """Finished score run, or hallucination run for target eavss: folder, URL or run_id; null computes the former."""
    model: ModelSection = ModelSection()
    """The model to prune."""
    prompts: PromptsSection = PromptsSection()
    """Calibration prompts, used where no statistics are given; task items that are among them are excluded."""
    space: SpaceSection = SpaceSection()
    """The search space of target pruning."""
    evaluation: TasksSection = TasksSection()
    """The tasks that every candidate is evaluated on."""
    search: SearchSection = SearchSection()
    """How the space is searched."""
    final: FinalSection = FinalSection()
    """What happens to the front after the search."""
    thresholds: DefinitionSearchSection = DefinitionSearchSection()
    """The search space of target eavss."""
    evaluators: EvaluatorsSection = Field(EvaluatorsSection(), json_schema_extra=NOT_IN_IDENTITY)
    """The actors that evaluate candidates."""
    actors: ActorsSection = Field(ActorsSection(), json_schema_extra=NOT_IN_IDENTITY)
    """The actors that compute statistics where none are given."""
    tracking: TrackingSection = Field(TrackingSection(), json_schema_extra=NOT_IN_IDENTITY)
    """Where trials are logged besides the run folder."""

    @model_validator(mode="after")
    def _check_objective(self) -> Self:
        search = self.search
        if search.algorithm == "tpe" and len(self.space.ratios) > 1 and search.objective == "bits_per_byte":
            raise ValueError("search.objective bits_per_byte with tpe needs a single ratio: nothing says what to keep")
        return self
