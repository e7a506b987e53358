"""Stratoscope looks into the strata of trained models, in batch and at scale, on Ray."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stratoscope.api import (
        AuditRun,
        FaithfulnessRun,
        HallucinationRun,
        MitigationRun,
        Run,
        ScoreRun,
        SearchRun,
        audit,
        faithfulness,
        hallucination,
        mitigate,
        score,
        search,
    )

__all__ = [
    "AuditRun",
    "FaithfulnessRun",
    "HallucinationRun",
    "MitigationRun",
    "Run",
    "ScoreRun",
    "SearchRun",
    "audit",
    "faithfulness",
    "hallucination",
    "mitigate",
    "score",
    "search",
]


def __getattr__(name: str) -> Any:
    """Import the jobs when they are first used: the domain packages work on machines without Ray."""
    if name in __all__:
        from stratoscope import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
