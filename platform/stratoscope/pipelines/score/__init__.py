"""The scoring job: which layers of a language model matter least, by the statistics of their activations."""

from stratoscope.pipelines.score.config import ScoreConfig
from stratoscope.pipelines.score.run import ScoreJob

__all__ = ["ScoreConfig", "ScoreJob"]
