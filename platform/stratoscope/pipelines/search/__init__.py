"""The search job: which layers a language model can do without."""

from stratoscope.pipelines.search.config import SearchConfig
from stratoscope.pipelines.search.run import SearchJob

__all__ = ["SearchConfig", "SearchJob"]
