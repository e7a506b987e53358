"""The faithfulness job: do forecasts survive another seed and a little noise?"""

from stratoscope.pipelines.faithfulness.config import FaithfulnessConfig
from stratoscope.pipelines.faithfulness.run import FaithfulnessJob

__all__ = ["FaithfulnessConfig", "FaithfulnessJob"]
