"""The hallucination job: which layers of a language model react to wrong answers, and how far that can be trusted."""

from typing import TYPE_CHECKING

from stratoscope.lazy import exports

if TYPE_CHECKING:
    from stratoscope.pipelines.hallucination.config import HallucinationConfig
    from stratoscope.pipelines.hallucination.run import HallucinationJob

__all__ = ["HallucinationConfig", "HallucinationJob"]

__getattr__ = exports(__name__)
