"""The scoring job: which layers of a language model matter least, by the statistics of their activations."""

from typing import TYPE_CHECKING

from stratoscope.lazy import exports

if TYPE_CHECKING:
    from stratoscope.pipelines.score.config import ScoreConfig
    from stratoscope.pipelines.score.run import ScoreJob

__all__ = ["ScoreConfig", "ScoreJob"]

__getattr__ = exports(__name__)
