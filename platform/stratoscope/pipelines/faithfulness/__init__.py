"""The faithfulness job: do forecasts survive another seed and a little noise?"""

from typing import TYPE_CHECKING

from stratoscope.lazy import exports

if TYPE_CHECKING:
    from stratoscope.pipelines.faithfulness.config import FaithfulnessConfig
    from stratoscope.pipelines.faithfulness.run import FaithfulnessJob

__all__ = ["FaithfulnessConfig", "FaithfulnessJob"]

__getattr__ = exports(__name__)
