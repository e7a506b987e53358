"""The search job: layers that a model can do without (`pruning`), or what flags layers best (`eavss`)."""

from stratoscope.pipelines.search.config import SearchConfig
from stratoscope.pipelines.search.targets import Search

__all__ = ["Search", "SearchConfig"]
