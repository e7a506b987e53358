"""The configuration classes of all jobs and their sections, for the functions of this package.

from stratoscope import config, score

score(config.ScoreConfig(prompts=config.PromptsSection(source="sciq", limit=64)))
"""

from stratoscope.pipelines.audit.config import (
    AuditConfig,
    DestinationsSection,
    ForecasterEntry,
    ModelEntry,
    RegressionThresholdsSection,
    ResourcesSection,
    ScheduleSection,
)
from stratoscope.pipelines.faithfulness.config import (
    FaithfulnessConfig,
    FaithfulSection,
    FitSection,
    GridSection,
    SeriesSection,
    TimeSieveSection,
    VerdictSection,
    WorstSection,
)
from stratoscope.pipelines.hallucination.config import (
    ContrastsSection,
    GenerationSection,
    HallucinationConfig,
    PairsSection,
    ReadingsSection,
    SeparationSection,
)
from stratoscope.pipelines.mitigation.config import (
    DropsSection,
    FlagsSection,
    HeldOutSection,
    KeepSection,
    MitigationConfig,
    ObjectiveSection,
    ParametersSection,
    SamplesSection,
    TextsSection,
    TrainSection,
    TuneSection,
)
from stratoscope.pipelines.score.config import (
    ActivationsSection,
    PromptsSection,
    ScoreConfig,
    ScoresSection,
    StatisticsSection,
)
from stratoscope.pipelines.search.config import SearchConfig, SearchSection, TrackingSection
from stratoscope.pipelines.search.eavss.config import DefinitionSearchSection
from stratoscope.pipelines.search.pruning.config import EvaluatorsSection, FinalSection, SpaceSection, TasksSection
from stratoscope.pipelines.sharded.config import ActorsSection, BatchingSection, ModelSection

__all__ = [
    "ActivationsSection",
    "ActorsSection",
    "AuditConfig",
    "BatchingSection",
    "ContrastsSection",
    "DefinitionSearchSection",
    "DestinationsSection",
    "DropsSection",
    "EvaluatorsSection",
    "FaithfulSection",
    "FaithfulnessConfig",
    "FinalSection",
    "FitSection",
    "FlagsSection",
    "ForecasterEntry",
    "GenerationSection",
    "GridSection",
    "HallucinationConfig",
    "HeldOutSection",
    "KeepSection",
    "MitigationConfig",
    "ModelEntry",
    "ModelSection",
    "ObjectiveSection",
    "PairsSection",
    "ParametersSection",
    "PromptsSection",
    "ReadingsSection",
    "RegressionThresholdsSection",
    "ResourcesSection",
    "SamplesSection",
    "ScheduleSection",
    "ScoreConfig",
    "ScoresSection",
    "SearchConfig",
    "SearchSection",
    "SeparationSection",
    "SeriesSection",
    "SpaceSection",
    "StatisticsSection",
    "TasksSection",
    "TextsSection",
    "TimeSieveSection",
    "TrackingSection",
    "TrainSection",
    "TuneSection",
    "VerdictSection",
    "WorstSection",
]
