"""The mitigation job."""

from typing import TYPE_CHECKING

from stratoscope.lazy import exports

if TYPE_CHECKING:
    from stratoscope.pipelines.mitigation.config import MitigationConfig
    from stratoscope.pipelines.mitigation.run import MitigationJob

__all__ = ["MitigationConfig", "MitigationJob"]

__getattr__ = exports(__name__)
