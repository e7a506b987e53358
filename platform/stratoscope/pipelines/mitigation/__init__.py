"""The mitigation job."""

from stratoscope.pipelines.mitigation.config import MitigationConfig
from stratoscope.pipelines.mitigation.run import MitigationJob

__all__ = ["MitigationConfig", "MitigationJob"]
