"""The search job: layers that a model can do without (`pruning`), or the best settings to flag layers (`eavss`)."""

from typing import TYPE_CHECKING

from stratoscope.lazy import exports

if TYPE_CHECKING:
    from stratoscope.pipelines.search.config import SearchConfig
    from stratoscope.pipelines.search.targets import Search

__all__ = ["Search", "SearchConfig"]

__getattr__ = exports(__name__)
